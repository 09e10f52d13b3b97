"""Users API: accounts, lists, pictures, and password reset emails."""

from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from httpx import AsyncClient
from PIL import Image
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from config import settings
from models import PasswordResetToken, Post, User
from storage import StorageError
from tests.conftest import (
    PASSWORD,
    CountingBody,
    auth_header,
    create_post,
    create_test_user,
    get_user_id,
    list_objects,
    login_user,
)

PHOTO = Path(__file__).with_name("test_image.jpg")
FRAME_BYTES = 64 * 1024
FOREIGN_IDS = ["0", "-1", "2147483647", "2147483648", "1" * 30]


def picture(size: tuple[int, int] = (40, 30)) -> bytes:
    """Create a PNG."""
    output = BytesIO()
    Image.new("RGB", size, "teal").save(output, "PNG")
    return output.getvalue()


async def upload(
    client: AsyncClient, headers: dict[str, str], content: bytes
) -> dict[str, Any]:
    """Upload a picture through the API and return the response's JSON."""
    response = await client.patch(
        f"/api/users/{await get_user_id(client, headers)}/picture",
        files={"file": ("me.png", content)},
        headers=headers,
    )
    assert response.status_code == 200, response.text
    user: dict[str, Any] = response.json()
    return user


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
FILE_START = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
)


# Signing up


async def test_create_user_success(client: AsyncClient) -> None:
    response = await client.post(
        "/api/users",
        json={"username": "Ada", "email": "Ada@Example.com", "password": PASSWORD},
    )

    assert response.status_code == 201
    assert response.json() == {
        "id": response.json()["id"],
        "username": "Ada",
        "email": "ada@example.com",
        "image_file": None,
        "image_path": "/static/profile_pics/default.jpg",
    }


async def test_create_user_validation_error(client: AsyncClient) -> None:
    response = await client.post("/api/users", json={"username": "", "email": "ada"})

    assert response.status_code == 422
    places = [fault["loc"][-1] for fault in response.json()["detail"]]
    assert places == ["username", "email", "password"]


async def test_create_user_duplicate_email(client: AsyncClient) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    response = await client.post(
        "/api/users",
        json={"username": "bob", "email": "ADA@example.COM", "password": PASSWORD},
    )

    assert response.status_code == 400
    assert response.json() == {"detail": "Email already registered"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ada", "ada"),
        ("Ada", "aDA"),
        ("ada", "  ada "),
        ("Émile", "éMILE"),
        ("Ägypten", "ägypten"),
        ("É", "E\u0301"),
        ("Straße", "STRASSE"),
        ("ΣΑΣ", "σας"),
        ("Жук", "жУК"),
    ],
)
async def test_username_is_unique_ignoring_case(
    client: AsyncClient, first: str, second: str
) -> None:
    await create_test_user(client, first, "first@example.com")

    response = await client.post(
        "/api/users",
        json={"username": second, "email": "2@example.com", "password": PASSWORD},
    )

    assert response.status_code == 400
    assert response.json() == {"detail": "Username already exists"}


@pytest.mark.parametrize(
    ("first", "second"), [("ada", "äda"), ("a b", "ab"), ("a_a", "aba"), ("a%", "ab")]
)
async def test_similar_usernames_are_valid(
    client: AsyncClient, first: str, second: str
) -> None:
    await create_test_user(client, first, "first@example.com")

    user = await create_test_user(client, second, "second@example.com")

    assert user["username"] == second


async def test_taken_username_is_reported_before_taken_email(
    client: AsyncClient,
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    response = await client.post(
        "/api/users",
        json={"username": "ADA", "email": "ada@example.com", "password": PASSWORD},
    )

    assert response.status_code == 400
    assert response.json() == {"detail": "Username already exists"}


async def test_username_conflict_is_reported_before_email(
    client: AsyncClient,
) -> None:
    await create_test_user(client, "ada", "ada@example.com")
    await create_test_user(client, "bob", "bob@example.com")

    response = await client.post(
        "/api/users",
        json={"username": "bob", "email": "ada@example.com", "password": PASSWORD},
    )

    assert response.json() == {"detail": "Username already exists"}


async def test_unknown_fields_of_new_user_are_ignored(client: AsyncClient) -> None:
    response = await client.post(
        "/api/users",
        json={
            "username": "ada",
            "email": "ada@example.com",
            "password": PASSWORD,
            "id": 77,
            "is_admin": True,
            "image_file": "x.jpg",
            "token_version": 5,
        },
    )

    assert response.status_code == 201
    assert response.json()["id"] != 77
    assert response.json()["image_file"] is None


async def test_password_is_stored_as_argon2_hash(
    client: AsyncClient, db: AsyncSession
) -> None:
    await create_test_user(client, password="correct horse")

    stored = await db.scalar(select(User.password_hash))

    assert stored is not None
    assert stored.startswith("$argon2id$")
    assert "correct horse" not in stored


# Reading


async def test_empty_user_list_is_not_found(client: AsyncClient) -> None:
    response = await client.get("/api/users")

    assert response.status_code == 404
    assert response.json() == {"detail": "Users not found"}


async def test_user_list_has_public_fields_ordered_by_id(
    client: AsyncClient,
) -> None:
    made = [
        await create_test_user(client, name, f"{name}@example.com")
        for name in ("zoe", "ada", "mia")
    ]

    response = await client.get("/api/users")

    public = [{**user, "email": ...} for user in made]
    assert response.status_code == 200
    assert [{**user, "email": ...} for user in response.json()] == public
    assert all("email" not in user for user in response.json())
    assert "link" not in response.headers


@pytest.mark.parametrize(
    ("query", "names", "link"),
    [
        ("?limit=2", ["zoe", "ada"], '</api/users?skip=2&limit=2>; rel="next"'),
        ("?limit=3", ["zoe", "ada", "mia"], None),
        ("?skip=1&limit=1", ["ada"], '</api/users?skip=2&limit=1>; rel="next"'),
        ("?skip=2", ["mia"], None),
        ("?skip=3", [], None),
        ("?skip=2147483647", [], None),
    ],
)
async def test_user_list_links_to_next_page(
    client: AsyncClient, query: str, names: list[str], link: str | None
) -> None:
    await create_test_user(client, "zoe", "zoe@example.com")
    await create_test_user(client, "ada", "ada@example.com")
    await create_test_user(client, "mia", "mia@example.com")

    response = await client.get(f"/api/users{query}")

    assert response.status_code == 200
    assert [user["username"] for user in response.json()] == names
    assert response.headers.get("link") == link


@pytest.mark.parametrize(
    "query", ["skip=-1", "skip=x", "skip=2147483648", "limit=0", "limit=101"]
)
async def test_user_list_rejects_out_of_range_skip_and_limit(
    client: AsyncClient, query: str
) -> None:
    response = await client.get(f"/api/users?{query}")

    assert response.status_code == 422


async def test_get_user_returns_public_fields(client: AsyncClient) -> None:
    user = await create_test_user(client)

    response = await client.get(f"/api/users/{user['id']}")

    del user["email"]
    assert response.status_code == 200
    assert response.json() == user


@pytest.mark.parametrize("user_id", FOREIGN_IDS)
@pytest.mark.parametrize("path", ["", "/posts"])
async def test_unknown_user_id_is_not_found(
    client: AsyncClient, user_id: str, path: str
) -> None:
    response = await client.get(f"/api/users/{user_id}{path}")

    assert response.status_code == 404
    assert response.json() == {"detail": "User not found"}


@pytest.mark.parametrize("user_id", ["x", "1.5", "me2"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/posts"),
        ("PATCH", ""),
        ("DELETE", ""),
        ("PATCH", "/picture"),
        ("DELETE", "/picture"),
    ],
)
async def test_non_integer_user_id_is_rejected(
    client: AsyncClient, ada: dict[str, str], method: str, path: str, user_id: str
) -> None:
    response = await client.request(method, f"/api/users/{user_id}{path}", headers=ada)

    assert response.status_code == 422
    assert ["path", "user_id"] in [f["loc"] for f in response.json()["detail"]]


async def test_current_user_has_private_fields(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    response = await client.get("/api/users/me", headers=ada)

    assert response.status_code == 200
    assert response.json() == {
        "id": response.json()["id"],
        "username": "ada",
        "email": "ada@example.com",
        "image_file": None,
        "image_path": "/static/profile_pics/default.jpg",
    }


async def test_user_posts_are_theirs_newest_first(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    first = await create_post(client, ada)
    await create_post(client, bob)
    second = await create_post(client, ada)

    response = await client.get(f"/api/users/{await get_user_id(client, ada)}/posts")

    assert response.status_code == 200
    assert response.json() == {
        "posts": [second, first],
        "total": 2,
        "skip": 0,
        "limit": 10,
        "has_more": False,
        "next_cursor": None,
    }


async def test_user_without_posts_has_empty_list(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    response = await client.get(f"/api/users/{await get_user_id(client, ada)}/posts")

    assert response.status_code == 200
    assert (response.json()["posts"], response.json()["total"]) == ([], 0)


# Authorization

CHANGES = [
    ("PATCH", "", "Not authorized to update this user"),
    ("DELETE", "", "Not authorized to delete this user"),
    ("PATCH", "/picture", "Not authorized to update this user's picture"),
    ("DELETE", "/picture", "Not authorized to delete this user's picture"),
]


@pytest.mark.parametrize(("method", "path", "_detail"), CHANGES)
@pytest.mark.parametrize("user_id", ["1", "x"])
async def test_account_change_checks_login_first(
    client: AsyncClient, method: str, path: str, _detail: str, user_id: str
) -> None:
    response = await client.request(
        method, f"/api/users/{user_id}{path}", json={"username": 7}
    )

    assert response.status_code == 401
    assert response.json() == {"detail": "Not authenticated"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "detail"), CHANGES)
async def test_other_account_is_forbidden(
    client: AsyncClient,
    ada: dict[str, str],
    bob: dict[str, str],
    method: str,
    path: str,
    detail: str,
) -> None:
    bobs_id = await get_user_id(client, bob)

    response = await client.request(
        method, f"/api/users/{bobs_id}{path}", json={"username": 7}, headers=ada
    )

    assert response.status_code == 403
    assert response.json() == {"detail": detail}
    assert (await client.get("/api/users/me", headers=bob)).status_code == 200


@pytest.mark.parametrize("user_id", FOREIGN_IDS)
@pytest.mark.parametrize(("method", "path", "detail"), CHANGES)
async def test_nonexistent_account_is_forbidden(
    client: AsyncClient,
    ada: dict[str, str],
    method: str,
    path: str,
    detail: str,
    user_id: str,
) -> None:
    response = await client.request(
        method, f"/api/users/{user_id}{path}", json={"username": 7}, headers=ada
    )

    assert response.status_code == 403
    assert response.json() == {"detail": detail}


# Changing an account


async def test_update_user_changes_username_and_email(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    user = (await client.get("/api/users/me", headers=ada)).json()

    response = await client.patch(
        f"/api/users/{user['id']}",
        json={"username": " Countess ", "email": "Ada@Example.ORG"},
        headers=ada,
    )

    assert response.status_code == 200
    assert response.json() == {
        **user,
        "username": "Countess",
        "email": "ada@example.org",
    }
    me = await client.get("/api/users/me", headers=ada)
    assert me.json() == response.json()


@pytest.mark.parametrize(
    "nothing", [{}, {"username": None, "email": None}, {"id": 7, "is_admin": True}]
)
async def test_update_without_known_fields_changes_nothing(
    client: AsyncClient, ada: dict[str, str], nothing: dict[str, Any]
) -> None:
    user = (await client.get("/api/users/me", headers=ada)).json()

    response = await client.patch(f"/api/users/{user['id']}", json=nothing, headers=ada)

    assert response.status_code == 200
    assert response.json() == user


@pytest.mark.parametrize(
    "changes",
    [{"username": "ADA"}, {"email": "ADA@example.com"}, {"username": "ada"}],
)
async def test_current_username_and_email_are_not_taken(
    client: AsyncClient, ada: dict[str, str], changes: dict[str, str]
) -> None:
    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}", json=changes, headers=ada
    )

    assert response.status_code == 200
    assert response.json()["email"] == "ada@example.com"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"username": "BOB"}, "Username already exists"),
        ({"email": "Bob@example.com"}, "Email already registered"),
        (
            {"username": "bob", "email": "bob@example.com"},
            "Username already exists",
        ),
    ],
)
async def test_taken_username_or_email_is_rejected(
    client: AsyncClient,
    ada: dict[str, str],
    bob: dict[str, str],
    changes: dict[str, str],
    detail: str,
) -> None:
    user = (await client.get("/api/users/me", headers=ada)).json()

    response = await client.patch(f"/api/users/{user['id']}", json=changes, headers=ada)

    assert (response.status_code, response.json()) == (400, {"detail": detail})
    assert (await client.get("/api/users/me", headers=ada)).json() == user


@pytest.mark.parametrize("changes", [{"username": ""}, {"email": "x"}, {"email": ""}])
async def test_update_user_rejects_invalid_input(
    client: AsyncClient, ada: dict[str, str], changes: dict[str, str]
) -> None:
    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}", json=changes, headers=ada
    )

    assert response.status_code == 422


async def test_new_username_is_shown_on_old_posts(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    await client.patch(
        f"/api/users/{post['user_id']}", json={"username": "countess"}, headers=ada
    )

    changed = (await client.get(f"/api/posts/{post['id']}")).json()
    assert changed["author"]["username"] == "countess"


async def test_old_username_becomes_available(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    user_id = await get_user_id(client, ada)
    await client.patch(
        f"/api/users/{user_id}", json={"username": "countess"}, headers=ada
    )

    user = await create_test_user(client, "ada", "other@example.com")

    assert user["username"] == "ada"


# Deleting an account


async def test_delete_user_deletes_posts_tokens_and_picture(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession, bucket: Any
) -> None:
    await create_post(client, ada)
    user = await upload(client, ada, picture())
    await client.post("/api/users/forgot-password", json={"email": user["email"]})

    response = await client.delete(f"/api/users/{user['id']}", headers=ada)

    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"/api/users/{user['id']}")).status_code == 404
    assert await db.scalar(select(func.count(Post.id))) == 0
    assert await db.scalar(select(func.count(PasswordResetToken.id))) == 0
    assert list_objects(bucket) == []


async def test_delete_user_keeps_other_users(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    post = await create_post(client, bob)

    await client.delete(f"/api/users/{await get_user_id(client, ada)}", headers=ada)

    assert (await client.get("/api/posts")).json()["posts"] == [post]
    assert (await client.get("/api/users/me", headers=bob)).status_code == 200


async def test_deleted_username_and_email_are_available(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    await client.delete(f"/api/users/{await get_user_id(client, ada)}", headers=ada)

    await create_test_user(client, "ada", "ada@example.com")

    assert await login_user(client, "ada@example.com")


# Pictures


async def test_upload_profile_picture(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    user_id = await get_user_id(client, ada)
    file = ("me.jpg", PHOTO.read_bytes(), "image/jpeg")

    response = await client.patch(
        f"/api/users/{user_id}/picture", files={"file": file}, headers=ada
    )

    user = response.json()
    key = f"profile_pics/{user['image_file']}"
    assert response.status_code == 200
    assert user.keys() == {"id", "username", "email", "image_file", "image_path"}
    assert user["image_path"] == f"https://test-bucket.s3.us-east-2.amazonaws.com/{key}"
    assert list_objects(bucket) == [key]


async def test_new_picture_replaces_old_one(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    first = await upload(client, ada, picture())

    second = await upload(client, ada, picture())

    assert first["image_file"] != second["image_file"]
    assert list_objects(bucket) == [f"profile_pics/{second['image_file']}"]


@pytest.mark.parametrize(
    "content", [b"", b"no picture", picture()[:60], b"%PDF-1.7"], ids=range(4)
)
async def test_upload_of_other_file_type_is_rejected(
    client: AsyncClient, ada: dict[str, str], bucket: Any, content: bytes
) -> None:
    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        files={"file": ("me.png", content, "image/png")},
        headers=ada,
    )

    assert response.status_code == 400
    assert response.json() == {
        "detail": "Invalid image file. "
        "Please upload a valid image (JPEG, PNG, GIF, WebP)."
    }
    assert list_objects(bucket) == []


@pytest.mark.parametrize(
    ("limit", "shown"), [(5 * 1024**2, "5MB"), (2 * 1024**2, "2MB")]
)
async def test_too_large_file_is_rejected(
    client: AsyncClient,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    shown: str,
) -> None:
    monkeypatch.setattr(settings, "max_upload_size_bytes", limit)

    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        files={"file": ("me.png", bytes(limit + 1))},
        headers=ada,
    )

    assert response.status_code == 400
    assert response.json() == {"detail": f"File too large. Maximum size is {shown}"}


async def test_file_at_size_limit_is_accepted(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture()
    monkeypatch.setattr(settings, "max_upload_size_bytes", len(content))

    user = await upload(client, ada, content)

    assert user["image_file"]


async def test_too_large_upload_is_rejected_while_streaming(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_upload_size_bytes", 10_000)
    body = CountingBody(10_000_000, start=FILE_START)

    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        content=body,
        headers={**ada, **MULTIPART},
    )

    assert response.status_code == 413
    assert response.json() == {"detail": "Request body too large"}
    assert body.read_bytes <= 10_000 + FRAME_BYTES + 4096


async def test_declared_too_large_upload_is_rejected_unread(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    body = CountingBody(10_000_000, start=FILE_START)
    declared = {"Content-Length": str(settings.max_upload_size_bytes + FRAME_BYTES + 1)}

    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        content=body,
        headers={**ada, **MULTIPART, **declared},
    )

    assert response.status_code == 413
    assert body.read_bytes == 0


async def test_anonymous_upload_is_rejected_unread(client: AsyncClient) -> None:
    body = CountingBody(100_000_000, start=FILE_START)

    response = await client.patch(
        "/api/users/1/picture", content=body, headers=MULTIPART
    )

    assert response.status_code == 401
    assert body.read_bytes == 0


@pytest.mark.parametrize("declared", [{}, {"Content-Length": "100000000"}])
async def test_upload_for_another_user_is_rejected_unread(
    client: AsyncClient, ada: dict[str, str], declared: dict[str, str]
) -> None:
    body = CountingBody(100_000_000, start=FILE_START)

    response = await client.patch(
        "/api/users/0/picture", content=body, headers={**ada, **MULTIPART, **declared}
    )

    assert response.status_code == 403
    assert body.read_bytes == 0


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--',
        ),
        (
            "multipart/form-data; boundary=x",
            FILE_START.replace(b'"file"', b'"picture"') + picture() + b"\r\n--x--",
        ),
        ("image/png", picture()),
        ("application/json", b"{}"),
    ],
    ids=range(6),
)
async def test_upload_without_file_is_rejected(
    client: AsyncClient, ada: dict[str, str], content_type: str, body: bytes
) -> None:
    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        content=body,
        headers={**ada, "Content-Type": content_type},
    )

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "file"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", FILE_START + b"\r\n--x\r\n" * 20),
        ("application/x-www-form-urlencoded", b"file=1&" * 20),
    ],
    ids=["no boundary", "nonsense", "parts without a name", "too many fields"],
)
async def test_malformed_upload_is_rejected(
    client: AsyncClient, ada: dict[str, str], content_type: str, body: bytes
) -> None:
    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        content=body,
        headers={**ada, "Content-Type": content_type},
    )

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body"]


async def test_failed_storage_is_unavailable(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: bytes, filename: str) -> None:
        raise StorageError("out of order")

    monkeypatch.setattr("routers.pictures.upload_profile_image", fail)

    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        files={"file": ("me.png", picture())},
        headers=ada,
    )

    assert response.status_code == 503
    assert response.json() == {"detail": "Failed to upload image. Please try again."}
    me = await client.get("/api/users/me", headers=ada)
    assert me.json()["image_file"] is None


async def test_delete_picture_restores_default(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    user = await upload(client, ada, picture())

    response = await client.delete(f"/api/users/{user['id']}/picture", headers=ada)

    assert response.status_code == 200
    assert response.json() == {
        **user,
        "image_file": None,
        "image_path": "/static/profile_pics/default.jpg",
    }
    assert list_objects(bucket) == []


async def test_delete_picture_requires_one(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    response = await client.delete(
        f"/api/users/{await get_user_id(client, ada)}/picture", headers=ada
    )

    assert response.status_code == 400
    assert response.json() == {"detail": "No profile picture to delete"}


# Password reset emails; tests/test_auth.py tests the tokens.


async def test_forgot_password_sends_email(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_password_reset_email", send)
    await create_test_user(client, "ada", "ada@example.com")

    response = await client.post(
        "/api/users/forgot-password", json={"email": "Ada@example.com"}
    )

    assert response.status_code == 202
    mail = send.await_args_list[0].kwargs
    assert mail.keys() == {"to_email", "username", "token"}
    assert (mail["to_email"], mail["username"]) == ("ada@example.com", "ada")
    assert len(mail["token"]) >= 43


async def test_forgot_password_sends_nothing_to_unknown_email(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_password_reset_email", send)

    response = await client.post(
        "/api/users/forgot-password", json={"email": "nobody@example.com"}
    )

    assert response.status_code == 202
    send.assert_not_awaited()


async def test_token_reveals_only_its_user(client: AsyncClient) -> None:
    await create_test_user(client, "ada", "ada@example.com")
    await create_test_user(client, "bob", "bob@example.com")
    token = await login_user(client, "bob@example.com")

    response = await client.get("/api/users/me", headers=auth_header(token))

    assert response.json()["username"] == "bob"
