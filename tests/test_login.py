"""Login with an email address and a password."""

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import update

import auth
from auth import hash_password, verify_access_token, verify_password
from models import User
from tests.conftest import PASSWORD, create_test_user

EMAIL = "ada@example.com"


@pytest.fixture(autouse=True)
async def account(client: AsyncClient) -> None:
    await create_test_user(client, email="Ada@example.com")


async def log_in(
    client: AsyncClient, email: str = EMAIL, password: str = PASSWORD, **fields: str
) -> Response:
    form = {"username": email, "password": password, **fields}
    return await client.post("/api/users/token", data=form)


class TestLogin:
    async def test_success(self, client):
        response = await log_in(client)

        token = response.json()["access_token"]
        user = (await client.get("/api/users")).json()[0]
        assert response.status_code == 200
        assert response.json() == {"access_token": token, "token_type": "bearer"}
        assert verify_access_token(token) == str(user["id"])

    async def test_email_in_another_form(self, client):
        await create_test_user(client, "eve", "eve@xn--exmple-cua.com")

        response = await log_in(client, " EVE@EX\xc4MPLE.com ")

        assert response.status_code == 200

    async def test_older_email_address(self, client, db):
        await db.execute(update(User).values(email="müller@example.com"))
        await db.commit()

        response = await log_in(client, "Müller@example.com")

        assert response.status_code == 200

    async def test_other_oauth2_fields(self, client):
        response = await log_in(
            client, grant_type="password", scope="a b", client_id="", client_secret="c"
        )

        assert response.status_code == 200

    @pytest.mark.parametrize(
        ("email", "password"),
        [
            (EMAIL, f" {PASSWORD}"),
            (EMAIL, "x" * 10_000),
            ("eve@example.com", PASSWORD),
            ("ada", PASSWORD),
            ("a" * 10_000, PASSWORD),
        ],
        ids=range(5),
    )
    async def test_wrong_credentials(self, client, email, password):
        response = await log_in(client, email, password)

        assert response.status_code == 401
        assert response.json() == {"detail": "Incorrect email or password"}
        assert response.headers["WWW-Authenticate"] == "Bearer"

    async def test_unknown_email_looks_like_wrong_password(self, client):
        wrong = await log_in(client, password="wrong")
        unknown = await log_in(client, "eve@example.com")

        assert unknown.content == wrong.content
        assert unknown.headers.raw == wrong.headers.raw

    @pytest.mark.parametrize("email", [EMAIL, "eve@example.com", "ada"])
    async def test_one_hash_is_verified(self, client, monkeypatch, email):
        hashes: list[str] = []

        def verify(password: str, stored: str) -> bool:
            hashes.append(stored)
            return verify_password(password, stored)

        monkeypatch.setattr(auth, "verify_password", verify)

        await log_in(client, email, "wrong")

        # With equal parameters and lengths, verification takes the same time.
        [stored] = hashes
        expected = hash_password("x")
        assert stored.rsplit("$", 2)[0] == expected.rsplit("$", 2)[0]
        assert len(stored) == len(expected)
