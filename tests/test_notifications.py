"""Emails that notify users of changes to their accounts."""

from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from config import settings
from tests.conftest import PASSWORD
from tests.server import outbox, reset_links, text

EMAIL = "ada@example.com"
NEW_PASSWORD = "another horse"


@pytest.fixture(autouse=True)
def var_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(settings, "var_dir", tmp_path)
    monkeypatch.setattr("routers.users.MAX_EMAIL_DELAY", 0)
    return tmp_path


def assert_notifies(message: EmailMessage, subject: str, path: str) -> None:
    assert (message["To"], message["Subject"]) == (EMAIL, f"{subject} on FastAPI Blog")
    assert "FastAPI Blog was changed" in text(message)
    assert text(message).startswith("Hello ada,")
    assert f"{settings.site_url}{path}" in text(message)


async def test_password_changed(client, ada, var_dir):
    passwords = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}

    await client.patch("/api/users/me/password", json=passwords, headers=ada)

    [message] = outbox(var_dir)
    assert_notifies(message, "Your password was changed", "/forgot-password")
    assert NEW_PASSWORD not in message.as_string()


async def test_password_reset(client, ada, var_dir):
    await client.post("/api/users/forgot-password", json={"email": EMAIL})
    token = urlsplit(reset_links(var_dir)[0]).query.removeprefix("token=")

    await client.post(
        "/api/users/reset-password", json={"token": token, "new_password": NEW_PASSWORD}
    )

    _, message = outbox(var_dir)
    assert_notifies(message, "Your password was changed", "/forgot-password")


async def test_email_changed(client, ada, user_path, var_dir):
    user_in = {"username": "countess", "email": "new@example.com"}

    await client.patch(user_path, json=user_in, headers=ada)

    # The email goes to the old email address, and greets the user by the old name.
    [message] = outbox(var_dir)
    assert_notifies(message, "Your email address was changed", "/account")
    assert "new@example.com" not in message.as_string()


async def test_contact(client, ada, user_path, var_dir, monkeypatch):
    monkeypatch.setattr(settings, "contact_email", "help@blog.example")
    user_in = {"email": "new@example.com"}

    await client.patch(user_path, json=user_in, headers=ada)

    [message] = outbox(var_dir)
    assert message.as_string().count("help@blog.example") == 2


@pytest.mark.parametrize(
    "user_in", [{"username": "countess"}, {"email": "ADA@example.com"}]
)
async def test_email_unchanged(client, ada, user_path, var_dir, user_in):
    response = await client.patch(user_path, json=user_in, headers=ada)

    assert response.status_code == 200
    assert outbox(var_dir) == []
