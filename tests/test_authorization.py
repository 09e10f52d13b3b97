"""Access to every API operation by every kind of caller."""

from typing import Any

import pytest
from httpx import AsyncClient, Response

from database import MAX_ID
from main import app
from tests.conftest import (
    PASSWORD,
    PHOTO,
    Headers,
    Json,
    auth_header,
    create_post,
    get_current_user,
)

POST = {"title": "Another title", "content": "Another text"}
PASSWORDS = {"current_password": PASSWORD, "new_password": "battery staple"}
NEW_USER = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}
LOGIN = {"username": "ada@example.com", "password": PASSWORD}
RESET = {"token": "unknown", "new_password": "battery staple"}

# The expected status of a valid request by ada, and its HTTPX arguments.
PROTECTED: dict[str, tuple[int, Json]] = {
    "GET /api/users/me": (200, {}),
    "POST /api/users/me/token": (200, {}),
    "GET /api/users/me/export": (200, {}),
    "PATCH /api/users/me/password": (200, {"json": PASSWORDS}),
    "PATCH /api/users/{user_id}": (200, {"json": {"username": "lady"}}),
    "DELETE /api/users/{user_id}": (204, {}),
    "PATCH /api/users/{user_id}/picture": (200, {"files": {"file": PHOTO}}),
    "DELETE /api/users/{user_id}/picture": (400, {}),
    "POST /api/posts": (201, {"json": POST}),
    "POST /api/preview": (200, {"json": POST}),
    "PUT /api/posts/{post_id}": (200, {"json": POST}),
    "PATCH /api/posts/{post_id}": (200, {"json": POST}),
    "DELETE /api/posts/{post_id}": (204, {}),
}
PUBLIC: dict[str, tuple[int, Json]] = {
    "POST /api/users": (201, {"json": NEW_USER}),
    "GET /api/users": (200, {}),
    "POST /api/users/token": (200, {"data": LOGIN}),
    "GET /api/users/{user_id}": (200, {}),
    "GET /api/users/{user_id}/posts": (200, {}),
    "POST /api/users/forgot-password": (202, {"json": {"email": "ada@example.com"}}),
    "POST /api/users/reset-password": (400, {"json": RESET}),
    "GET /api/posts": (200, {}),
    "GET /api/posts/{post_id}": (200, {}),
    "GET /health": (200, {}),
    "GET /health/live": (200, {}),
}
FORBIDDEN = {
    name: (403, f"Not authorized to {action}")
    for name, action in {
        "PATCH /api/users/{user_id}": "update this user",
        "DELETE /api/users/{user_id}": "delete this user",
        "PATCH /api/users/{user_id}/picture": "update this user's picture",
        "DELETE /api/users/{user_id}/picture": "delete this user's picture",
        "PUT /api/posts/{post_id}": "update this post",
        "PATCH /api/posts/{post_id}": "update this post",
        "DELETE /api/posts/{post_id}": "delete this post",
    }.items()
}
# A 403 hides which users exist. Posts are public, so a 404 reveals nothing.
MISSING = {
    name: (404, "Post not found") if "post_id" in name else FORBIDDEN[name]
    for name in FORBIDDEN
}


async def call(
    client: AsyncClient, name: str, post: Json, headers: Headers | None, **changes: Any
) -> Response:
    """Call an operation on a post or its author, by default with a valid request."""
    method, path = name.split()
    _, request = {**PROTECTED, **PUBLIC}[name]
    path = path.format(user_id=post["user_id"], post_id=post["id"])
    return await client.request(method, path, headers=headers, **(changes or request))


def error(response: Response) -> tuple[int, str]:
    return response.status_code, response.json()["detail"]


def test_every_operation_is_listed():
    operations = {
        f"{method.upper()} {path}": operation
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    }
    protected = {name for name in operations if "security" in operations[name]}

    assert protected == PROTECTED.keys()
    assert operations.keys() - protected == PUBLIC.keys()


@pytest.mark.parametrize("name", PUBLIC)
async def test_public_operation_ignores_token(client, post, name):
    response = await call(client, name, post, auth_header("invalid"))

    assert response.status_code == PUBLIC[name][0]


@pytest.mark.parametrize("name", PROTECTED)
class TestProtectedOperation:
    @pytest.mark.parametrize(
        ("headers", "detail"),
        [
            ({}, "Not authenticated"),
            ({"Authorization": "Basic YTpi"}, "Not authenticated"),
            (auth_header("invalid"), "Invalid or expired token"),
        ],
        ids=["anonymous", "other scheme", "invalid token"],
    )
    async def test_no_valid_token(self, client, name, headers, detail):
        ids = {"id": 1, "user_id": 1}

        response = await call(client, name, ids, headers, json=["invalid"])

        assert error(response) == (401, detail)
        assert response.headers["WWW-Authenticate"] == "Bearer"

    async def test_revoked_token(self, client, ada, post, name):
        await client.patch("/api/users/me/password", json=PASSWORDS, headers=ada)

        response = await call(client, name, post, ada)

        assert error(response) == (401, "Invalid or expired token")

    async def test_own_data(self, client, ada, bob, post, name):
        before = await get_current_user(client, bob), await create_post(client, bob)

        response = await call(client, name, post, ada)

        others = (await client.get(f"/api/posts/{before[1]['id']}")).json()
        assert response.status_code == PROTECTED[name][0]
        assert (await get_current_user(client, bob), others) == before


class TestForbiddenOperation:
    @pytest.mark.parametrize("name", FORBIDDEN)
    async def test_another_users_data(self, client, ada, bob, post, name):
        user = await get_current_user(client, ada)

        response = await call(client, name, post, bob)

        assert error(response) == FORBIDDEN[name]
        assert await get_current_user(client, ada) == user
        assert (await client.get(f"/api/posts/{post['id']}")).json() == post

    @pytest.mark.parametrize("missing_id", [0, MAX_ID + 1, 10**30])
    @pytest.mark.parametrize("name", FORBIDDEN)
    async def test_missing(self, client, ada, name, missing_id):
        missing = {"id": missing_id, "user_id": missing_id}

        response = await call(client, name, missing, ada, json=["invalid"])

        assert error(response) == MISSING[name]


class TestOrderOfChecks:
    @pytest.mark.parametrize(
        "name", [name for name in FORBIDDEN if not name.startswith("DELETE")]
    )
    async def test_invalid_body_comes_last(self, client, ada, bob, post, name):
        responses = [
            await call(client, name, post, headers, json=["invalid"])
            for headers in (bob, ada)
        ]

        assert [response.status_code for response in responses] == [403, 422]

    @pytest.mark.parametrize("name", FORBIDDEN)
    async def test_token_comes_before_invalid_id(self, client, ada, name):
        ids = {"id": "1.5", "user_id": "1.5"}

        responses = [await call(client, name, ids, caller) for caller in (None, ada)]

        assert [response.status_code for response in responses] == [401, 422]
