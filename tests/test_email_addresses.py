"""Internationalized email addresses, and names in emails."""

import asyncio
import email
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from httpx import AsyncClient
from pydantic import ValidationError
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

import email_utils
from config import Settings, settings
from email_utils import send_password_reset_email
from models import User
from tests.conftest import PASSWORD, create_test_user, get_user_id, login_user
from tests.server import outbox, text

IDN = "ada@bücher.example"
ASCII = "ada@xn--bcher-kva.example"


class Mailbox:
    """The recipients and messages that an SMTP server accepts."""

    def __init__(self) -> None:
        self.attempts = 0
        self.recipients: list[str] = []
        self.messages: list[EmailMessage] = []

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope, to: str, _: object
    ) -> str:
        self.attempts += 1
        if to.startswith("gone@"):
            return "550 no such user"
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 -- aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        assert isinstance(envelope.content, bytes)
        self.recipients += envelope.rcpt_tos
        self.messages.append(email.message_from_bytes(envelope.content, policy=default))
        return "250 OK"


@pytest.fixture(params=[True, False], ids=["SMTPUTF8", "ASCII only"])
async def mailbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Mailbox]:
    """Run an SMTP server with and without SMTPUTF8."""
    mailbox = Mailbox()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, enable_SMTPUTF8=request.param), "127.0.0.1", 0
    )
    monkeypatch.setattr(settings, "mail_server", "127.0.0.1")
    monkeypatch.setattr(settings, "mail_port", server.sockets[0].getsockname()[1])
    monkeypatch.setattr(email_utils, "RETRY_DELAYS", (0, 0, 0))
    yield mailbox
    server.close()


async def send(to_email: str, username: str = "Ada") -> None:
    await send_password_reset_email(to_email=to_email, username=username, token="x")


class TestDelivery:
    async def test_domain_is_ascii_in_envelope_and_header(
        self, mailbox: Mailbox
    ) -> None:
        await send(IDN)

        assert mailbox.recipients == [ASCII]
        assert mailbox.messages[0]["To"] == ASCII

    async def test_domain_is_ascii_in_outbox(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(settings, "var_dir", tmp_path)

        await send(IDN)

        assert [mail["To"] for mail in outbox(tmp_path)] == [ASCII]

    async def test_recipient_refused_for_good_is_tried_once(
        self, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        await send("gone@example.com")

        assert mailbox.attempts == 1
        assert "not sent: SMTPRecipientsRefused" in caplog.text

    async def test_emails_are_marked_as_automatic(self, mailbox: Mailbox) -> None:
        await send("ada@example.com")

        assert mailbox.messages[0]["Auto-Submitted"] == "auto-generated"


class TestSender:
    def test_domain_is_ascii(self) -> None:
        settings = Settings(mail_from="A Blog <noreply@bücher.example>")

        assert settings.mail_from == "A Blog <noreply@xn--bcher-kva.example>"

    def test_domain_that_no_server_can_have(self) -> None:
        with pytest.raises(ValidationError):
            Settings(mail_from="noreply@\u2800.example")


class TestLegacyAddress:
    """An address with other than ASCII characters before the @."""

    address = "müller@example.com"

    @pytest.fixture
    async def legacy_user(self, client: AsyncClient, db: AsyncSession) -> None:
        await create_test_user(client)
        await db.execute(update(User).values(email=self.address))
        await db.commit()

    @pytest.mark.parametrize("address", [address, "a" * 65 + "@example.com"])
    async def test_new_account(self, client: AsyncClient, address: str) -> None:
        user_in = {"username": "eve", "email": address, "password": PASSWORD}

        response = await client.post("/api/users", json=user_in)

        assert response.status_code == 422

    async def test_login_and_change(
        self, client: AsyncClient, legacy_user: None
    ) -> None:
        token = await login_user(client, "Müller@example.com")
        headers = {"Authorization": f"Bearer {token}"}
        path = f"/api/users/{await get_user_id(client, headers)}"

        response = await client.patch(
            path, json={"email": "mueller@example.com"}, headers=headers
        )

        assert response.json()["email"] == "mueller@example.com"

    async def test_password_reset(self, client: AsyncClient, legacy_user: None) -> None:
        response = await client.post(
            "/api/users/forgot-password", json={"email": self.address}
        )

        assert response.status_code == 202

    @pytest.mark.parametrize("mailbox", [True], indirect=True)
    async def test_delivery_with_smtputf8(self, mailbox: Mailbox) -> None:
        await send(self.address)

        assert mailbox.recipients == [self.address]
        assert mailbox.messages[0]["To"] == self.address

    @pytest.mark.parametrize("mailbox", [False], indirect=True)
    async def test_delivery_without_smtputf8_is_tried_once(
        self, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        await send(self.address)

        assert mailbox.messages == []
        assert "not sent: SMTPNotSupported" in caplog.text
        assert "retry" not in caplog.text


class TestGreeting:
    @pytest.mark.parametrize(
        "name", ["Ada", "Ada Lovelace-King", "O'Neil_7", "Zoë", "देवी", "李 明"]
    )
    async def test_name(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
    ) -> None:
        monkeypatch.setattr(settings, "var_dir", tmp_path)

        await send("ada@example.com", name)

        assert f"Hello {name}," in text(outbox(tmp_path)[0])

    @pytest.mark.parametrize(
        "name",
        ["Phish $$$ claim at http://evil.example/x now", "a.example", "<b>", "hi!"],
    )
    async def test_text_that_is_not_a_name(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
    ) -> None:
        monkeypatch.setattr(settings, "var_dir", tmp_path)

        await send("ada@example.com", name)

        [mail] = outbox(tmp_path)
        assert text(mail).startswith("Hello,")
        assert name not in mail.as_string()
