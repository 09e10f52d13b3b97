"""Passwords in different Unicode forms, and of spaces."""

import unicodedata

import pytest
from httpx import AsyncClient
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from auth import hash_password, password_hash, verify_password
from models import User
from tests.conftest import create_test_user, login_user

PASSWORD = "Käsebröte im Dönerladen"
FORMS = [unicodedata.normalize(form, PASSWORD) for form in ("NFC", "NFD")]


@pytest.mark.parametrize("typed", FORMS, ids=["NFC", "NFD"])
@pytest.mark.parametrize("chosen", FORMS, ids=["NFC", "NFD"])
class TestUnicodeForms:
    async def test_login(self, client: AsyncClient, chosen: str, typed: str) -> None:
        await create_test_user(client, password=chosen)

        assert await login_user(client, password=typed)

    async def test_change(self, client: AsyncClient, chosen: str, typed: str) -> None:
        await create_test_user(client, password=chosen)
        token = await login_user(client, password=chosen)

        response = await client.patch(
            "/api/users/me/password",
            json={"current_password": typed, "new_password": "something else"},
            headers={"Authorization": f"Bearer {token}"},
        )

        assert response.status_code == 200

    def test_hash(self, chosen: str, typed: str) -> None:
        assert verify_password(typed, hash_password(chosen))


async def test_older_hash_of_another_form(
    client: AsyncClient, db: AsyncSession
) -> None:
    await create_test_user(client)
    decomposed = FORMS[1]
    await db.execute(update(User).values(password_hash=password_hash.hash(decomposed)))
    await db.commit()

    assert await login_user(client, password=decomposed)


def test_overlong_password_is_not_normalized() -> None:
    # Normalizing this would take minutes.
    assert not verify_password("a" + "\u0316\u0301" * 500_000, hash_password(PASSWORD))


async def test_length_is_that_of_the_normalized_form(client: AsyncClient) -> None:
    password = unicodedata.normalize("NFD", "ä" * 100)

    await create_test_user(client, password=password)

    assert await login_user(client, password="ä" * 100)


async def test_spaces(client: AsyncClient) -> None:
    await create_test_user(client, password=" " * 8)

    assert await login_user(client, password=" " * 8)
