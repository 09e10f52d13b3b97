"""The number of SQL statements per endpoint and page, for any amount of content."""

from io import BytesIO

import pytest
from httpx import AsyncClient
from PIL import Image

from tests.conftest import PASSWORD, capture_queries, create_post, get_user_id

LOGIN = {"username": "ada@example.com", "password": PASSWORD}
POST = {"title": "T", "content": "C"}


@pytest.fixture
async def places(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> dict[str, int]:
    """Return the ids of a post and its author, to fill into paths, among others."""
    posts = [await create_post(client, author) for author in (bob, bob, ada, ada, ada)]
    return {"post": posts[-1]["id"], "user": posts[-1]["user_id"]}


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/api/posts", 1),
        ("/api/posts?limit=2&skip=1", 1),
        # Past the end, no row has the total.
        ("/api/posts?skip=100", 2),
        ("/api/posts/{post}", 1),
        ("/api/users", 1),
        ("/api/users?limit=1", 1),
        ("/api/users/{user}", 1),
        ("/api/users/{user}/posts", 2),
        ("/health", 1),
        ("/", 1),
        ("/site/posts", 1),
        ("/posts/{post}", 1),
        ("/users/{user}/posts", 2),
        ("/login", 0),
        ("/register", 0),
        ("/account", 0),
        ("/forgot-password", 0),
        ("/reset-password", 0),
        ("/nothing", 0),
        ("/posts/0", 1),
    ],
)
async def test_number_of_statements_to_read(
    client: AsyncClient, places: dict[str, int], path: str, number: int
) -> None:
    with capture_queries() as statements:
        await client.get(path.format(**places))

    assert len(statements) == number, statements


async def test_number_of_statements_to_read_current_user(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    with capture_queries() as statements:
        response = await client.get("/api/users/me", headers=ada)

    assert response.status_code == 200
    assert len(statements) == 1, statements


async def test_number_of_statements_ignores_list_size(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    [await create_post(client, author) for author in [ada, bob] * 10]

    with capture_queries() as statements:
        response = await client.get("/api/posts", params={"limit": 100})

    assert len(response.json()["posts"]) == 20
    assert len(statements) == 1, statements


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "number"),
    [
        # The current user; the row, locked if it changes; the change.
        ("POST", "/api/posts", {"json": POST}, 201, 2),
        ("PUT", "/api/posts/{post}", {"json": POST}, 200, 3),
        ("PATCH", "/api/posts/{post}", {"json": POST}, 200, 3),
        ("PATCH", "/api/posts/{post}", {"json": {}}, 200, 2),
        ("DELETE", "/api/posts/{post}", {}, 204, 3),
        ("PATCH", "/api/users/{user}", {"json": {"username": "a"}}, 200, 2),
        ("PATCH", "/api/users/{user}", {"json": {}}, 200, 1),
        # Tokens sent to the old email address are deleted.
        ("PATCH", "/api/users/{user}", {"json": {"email": "a@b.example"}}, 200, 3),
        # The posts before the user.
        ("DELETE", "/api/users/{user}", {}, 204, 3),
        ("DELETE", "/api/users/{user}/picture", {}, 400, 2),
        (
            "PATCH",
            "/api/users/me/password",
            {"json": {"current_password": PASSWORD, "new_password": "12345678"}},
            200,
            4,
        ),
    ],
)
async def test_number_of_statements_to_write(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    method: str,
    path: str,
    body: dict[str, object],
    status: int,
    number: int,
) -> None:
    with capture_queries() as statements:
        response = await client.request(
            method,
            path.format(**places),
            headers=ada,
            **body,  # type: ignore[arg-type]
        )

    assert response.status_code == status
    assert len(statements) == number, statements


@pytest.mark.parametrize(
    ("path", "body", "status", "number"),
    [
        ("/api/users", {"json": {**LOGIN, "email": "new@example.com"}}, 201, 2),
        ("/api/users/token", {"data": LOGIN}, 200, 1),
        ("/api/users/token", {"data": {**LOGIN, "password": "wrong"}}, 401, 1),
        (
            "/api/users/forgot-password",
            {"json": {"email": "nobody@example.com"}},
            202,
            4,
        ),
        (
            "/api/users/reset-password",
            {"json": {"token": "t", "new_password": "12345678"}},
            400,
            1,
        ),
    ],
)
async def test_number_of_statements_without_login(
    client: AsyncClient,
    ada: dict[str, str],
    path: str,
    body: dict[str, object],
    status: int,
    number: int,
) -> None:
    with capture_queries() as statements:
        response = await client.post(path, **body)  # type: ignore[arg-type]

    assert response.status_code == status
    assert len(statements) == number, statements


async def test_number_of_statements_to_reset_password(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str] = []

    async def note(*, token: str, **_mail: str) -> None:
        tokens.append(token)

    monkeypatch.setattr("routers.users.send_password_reset_email", note)

    with capture_queries() as asking:
        await client.post(
            "/api/users/forgot-password", json={"email": "ada@example.com"}
        )
    with capture_queries() as resetting:
        response = await client.post(
            "/api/users/reset-password",
            json={"token": tokens[0], "new_password": "12345678"},
        )

    assert response.status_code == 200
    # Look up, lock, delete old tokens, add a new one.
    assert len(asking) == 4, asking
    # Look up, lock, use the token, set the password, delete all other tokens.
    assert len(resetting) == 5, resetting


async def test_number_of_statements_to_upload_picture(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    output = BytesIO()
    Image.new("RGB", (30, 30)).save(output, "PNG")
    path = f"/api/users/{await get_user_id(client, ada)}/picture"

    with capture_queries() as statements:
        response = await client.patch(
            path, files={"file": ("a.png", output.getvalue())}, headers=ada
        )

    assert response.status_code == 200
    # The current user, schedule deletion, lock, cancel deletion, update.
    assert len(statements) == 5, statements
