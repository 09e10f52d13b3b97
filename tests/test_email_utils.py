"""Email, sent to a real SMTP server in this process or written to the outbox."""

import asyncio
import email
import logging
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from httpx import AsyncClient
from pydantic import SecretStr

import email_utils
from config import settings
from email_utils import (
    send_email,
    send_password_reset_email,
)
from tests.conftest import PASSWORD, create_test_user, get_user_id, sign_up

ADDRESS = "ada@example.com"
TOKEN = "a-token-that-nobody-may-see"
OK = "250 OK"


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry as often as usual, without delays."""
    pauses = tuple(0 for _ in email_utils.RETRY_DELAYS)
    monkeypatch.setattr(email_utils, "RETRY_DELAYS", pauses)


class Mailbox:
    """What an SMTP server receives, and how it replies."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[str, str]] = []
        self.tries = 0
        # Replies to the next attempts; later ones succeed.
        self.recipient_replies: list[str] = []
        self.data_replies: list[str] = []
        self.accepts_logins = True

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope, to: str, _: Any
    ) -> str:
        self.tries += 1
        reply = self.recipient_replies.pop(0) if self.recipient_replies else OK
        if reply == OK:
            envelope.rcpt_tos.append(to)
        return reply

    async def handle_DATA(  # noqa: N802 -- aiosmtpd looks for this name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        reply = self.data_replies.pop(0) if self.data_replies else OK
        if reply == OK:
            assert isinstance(envelope.content, bytes)
            message = email.message_from_bytes(envelope.content, policy=default)
            self.messages.append(message)
            self.encrypted.append(session.ssl is not None)
        return reply

    def authenticate(self, *arguments: Any) -> AuthResult:
        data: LoginPassword = arguments[-1]
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.accepts_logins, handled=False)


class ImplicitTls(SMTP):
    """A connection that is encrypted from its first byte."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.session is not None
        self.session.ssl = transport.get_extra_info("sslcontext")


@asynccontextmanager
async def listening(
    protocol: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Run a server until the context ends and yield its port."""
    loop = asyncio.get_running_loop()
    # All local addresses, some of which stand in for other machines.
    server = await loop.create_server(protocol, "0.0.0.0", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
def mailbox() -> Mailbox:
    """Return what the test's server receives and replies."""
    return Mailbox()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Create a certificate authority that the app trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


def certified(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    """Return a server's TLS context, with a certificate for a host."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


def use_server(
    monkeypatch: pytest.MonkeyPatch, port: int, *, use_tls: bool = False
) -> None:
    """Configure the app to send through a local port."""
    monkeypatch.setattr(settings, "mail_server", "127.0.0.1")
    monkeypatch.setattr(settings, "mail_port", port)
    monkeypatch.setattr(settings, "mail_use_tls", use_tls)
    monkeypatch.setattr(settings, "mail_from", "Blog <noreply@blog.example>")


@pytest.fixture
async def plain_server(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """Run a server without TLS that the app uses."""
    async with listening(lambda: SMTP(mailbox, hostname="mail")) as port:
        use_server(monkeypatch, port)
        yield port


@pytest.fixture
async def starttls_server(
    mailbox: Mailbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """Run a server with STARTTLS that the app uses."""
    tls = certified(authority)
    async with listening(
        lambda: SMTP(mailbox, hostname="mail", tls_context=tls)
    ) as port:
        use_server(monkeypatch, port, use_tls=True)
        yield port


async def send_test_email(to_email: str = ADDRESS) -> None:
    """Send an email."""
    await send_email(
        to_email=to_email,
        subject="Some subject",
        plain_text="Some text",
        html_content="<p>Some HTML</p>",
    )


async def send_reset_email(username: str = "ada", to_email: str = ADDRESS) -> None:
    """Send the email with a reset token."""
    await send_password_reset_email(to_email=to_email, username=username, token=TOKEN)


def part(message: EmailMessage, kind: str) -> str:
    """Return the text or the HTML of a message."""
    body = message.get_body((kind,))
    assert body is not None
    content: str = body.get_content()
    return content


# Content


async def test_email_has_text_and_html(plain_server: int, mailbox: Mailbox) -> None:
    await send_test_email()

    [message] = mailbox.messages
    assert message.get_content_type() == "multipart/alternative"
    assert part(message, "plain").strip() == "Some text"
    assert part(message, "html").strip() == "<p>Some HTML</p>"


async def test_email_has_required_headers(plain_server: int, mailbox: Mailbox) -> None:
    await send_test_email()

    [message] = mailbox.messages
    assert message["From"] == "Blog <noreply@blog.example>"
    assert (message["To"], message["Subject"]) == (ADDRESS, "Some subject")
    assert message["Message-ID"].endswith("@blog.example>")
    assert message["Date"].datetime is not None


@pytest.mark.parametrize("kind", ["plain", "html"])
async def test_reset_email_has_link_to_site(
    plain_server: int, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(settings, "frontend_url", "https://blog.example/base")

    await send_reset_email()

    text = part(mailbox.messages[0], kind)
    assert f"https://blog.example/base/reset-password?token={TOKEN}" in text
    assert "127.0.0.1" not in text


async def test_reset_email_escapes_username_in_html(
    plain_server: int, mailbox: Mailbox
) -> None:
    await send_reset_email("O'Neil")

    [message] = mailbox.messages
    assert "Hello O&#39;Neil," in part(message, "html")
    assert "Hello O'Neil," in part(message, "plain")


async def test_reset_email_has_link_lifetime(
    plain_server: int, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "reset_token_expire_minutes", 17)

    await send_reset_email()

    assert "17 minutes" in part(mailbox.messages[0], "plain")
    assert "17 minutes" in part(mailbox.messages[0], "html")


async def test_reset_email_ignores_host_of_request(
    client: AsyncClient, plain_server: int, mailbox: Mailbox
) -> None:
    await create_test_user(client)

    response = await client.post(
        "/api/users/forgot-password",
        json={"email": ADDRESS},
        headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
    )

    assert response.status_code == 202
    [message] = mailbox.messages
    assert message["To"] == ADDRESS
    assert "evil.example" not in message.as_string()


async def test_failed_reset_email_does_not_change_response(
    client: AsyncClient, plain_server: int, mailbox: Mailbox
) -> None:
    await create_test_user(client)
    mailbox.recipient_replies = ["550 no such user"]

    known = await client.post("/api/users/forgot-password", json={"email": ADDRESS})
    unknown = await client.post("/api/users/forgot-password", json={"email": "b@b.bb"})

    assert mailbox.tries == 1
    assert (known.status_code, known.content) == (202, unknown.content)


# Encryption


async def test_starttls_is_used_if_required(
    starttls_server: int, mailbox: Mailbox
) -> None:
    await send_test_email()

    assert mailbox.encrypted == [True]


async def test_starttls_is_used_if_offered(
    starttls_server: int, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "mail_use_tls", False)

    await send_test_email()

    assert mailbox.encrypted == [True]


async def test_email_is_sent_unencrypted_without_starttls(
    plain_server: int, mailbox: Mailbox
) -> None:
    await send_test_email()

    assert mailbox.encrypted == [False]


async def test_required_encryption_prevents_plain_delivery(
    plain_server: int, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "mail_use_tls", True)

    with pytest.raises(aiosmtplib.SMTPException):
        await send_test_email()

    assert (mailbox.messages, mailbox.tries) == ([], 0)


async def test_port_465_uses_implicit_tls(
    mailbox: Mailbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(
        lambda: ImplicitTls(mailbox, hostname="mail"), certified(authority)
    ) as port:
        use_server(monkeypatch, port, use_tls=True)
        monkeypatch.setattr(email_utils, "IMPLICIT_TLS_PORT", port)
        await send_test_email()

    assert mailbox.encrypted == [True]


def test_implicit_tls_port_is_465() -> None:
    # RFC 8314, section 7.3.
    assert email_utils.IMPLICIT_TLS_PORT == 465


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(lambda _ours: certified(trustme.CA()), id="unknown signer"),
        pytest.param(lambda ours: certified(ours, "other.example"), id="other host"),
    ],
)
async def test_server_without_valid_certificate_gets_no_email(
    mailbox: Mailbox,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    context: Callable[[trustme.CA], ssl.SSLContext],
) -> None:
    tls = context(authority)
    async with listening(
        lambda: SMTP(mailbox, hostname="mail", tls_context=tls)
    ) as port:
        use_server(monkeypatch, port, use_tls=True)
        with pytest.raises((aiosmtplib.SMTPException, ssl.SSLError)):
            await send_test_email()

    assert mailbox.messages == []


# SMTP login


@pytest.fixture
async def login_server(
    mailbox: Mailbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """Run a server that requires a login over TLS."""
    tls = certified(authority)
    async with listening(
        lambda: SMTP(
            mailbox,
            hostname="mail",
            tls_context=tls,
            auth_required=True,
            authenticator=mailbox.authenticate,
        )
    ) as port:
        use_server(monkeypatch, port, use_tls=True)
        monkeypatch.setattr(settings, "mail_username", "blog")
        monkeypatch.setattr(settings, "mail_password", SecretStr("mail-password"))
        yield port


def use_login(monkeypatch: pytest.MonkeyPatch, port: int, *, host: str) -> None:
    """Configure the app to log in without requiring TLS."""
    use_server(monkeypatch, port)
    monkeypatch.setattr(settings, "mail_server", host)
    monkeypatch.setattr(settings, "mail_username", "blog")
    monkeypatch.setattr(settings, "mail_password", SecretStr("mail-password"))


async def test_smtp_credentials_are_sent(login_server: int, mailbox: Mailbox) -> None:
    await send_test_email()

    assert mailbox.logins == [("blog", "mail-password")]
    assert mailbox.encrypted == [True]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_smtp_login_to_localhost_may_be_unencrypted(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    async with listening(
        lambda: SMTP(
            mailbox,
            hostname="mail",
            auth_require_tls=False,
            authenticator=mailbox.authenticate,
        )
    ) as port:
        use_login(monkeypatch, port, host=host)
        await send_test_email()

    assert mailbox.logins == [("blog", "mail-password")]


async def test_smtp_login_over_network_requires_tls(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(
        lambda: SMTP(
            mailbox,
            hostname="mail",
            auth_require_tls=False,
            authenticator=mailbox.authenticate,
        )
    ) as port:
        # To the app, this is another machine.
        use_login(monkeypatch, port, host="127.0.0.2")
        with pytest.raises(aiosmtplib.SMTPException):
            await send_test_email()

    assert (mailbox.logins, mailbox.messages) == ([], [])


async def test_smtp_login_requires_valid_certificate(
    mailbox: Mailbox, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certified(authority, "other.example")
    async with listening(
        lambda: SMTP(
            mailbox,
            hostname="mail",
            tls_context=tls,
            authenticator=mailbox.authenticate,
        )
    ) as port:
        use_login(monkeypatch, port, host="127.0.0.2")
        with pytest.raises((aiosmtplib.SMTPException, ssl.SSLError)):
            await send_test_email()

    assert mailbox.logins == []


async def test_rejected_smtp_login_is_not_retried(
    login_server: int, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox.accepts_logins = False

    await send_reset_email()

    assert mailbox.messages == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "SMTPAuthenticationError 535" in caplog.text
    assert "mail-password" not in caplog.text


# Retries


TEMPORARY = [
    pytest.param("recipient_replies", "450 greylisted", id="recipient"),
    pytest.param("data_replies", "451 try later", id="message"),
    pytest.param("data_replies", "421 closing", id="closing"),
]


@pytest.mark.parametrize(("replies", "reply"), TEMPORARY)
async def test_temporary_failure_is_retried(
    plain_server: int, mailbox: Mailbox, replies: str, reply: str
) -> None:
    setattr(mailbox, replies, [reply, reply])

    await send_test_email()

    assert len(mailbox.messages) == 1
    assert mailbox.tries == 3


@pytest.mark.parametrize(("replies", "reply"), TEMPORARY)
async def test_retries_are_limited(
    plain_server: int, mailbox: Mailbox, replies: str, reply: str
) -> None:
    setattr(mailbox, replies, [reply] * 100)

    with pytest.raises(aiosmtplib.SMTPException):
        await send_test_email()

    assert mailbox.tries == len(email_utils.RETRY_DELAYS) + 1


@pytest.mark.parametrize(
    ("replies", "reply"),
    [
        pytest.param("recipient_replies", "550 no such user", id="recipient"),
        pytest.param("data_replies", "554 no spam please", id="message"),
    ],
)
async def test_permanent_failure_is_not_retried(
    plain_server: int, mailbox: Mailbox, replies: str, reply: str
) -> None:
    setattr(mailbox, replies, [reply])

    with pytest.raises(aiosmtplib.SMTPException):
        await send_test_email()

    assert (mailbox.tries, mailbox.messages) == (1, [])


async def test_email_is_sent_when_server_recovers(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    loop = asyncio.get_running_loop()
    servers = []

    async def start(_pause: float) -> None:
        servers.append(
            await loop.create_server(
                lambda: SMTP(mailbox, hostname="mail"), "127.0.0.1", port
            )
        )

    use_server(monkeypatch, port)
    monkeypatch.setattr("email_utils.asyncio.sleep", start)
    await send_test_email()

    servers[0].close()
    assert len(mailbox.messages) == 1


async def test_refused_connection_is_retried_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    use_server(monkeypatch, port)

    await send_reset_email()

    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING"] * len(email_utils.RETRY_DELAYS) + ["ERROR"]


async def test_unresponsive_server_times_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(email_utils, "SMTP_TIMEOUT", 0.05)

    async with listening(asyncio.Protocol) as port:
        use_server(monkeypatch, port)
        await send_reset_email()

    assert caplog.records[-1].levelname == "ERROR"


async def test_hanging_dns_lookups_use_three_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    threads: list[str] = []

    def hang(*_: Any, **__: Any) -> Any:
        threads.append(threading.current_thread().name)
        released.wait(timeout=10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(settings, "mail_server", "smtp.example.com")
    monkeypatch.setattr(email_utils, "RETRY_DELAYS", ())
    monkeypatch.setattr(email_utils, "DELIVERY_TIMEOUT", 0.05)

    # They time out one after the other, while the first three lookups still hang.
    await asyncio.gather(*(send_reset_email() for _ in range(20)))
    released.set()

    assert sorted(threads) == ["smtp_0", "smtp_1", "smtp_2"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 20


async def test_server_gets_three_deliveries_at_once(
    plain_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = most = 0
    three_are_running = asyncio.Event()

    async def deliver(client: aiosmtplib.SMTP, *_: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            three_are_running.set()
        await three_are_running.wait()
        # Long enough for a fourth delivery to start, if it could.
        await asyncio.sleep(0.1)
        running -= 1

    monkeypatch.setattr(aiosmtplib.SMTP, "send_message", deliver)

    await asyncio.gather(*(send_reset_email() for _ in range(10)))

    assert most == 3


def test_retry_delays_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    pauses = email_utils.RETRY_DELAYS

    assert list(pauses) == sorted(set(pauses))
    assert 2 <= len(pauses) <= 5


# Logs


@pytest.mark.parametrize(
    "reply",
    [f"550 <{ADDRESS}>: no such user", f"450 <{ADDRESS}>: mailbox busy"],
    ids=["for good", "for now"],
)
async def test_failure_log_omits_email_address_and_token(
    plain_server: int,
    mailbox: Mailbox,
    caplog: pytest.LogCaptureFixture,
    reply: str,
) -> None:
    mailbox.recipient_replies = [reply] * 10

    with caplog.at_level(logging.INFO):
        await send_reset_email()

    ours = [r.getMessage() for r in caplog.records if r.name == "email_utils"]
    assert "Email password_reset not sent: SMTPRecipientsRefused" in ours[-1]
    assert ADDRESS not in " ".join(ours)
    assert TOKEN not in " ".join(ours)


async def test_non_ascii_email_address_fails_no_request(
    plain_server: int, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    # The server does not offer SMTPUTF8 (RFC 6531), which such an email address needs.
    await send_reset_email(to_email="jörg@example.com")

    assert mailbox.messages == []
    assert caplog.records[-1].levelname == "ERROR"
    assert "jörg" not in caplog.text


# The outbox


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the outbox folder; no server is set."""
    monkeypatch.setattr(settings, "mail_server", None)
    monkeypatch.setattr(settings, "var_dir", tmp_path)
    return tmp_path / "outbox"


def read(outbox: Path) -> EmailMessage:
    """Return the only email in the outbox."""
    [path] = outbox.iterdir()
    assert path.suffix == ".eml"
    return email.message_from_bytes(path.read_bytes(), policy=default)


async def test_email_without_server_is_written_to_file(outbox: Path) -> None:
    await send_reset_email()

    message = read(outbox)
    assert message["To"] == ADDRESS
    assert f"http://127.0.0.1:8000/reset-password?token={TOKEN}" in part(
        message, "plain"
    )


async def test_log_has_path_of_outbox_file(
    outbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await send_reset_email()

    [path] = outbox.iterdir()  # noqa: ASYNC240 -- nothing else runs
    assert str(path) in caplog.text
    assert ADDRESS not in caplog.text
    assert TOKEN not in caplog.text


async def test_simultaneous_emails_get_separate_files(outbox: Path) -> None:
    await asyncio.gather(*(send_test_email() for _ in range(20)))

    assert len(list(outbox.iterdir())) == 20  # noqa: ASYNC240 -- nothing else runs


async def test_non_ascii_email_is_written_to_file(outbox: Path) -> None:
    await send_reset_email("Jörg اليوم", "jörg@example.com")

    assert "Jörg اليوم" in part(read(outbox), "plain")


async def test_unwritable_outbox_fails_no_request(
    outbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.touch()  # noqa: ASYNC240 -- nothing else runs

    await send_reset_email()

    assert "Email password_reset not sent: FileExistsError" in caplog.text


# Notifications


async def test_password_change_notifies_owner(
    client: AsyncClient, plain_server: int, mailbox: Mailbox
) -> None:
    ada = await sign_up(client, "ada")

    await client.patch(
        "/api/users/me/password",
        json={"current_password": PASSWORD, "new_password": "another horse"},
        headers=ada,
    )

    (mail,) = mailbox.messages
    assert (mail["To"], mail["Subject"]) == (ADDRESS, "Your password was changed")
    assert f"{settings.site_url}/forgot-password" in part(mail, "plain")
    assert "another horse" not in mail.as_string()


async def test_password_reset_notifies_owner(
    client: AsyncClient, plain_server: int, mailbox: Mailbox
) -> None:
    await create_test_user(client)
    await client.post("/api/users/forgot-password", json={"email": ADDRESS})
    link = re.search(r"token=(\S+)", part(mailbox.messages[0], "plain"))
    assert link

    await client.post(
        "/api/users/reset-password",
        json={"token": link[1], "new_password": "another horse"},
    )

    _, note = mailbox.messages
    assert (note["To"], note["Subject"]) == (ADDRESS, "Your password was changed")


async def test_email_change_notifies_old_address(
    client: AsyncClient, plain_server: int, mailbox: Mailbox
) -> None:
    ada = await sign_up(client, "ada")

    await client.patch(
        f"/api/users/{await get_user_id(client, ada)}",
        json={"email": "new@example.com"},
        headers=ada,
    )

    (mail,) = mailbox.messages
    assert (mail["To"], mail["Subject"]) == (
        ADDRESS,
        "Your email address was changed",
    )
    assert "new@example.com" not in mail.as_string()


@pytest.mark.parametrize(
    "changes", [{"username": "Ada L."}, {"email": "ADA@example.com"}, {}]
)
async def test_unchanged_email_sends_no_notification(
    client: AsyncClient, plain_server: int, mailbox: Mailbox, changes: dict[str, str]
) -> None:
    ada = await sign_up(client, "ada")

    await client.patch(
        f"/api/users/{await get_user_id(client, ada)}", json=changes, headers=ada
    )

    assert mailbox.messages == []
