"""The users API. Other files test logins, passwords and pictures."""

from typing import Any

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import delete, func, select

import account_deletion
from config import settings
from models import PasswordResetToken, Post, User
from routers.users import commit_user
from templating import environment, render_fragment
from tests.conftest import (
    PASSWORD,
    as_listed,
    create_post,
    create_test_user,
    get_current_user,
    list_objects,
    upload_picture,
)

PAGES = ("/", "/login", "/register")
NAME_TAKEN = {"detail": "Username already exists"}
EMAIL_TAKEN = {"detail": "Email already registered"}


async def sign_up(client: AsyncClient, **fields: Any) -> Response:
    user_in = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}
    return await client.post("/api/users", json={**user_in, **fields})


class TestSignUp:
    async def test_success(self, client):
        response = await sign_up(client, username="Eve", email="Eve@Example.com")

        user = response.json()
        assert response.status_code == 201
        assert response.headers["Location"] == f"/api/users/{user['id']}"
        assert user == {
            "id": user["id"],
            "username": "Eve",
            "email": "eve@example.com",
            "image_file": None,
            "image_path": "/static/profile_pics/default.jpg",
            "bio": "",
        }

    async def test_other_fields_are_ignored(self, client):
        response = await sign_up(client, id=0, is_admin=True, image_file="x.jpg")

        assert response.status_code == 201
        assert response.json()["id"] != 0
        assert response.json()["image_file"] is None

    async def test_email_is_taken(self, client, ada):
        response = await sign_up(client, email="ADA@example.COM")

        assert (response.status_code, response.json()) == (400, EMAIL_TAKEN)

    @pytest.mark.parametrize(
        ("taken", "name", "status"),
        [
            ("Ada", " aDA ", 400),
            ("É", "e\u0301", 400),
            ("Al ice", "Ａｌ\u200d  ice", 400),
            ("ada", "äda", 201),
            ("a_a", "aba", 201),
            ("a b", "ab", 201),
        ],
        ids=ascii,
    )
    async def test_similar_name(self, client, taken, name, status):
        await create_test_user(client, taken)

        response = await sign_up(client, username=name)

        assert response.status_code == status
        assert (response.json() == NAME_TAKEN) == (status == 400)

    async def test_name_and_email_are_taken(self, client, ada, bob):
        response = await sign_up(client, username="bob", email="ada@example.com")

        assert (response.status_code, response.json()) == (400, NAME_TAKEN)


class TestClosedRegistration:
    @pytest.mark.parametrize("username", ["ada", ""])
    async def test_api(self, client, monkeypatch, username):
        monkeypatch.setattr(settings, "registration_open", False)

        response = await sign_up(client, username=username)

        assert response.status_code == 403
        assert response.json() == {"detail": "Registration is closed"}

    async def test_pages(self, client, monkeypatch):
        monkeypatch.setitem(environment.globals, "registration_open", False)
        monkeypatch.setitem(environment.globals, "fragment", render_fragment)

        pages = {path: (await client.get(path)).text for path in PAGES}

        assert "Registration is closed" in pages["/register"]
        assert "data-register " not in pages["/register"]
        assert all('href="/register"' not in page for page in pages.values())


class TestListUsers:
    async def test_no_users(self, client):
        response = await client.get("/api/users")

        assert response.status_code == 404
        assert response.json() == {"detail": "Users not found"}

    @pytest.mark.parametrize(
        ("query", "names", "link"),
        [
            ("", ["zoe", "ada", "mia"], None),
            ("?limit=2", ["zoe", "ada"], '</api/users?skip=2&limit=2>; rel="next"'),
            ("?skip=1&limit=1", ["ada"], '</api/users?skip=2&limit=1>; rel="next"'),
            ("?skip=3", [], None),
        ],
    )
    async def test_page(self, client, query, names, link):
        for name in ("zoe", "ada", "mia"):
            await create_test_user(client, name, f"{name}@example.com")

        response = await client.get(f"/api/users{query}")

        assert response.status_code == 200
        assert [user["username"] for user in response.json()] == names
        assert response.headers.get("Link") == link


class TestReadUser:
    async def test_public_fields(self, client, ada, user_path):
        user = await get_current_user(client, ada)
        del user["email"]

        response, listed = await client.get(user_path), await client.get("/api/users")

        assert response.status_code == 200
        assert response.json() == user
        assert listed.json() == [user]

    @pytest.mark.parametrize("user_id", ["0", "2147483647", "9" * 30])
    @pytest.mark.parametrize("path", ["/api/users/{}", "/api/users/{}/posts"])
    async def test_not_found(self, client, path, user_id):
        response = await client.get(path.format(user_id))

        assert response.status_code == 404
        assert response.json() == {"detail": "User not found"}

    async def test_current_user(self, client, ada, bob):
        response = await client.get("/api/users/me", headers=bob)

        assert response.status_code == 200
        assert response.json()["username"] == "bob"
        assert response.json()["email"] == "bob@example.com"
        assert response.headers["Cache-Control"] == "no-store"

    async def test_posts(self, client, ada, bob, user_path):
        posts = [await create_post(client, ada) for _ in range(2)]
        await create_post(client, bob)

        response = await client.get(f"{user_path}/posts")

        assert response.status_code == 200
        assert response.json()["posts"] == [*map(as_listed, posts[::-1])]
        assert response.json()["total"] == 2


class TestUpdateUser:
    @pytest.mark.parametrize(
        ("user_in", "changed"),
        [
            ({"username": " Lady "}, {"username": "Lady"}),
            ({"email": "Ada@Example.ORG"}, {"email": "ada@example.org"}),
            ({"username": "ADA", "email": None}, {"username": "ADA"}),
            ({"username": None, "email": "ADA@example.com"}, {}),
            ({"bio": " Engines "}, {"bio": "Engines"}),
            ({"id": 7, "image_file": "x.jpg"}, {}),
        ],
    )
    async def test_success(self, client, ada, user_path, user_in, changed):
        user = await get_current_user(client, ada)

        response = await client.patch(user_path, json=user_in, headers=ada)

        assert response.status_code == 200
        assert response.json() == {**user, **changed}
        assert response.json() == await get_current_user(client, ada)

    @pytest.mark.parametrize(("change", "bio"), [(None, "Engines"), ("", "")])
    async def test_remove_bio(self, client, ada, user_path, change, bio):
        await client.patch(user_path, json={"bio": "Engines"}, headers=ada)

        await client.patch(user_path, json={"bio": change}, headers=ada)

        assert (await client.get(user_path)).json()["bio"] == bio

    @pytest.mark.parametrize(
        ("user_in", "error"),
        [
            ({"username": "BOB"}, NAME_TAKEN),
            ({"email": "Bob@example.com"}, EMAIL_TAKEN),
            ({"username": "bob", "email": "bob@example.com"}, NAME_TAKEN),
        ],
    )
    async def test_taken(self, client, ada, bob, user_path, user_in, error):
        user = await get_current_user(client, ada)

        response = await client.patch(user_path, json=user_in, headers=ada)

        assert (response.status_code, response.json()) == (400, error)
        assert await get_current_user(client, ada) == user

    async def test_deleted_during_update(self, client, ada, user_path, db, monkeypatch):
        async def delete_and_commit(*arguments: Any, **options: Any) -> None:
            await db.execute(delete(User))
            await db.commit()
            await commit_user(*arguments, **options)

        monkeypatch.setattr("routers.users.commit_user", delete_and_commit)

        response = await client.patch(user_path, json={"bio": "-"}, headers=ada)

        assert response.status_code == 401
        assert response.json() == {"detail": "Invalid or expired token"}

    async def test_old_name_becomes_available(self, client, ada, user_path):
        await client.patch(user_path, json={"username": "lady"}, headers=ada)

        response = await sign_up(client, username="ada")

        assert response.status_code == 201


class TestDeleteUser:
    async def test_everything_is_deleted(self, client, ada, user_path, db, bucket):
        await create_post(client, ada)
        await upload_picture(client, ada)
        email = {"email": "ada@example.com"}
        await client.post("/api/users/forgot-password", json=email)

        response = await client.delete(user_path, headers=ada)

        rows = [
            await db.scalar(select(func.count(model.id)))
            for model in (User, Post, PasswordResetToken)
        ]
        assert (response.status_code, response.content) == (204, b"")
        assert rows == [0, 0, 0]
        assert list_objects(bucket) == []

    async def test_many_posts(self, client, ada, user_path, monkeypatch):
        monkeypatch.setattr(account_deletion, "BATCH_SIZE", 1)
        post = await create_post(client, ada)
        await create_post(client, ada)

        response = await client.delete(user_path, headers=ada)

        assert response.status_code == 204
        assert (await client.get(f"/api/posts/{post['id']}")).status_code == 404
