"""Races between concurrent requests. `--stress` sends more, in a hundred rounds."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from httpx import AsyncClient, Response
from PIL import Image
from sqlalchemy import func, select

import database
from auth import hash_reset_token
from database import AsyncSessionLocal, engine
from models import IdempotencyKey, PasswordResetToken, Post, User, utcnow
from tests.conftest import (
    PASSWORD,
    Headers,
    Json,
    auth_header,
    create_post,
    get_user_id,
    list_objects,
    login_user,
    sign_up,
)

Outcome = tuple[int, str]
# The path and headers of each user.
Users = list[tuple[str, Headers]]

NAME_TAKEN = (400, "Username already exists")
EMAIL_TAKEN = (400, "Email already registered")
LOGGED_OUT = (401, "Invalid or expired token")
POST_NOT_FOUND = (404, "Post not found")
POST_MODIFIED = (412, "The post has been modified since you last read it")
POST = {"title": "T", "content": "C"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rounds = 100 if metafunc.config.getoption("--stress") else 1
    metafunc.parametrize("round_number", range(1, rounds + 1), indirect=True)


@pytest.fixture(autouse=True)
def round_number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def crowd(stress: bool) -> int:
    """Return the number of concurrent requests."""
    return 50 if stress else 12


@pytest.fixture(scope="module", autouse=True)
async def long_timeouts() -> AsyncIterator[None]:
    """Wait longer for locks and connections, because a 503 would hide a race."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "STATEMENT_TIMEOUT", 60.0)
        patch.setattr(engine.pool, "_timeout", 60)
        # Replace the pool. The new pool inherits `_timeout`.
        await engine.dispose()
        yield
    engine.pool._timeout = database.POOL_TIMEOUT  # type: ignore[attr-defined]
    await engine.dispose()


@pytest.fixture
def client(concurrent_client: AsyncClient) -> AsyncClient:
    return concurrent_client


@pytest.fixture
def post_path(post: Json) -> str:
    return f"/api/posts/{post['id']}"


async def at_once(
    number: int,
    request: Callable[[int], Awaitable[Response]],
    *others: Awaitable[Response],
) -> list[Response]:
    """Send similar requests and others concurrently, and return all responses."""
    return await asyncio.gather(*map(request, range(number)), *others)


def outcomes(responses: list[Response]) -> Counter[Outcome]:
    """Count the responses by status and, for errors, `detail`."""
    return Counter(
        (response.status_code, response.json()["detail"] if response.is_error else "")
        for response in responses
    )


def winner_of(responses: list[Response]) -> int:
    """Return the index of the only successful response."""
    (index,) = [i for i, response in enumerate(responses) if response.is_success]
    return index


async def count(model: type[Any]) -> int:
    """Return how many rows a table has."""
    async with AsyncSessionLocal() as session:
        return await session.scalar(select(func.count(model.id))) or 0


async def usernames() -> list[str]:
    async with AsyncSessionLocal() as session:
        return list(await session.scalars(select(User.username).order_by(User.id)))


async def store_reset_token(user_id: int) -> None:
    async with AsyncSessionLocal() as session:
        session.add(
            PasswordResetToken(
                user_id=user_id,
                token_hash=hash_reset_token("a token"),
                expires_at=utcnow() + timedelta(hours=1),
            )
        )
        await session.commit()


async def upload(client: AsyncClient, headers: Headers, user_id: int) -> Response:
    picture = BytesIO()
    Image.new("RGB", (30, 30)).save(picture, "PNG")
    files = {"file": ("me.png", picture.getvalue())}
    path = f"/api/users/{user_id}/picture"
    return await client.patch(path, files=files, headers=headers)


async def publish(client: AsyncClient, headers: Headers, key: str = "") -> Response:
    condition = {"Idempotency-Key": key} if key else {}
    return await client.post("/api/posts", json=POST, headers=headers | condition)


class TestUniqueness:
    @pytest.fixture
    async def users(self, client: AsyncClient) -> Users:
        """Return the paths and headers of `user0` to `user5`."""
        people = [await sign_up(client, f"user{n}") for n in range(6)]
        ids = [await get_user_id(client, headers) for headers in people]
        return [
            (f"/api/users/{i}", person) for i, person in zip(ids, people, strict=True)
        ]

    @pytest.mark.parametrize(
        ("name", "email", "error"),
        [
            ("ada", "{n}@example.com", NAME_TAKEN),
            ("{e}va", "{n}@example.com", NAME_TAKEN),
            ("ada{n}", "ada@example.com", EMAIL_TAKEN),
        ],
    )
    async def test_one_user_signs_up(self, client, crowd, name, email, error):
        names = [name.format(n=n, e="Éé"[n % 2]) for n in range(crowd)]
        emails = [email.format(n=n) for n in range(crowd)]

        responses = await at_once(
            crowd,
            lambda n: client.post(
                "/api/users",
                json={"username": names[n], "email": emails[n], "password": PASSWORD},
            ),
        )

        assert outcomes(responses) == {(201, ""): 1, error: crowd - 1}
        assert await usernames() == [names[winner_of(responses)]]

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            ({"username": "countess"}, NAME_TAKEN),
            ({"email": "countess@example.com"}, EMAIL_TAKEN),
        ],
    )
    async def test_one_user_updates(self, client, users, body, error):
        responses = await at_once(
            6, lambda n: client.patch(users[n][0], json=body, headers=users[n][1])
        )

        assert outcomes(responses) == {(200, ""): 1, error: 5}

    async def test_users_swap_names(self, client, users):
        responses = await at_once(
            6,
            lambda n: client.patch(
                users[n][0], json={"username": f"user{n ^ 1}"}, headers=users[n][1]
            ),
        )

        assert outcomes(responses) == {NAME_TAKEN: 6}
        assert await usernames() == [f"user{n}" for n in range(6)]


class TestPassword:
    @pytest.fixture(autouse=True)
    def no_email(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def send(**_: str) -> None:
            pass

        monkeypatch.setattr("routers.users.send_password_reset_email", send)
        monkeypatch.setattr("routers.users.MAX_EMAIL_DELAY", 0)

    def change(
        self, client: AsyncClient, headers: Headers, new_password: str
    ) -> Awaitable[Response]:
        passwords = {"current_password": PASSWORD, "new_password": new_password}
        return client.patch("/api/users/me/password", json=passwords, headers=headers)

    def reset(self, client: AsyncClient, new_password: str) -> Awaitable[Response]:
        body = {"token": "a token", "new_password": new_password}
        return client.post("/api/users/reset-password", json=body)

    async def test_one_reset_wins(self, client, user_id, crowd):
        await store_reset_token(user_id)

        responses = await at_once(crowd, lambda n: self.reset(client, f"password {n}"))

        error = (400, "Invalid or expired reset token")
        assert outcomes(responses) == {(200, ""): 1, error: crowd - 1}
        password = f"password {winner_of(responses)}"
        assert await login_user(client, "ada@example.com", password)

    async def test_one_change_wins(self, client, ada, crowd):
        responses = await at_once(
            crowd, lambda n: self.change(client, ada, f"password {n}")
        )

        winner = winner_of(responses)
        token = responses[winner].json()["access_token"]
        assert await login_user(client, "ada@example.com", f"password {winner}")
        assert await get_user_id(client, auth_header(token))
        assert {response.status_code for response in responses} <= {200, 400, 401}

    async def test_reset_or_change_wins(self, client, ada, user_id, crowd):
        await store_reset_token(user_id)
        changes = [self.change(client, ada, f"change {n}") for n in range(crowd)]

        responses = await at_once(
            crowd, lambda n: self.reset(client, f"password {n}"), *changes
        )

        winner = winner_of(responses)
        password = (
            f"password {winner}" if winner < crowd else f"change {winner - crowd}"
        )
        assert await login_user(client, "ada@example.com", password)
        assert await count(PasswordResetToken) == 0

    async def test_reset_requests(self, client, ada, crowd):
        email = {"email": "ada@example.com"}

        responses = await at_once(
            crowd, lambda _: client.post("/api/users/forgot-password", json=email)
        )

        assert outcomes(responses) == {(202, ""): crowd}
        assert await count(PasswordResetToken) == 1


class TestPicture:
    @pytest.mark.parametrize("removals", [0, 6])
    async def test_only_the_last_is_stored(
        self, client, ada, user_id, bucket, crowd, removals
    ):
        path = f"/api/users/{user_id}/picture"

        responses = await at_once(
            crowd // 2,
            lambda _: upload(client, ada, user_id),
            *(client.delete(path, headers=ada) for _ in range(removals)),
        )

        user = (await client.get("/api/users/me", headers=ada)).json()
        stored = {key.removeprefix("profile_pics/") for key in list_objects(bucket)}
        assert stored == {user["image_file"]} - {None}
        assert {response.status_code for response in responses} <= {200, 400}

    async def test_deleted_user_leaves_no_picture(
        self, client, ada, user_id, bucket, crowd
    ):
        path = f"/api/users/{user_id}"

        *others, deletion = await at_once(
            crowd // 2,
            lambda _: upload(client, ada, user_id),
            client.delete(f"{path}/picture", headers=ada),
            client.delete(path, headers=ada),
        )

        assert deletion.status_code == 204
        assert {response.status_code for response in others} <= {200, 400, 401}
        assert list_objects(bucket) == []


class TestDeleteUser:
    async def test_one_deletion_wins(self, client, ada, user_id, bucket, crowd):
        await upload(client, ada, user_id)
        await create_post(client, ada)
        await store_reset_token(user_id)
        path = f"/api/users/{user_id}"

        responses = await at_once(crowd, lambda _: client.delete(path, headers=ada))

        assert outcomes(responses) == {(204, ""): 1, LOGGED_OUT: crowd - 1}
        tables = (User, Post, PasswordResetToken)
        assert [await count(table) for table in tables] == [0, 0, 0]
        assert list_objects(bucket) == []

    async def test_during_updates(self, client, ada, user_path, crowd):
        *updates, deletion = await at_once(
            crowd,
            lambda n: client.patch(user_path, json={"username": f"{n}"}, headers=ada),
            client.delete(user_path, headers=ada),
        )

        assert deletion.status_code == 204
        assert outcomes(updates).keys() <= {(200, ""), LOGGED_OUT}
        assert await count(User) == 0

    @pytest.mark.parametrize("key", ["", "key {}"])
    async def test_during_publication(self, client, ada, user_path, crowd, key):
        *posts, deletion = await at_once(
            crowd,
            lambda n: publish(client, ada, key.format(n % 3)),
            client.delete(user_path, headers=ada),
        )

        assert deletion.status_code == 204
        assert {response.status_code for response in posts} <= {201, 401, 409}
        assert await count(Post) == await count(IdempotencyKey) == 0


class TestPost:
    async def test_one_deletion_wins(self, client, ada, post_path, crowd):
        responses = await at_once(
            crowd, lambda _: client.delete(post_path, headers=ada)
        )

        assert outcomes(responses) == {(204, ""): 1, POST_NOT_FOUND: crowd - 1}

    async def test_deletion_during_updates(self, client, ada, post_path, crowd):
        *updates, deletion = await at_once(
            crowd,
            lambda n: client.patch(post_path, json={"title": f"{n}"}, headers=ada),
            client.delete(post_path, headers=ada),
        )

        assert deletion.status_code == 204
        assert outcomes(updates).keys() <= {(200, ""), POST_NOT_FOUND}

    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    async def test_one_edit_of_a_version_wins(
        self, client, ada, post_path, crowd, method
    ):
        etag = (await client.get(post_path)).headers["ETag"]
        headers = {**ada, "If-Match": etag}

        responses = await at_once(
            crowd,
            lambda n: client.request(
                method, post_path, json={**POST, "title": f"{n}"}, headers=headers
            ),
        )

        assert outcomes(responses) == {(200, ""): 1, POST_MODIFIED: crowd - 1}
        post = (await client.get(post_path)).json()
        assert post["title"] == f"{winner_of(responses)}"

    async def test_idempotency_key_publishes_once(self, client, ada, crowd):
        responses = await at_once(crowd, lambda _: publish(client, ada, "a key"))

        assert len({r.content for r in responses if r.status_code == 201}) == 1
        # A request that waits longer than a second gets a 409.
        assert {response.status_code for response in responses} <= {201, 409}
        assert await count(Post) == await count(IdempotencyKey) == 1
