"""Password changes and password resets."""

import unicodedata
from datetime import timedelta
from unittest.mock import AsyncMock, Mock

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import select, update

from auth import hash_password, hash_reset_token, password_hasher, verify_password
from database import DatabaseUnavailable
from executors import QueueFull
from models import PasswordResetToken, User, utcnow
from tests.conftest import (
    PASSWORD,
    Headers,
    auth_header,
    create_test_user,
    get_user_id,
    login_user,
)

EMAIL = "ada@example.com"
NEW_PASSWORD = "battery staple"
CHANGE = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
INVALID_TOKEN = {"detail": "Invalid or expired token"}
INVALID_RESET_TOKEN = {"detail": "Invalid or expired reset token"}


@pytest.fixture(autouse=True)
def send(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """Replace the function that sends reset emails."""
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_password_reset_email", send)
    monkeypatch.setattr("routers.users.MAX_EMAIL_DELAY", 0)
    return send


@pytest.fixture
async def token(client: AsyncClient, ada: Headers, send: AsyncMock) -> str:
    """Return a reset token for ada."""
    return await request_token(client, send)


async def forget(client: AsyncClient, email: str = EMAIL) -> Response:
    return await client.post("/api/users/forgot-password", json={"email": email})


async def request_token(
    client: AsyncClient, send: AsyncMock, email: str = EMAIL
) -> str:
    await forget(client, email)
    token: str = send.await_args_list[-1].kwargs["token"]
    return token


async def reset(
    client: AsyncClient, token: str, password: str = NEW_PASSWORD
) -> Response:
    body = {"token": token, "new_password": password}
    return await client.post("/api/users/reset-password", json=body)


async def change(client: AsyncClient, headers: Headers, **passwords: str) -> Response:
    return await client.patch(
        "/api/users/me/password", json={**CHANGE, **passwords}, headers=headers
    )


async def log_in(client: AsyncClient, password: str) -> Response:
    form = {"username": EMAIL, "password": password}
    return await client.post("/api/users/token", data=form)


class TestForgotPassword:
    async def test_email(self, client, send):
        await create_test_user(client)

        response = await forget(client, " Ada@example.com ")

        token = send.await_args_list[0].kwargs["token"]
        assert response.status_code == 202
        send.assert_awaited_once_with(to_email=EMAIL, username="ada", token=token)

    async def test_unknown_email(self, client, ada, send):
        known = await forget(client)

        unknown = await forget(client, "eve@example.com")

        assert (unknown.status_code, unknown.content) == (202, known.content)
        assert unknown.headers.raw == known.headers.raw
        assert send.await_count == 1

    async def test_only_hash_is_stored(self, client, ada, send, db):
        before = utcnow()

        token = await request_token(client, send)

        stored = (await db.scalars(select(PasswordResetToken))).one()
        assert stored.token_hash == hash_reset_token(token)
        assert before <= stored.expires_at - timedelta(minutes=60) <= utcnow()

    async def test_new_token_replaces_old_one(self, client, token, send):
        new_token = await request_token(client, send)

        assert (await reset(client, token)).json() == INVALID_RESET_TOKEN
        assert (await reset(client, new_token)).status_code == 200


async def test_deactivated_user_gets_no_reset_email(client, ada, db):
    await db.execute(update(User).values(is_active=False))
    await db.commit()

    await client.post("/api/users/forgot-password", json={"email": EMAIL})

    assert await db.scalar(select(PasswordResetToken.id)) is None


async def test_database_fails_after_response(client, ada, monkeypatch, caplog):
    failure = AsyncMock(side_effect=DatabaseUnavailable)
    monkeypatch.setattr("routers.users.replace_reset_token", failure)

    response = await forget(client)

    assert response.status_code == 202
    assert caplog.messages == ["Reset token not created: DatabaseUnavailable"]


class TestResetPassword:
    async def test_success(self, client, token):
        response = await reset(client, token)

        assert response.status_code == 200
        assert response.json() == {
            "message": "Password reset successfully. "
            "You can now log in with your new password."
        }
        assert (await log_in(client, NEW_PASSWORD)).status_code == 200
        assert (await log_in(client, PASSWORD)).status_code == 401

    async def test_sessions_end(self, client, ada, token):
        await reset(client, token)

        response = await client.get("/api/users/me", headers=ada)
        assert (response.status_code, response.json()) == (401, INVALID_TOKEN)

    async def test_token_works_once(self, client, token):
        await reset(client, token)

        response = await reset(client, token)

        assert (response.status_code, response.json()) == (400, INVALID_RESET_TOKEN)

    @pytest.mark.parametrize("unknown", ["", "é", "x" * 100_000], ids=len)
    async def test_unknown_token(self, client, unknown):
        response = await reset(client, unknown)

        assert (response.status_code, response.json()) == (400, INVALID_RESET_TOKEN)

    async def test_hash_of_token(self, client, token):
        response = await reset(client, hash_reset_token(token))

        assert (response.status_code, response.json()) == (400, INVALID_RESET_TOKEN)

    async def test_expired_token(self, client, token, db):
        await db.execute(update(PasswordResetToken).values(expires_at=utcnow()))
        await db.commit()

        response = await reset(client, token)

        assert (response.status_code, response.json()) == (400, INVALID_RESET_TOKEN)

    async def test_busy_server_keeps_token(self, client, token, monkeypatch):
        with monkeypatch.context() as patch:
            full = AsyncMock(side_effect=QueueFull)
            patch.setattr("routers.passwords.hash_password_async", full)
            rejected = await reset(client, token)

        response = await reset(client, token)

        assert (rejected.status_code, response.status_code) == (503, 200)

    async def test_token_of_another_user_is_kept(self, client, bob, token, send):
        bobs_token = await request_token(client, send, "bob@example.com")

        await reset(client, token)

        assert (await reset(client, bobs_token)).status_code == 200

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("PATCH", "me/password", CHANGE),
            ("PATCH", "{}", {"email": "ada@example.org"}),
            ("DELETE", "{}", None),
        ],
        ids=["password changed", "email changed", "account deleted"],
    )
    async def test_token_is_revoked(self, client, ada, token, method, path, body):
        path = f"/api/users/{path.format(await get_user_id(client, ada))}"
        await client.request(method, path, json=body, headers=ada)

        response = await reset(client, token)

        assert (response.status_code, response.json()) == (400, INVALID_RESET_TOKEN)


class TestChangePassword:
    async def test_success(self, client, ada):
        response = await change(client, ada)

        assert response.status_code == 200
        assert response.json() == {
            "message": "Password changed successfully",
            "access_token": response.json()["access_token"],
            "token_type": "bearer",
        }
        assert (await log_in(client, NEW_PASSWORD)).status_code == 200
        assert (await log_in(client, PASSWORD)).status_code == 401

    async def test_wrong_current_password(self, client, ada):
        response = await change(client, ada, current_password="wrong")

        assert response.status_code == 400
        assert response.json() == {"detail": "Current password is incorrect"}
        assert (await log_in(client, PASSWORD)).status_code == 200

    async def test_other_sessions_end(self, client, ada, bob):
        other = auth_header(await login_user(client))

        response = await change(client, ada)

        new = auth_header(response.json()["access_token"])
        statuses = [
            (await client.get("/api/users/me", headers=headers)).status_code
            for headers in (ada, other, new, bob)
        ]
        # Sessions end even in the second in which their tokens were issued.
        assert statuses == [401, 401, 200, 200]


PHRASE = "Käsebröte im Dönerladen"
FORMS = [unicodedata.normalize(form, PHRASE) for form in ("NFC", "NFD")]


class TestUnicode:
    @pytest.mark.parametrize("typed", FORMS, ids=["NFC", "NFD"])
    @pytest.mark.parametrize("chosen", FORMS, ids=["NFC", "NFD"])
    async def test_forms(self, client, chosen, typed):
        await create_test_user(client, password=chosen)
        token = await login_user(client, password=typed)

        response = await change(client, auth_header(token), current_password=typed)

        assert response.status_code == 200

    async def test_older_hash(self, client, ada, db):
        older = password_hasher.hash(FORMS[1])
        await db.execute(update(User).values(password_hash=older))
        await db.commit()

        assert await login_user(client, password=FORMS[1])

    @pytest.mark.parametrize(("form", "tries"), [("NFC", 1), ("NFD", 2)])
    def test_same_form_is_hashed_once(self, monkeypatch, form, tries):
        verify = Mock(return_value=False)
        monkeypatch.setattr(password_hasher, "verify", verify)

        verify_password(unicodedata.normalize(form, PHRASE), "")

        assert verify.call_count == tries

    def test_too_long_to_normalize(self):
        # Normalizing this would take minutes.
        password = "a" + "\u0316\u0301" * 500_000

        assert not verify_password(password, hash_password(PASSWORD))

    async def test_length_is_measured_in_nfc(self, client):
        password = unicodedata.normalize("NFD", "ä" * 100)

        await create_test_user(client, password=password)

        assert await login_user(client, password="ä" * 100)
