"""Emails, sent to a real SMTP server in this process or written to the outbox."""

import asyncio
import email
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from httpx import AsyncClient
from pydantic import SecretStr

import email_utils
from config import settings
from email_utils import send_email, send_password_reset_email
from tests.conftest import Headers, capture_queries, create_test_user
from tests.databases import free_port
from tests.server import outbox

EMAIL = "ada@example.com"
LEGACY_EMAIL = "müller@example.com"
TOKEN = "a-secret-token"

Serve = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(email_utils, "RETRY_DELAYS", (0, 0, 0))
    monkeypatch.setattr("routers.users.MAX_EMAIL_DELAY", 0)


class Mailbox:
    """An SMTP handler that records emails, or replies with errors."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.client_names: list[str | None] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[str, str]] = []
        self.attempts = 0
        self.noops = 0
        # The replies to the next attempts. Later attempts succeed.
        self.errors: dict[str, list[str]] = {"RCPT": [], "DATA": []}
        self.accepts_logins = True

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope, to: str, _: Any
    ) -> str:
        self.attempts += 1
        if self.errors["RCPT"]:
            return self.errors["RCPT"].pop()
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 -- aiosmtpd looks for this name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.errors["DATA"]:
            return self.errors["DATA"].pop()
        assert isinstance(envelope.content, bytes)
        self.messages.append(email.message_from_bytes(envelope.content, policy=default))
        self.recipients += envelope.rcpt_tos
        self.client_names.append(session.host_name)
        self.encrypted.append(session.ssl is not None)
        return "250 OK"

    async def handle_NOOP(self, *_: Any) -> str:  # noqa: N802 -- aiosmtpd's name
        self.noops += 1
        return "250 OK"

    def authenticate(self, *arguments: Any) -> AuthResult:
        data: LoginPassword = arguments[-1]
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.accepts_logins, handled=False)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def serve(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Serve]:
    """Return a function that starts an SMTP server, by default without TLS."""
    servers = []

    async def start(
        tls: ssl.SSLContext | None = None, *, implicit: bool = False, **options: Any
    ) -> None:
        options |= {"hostname": "mail", "tls_context": None if implicit else tls}
        loop = asyncio.get_running_loop()
        # Listen on all local IPs, some of which stand in for other machines.
        server = await loop.create_server(
            lambda: SMTP(mailbox, **options),
            "0.0.0.0",
            0,
            ssl=tls if implicit else None,
        )
        servers.append(server)
        use_port(server.sockets[0].getsockname()[1], monkeypatch)

    yield start
    for server in servers:
        server.close()


def use_port(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send emails to the SMTP server at this local port."""
    monkeypatch.setattr(settings, "mail_server", "127.0.0.1")
    monkeypatch.setattr(settings, "mail_port", port)


@pytest.fixture
async def plain_server(serve: Serve) -> None:
    await serve()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Create a certificate authority that the app trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


def certified(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    """Return a server's TLS context, with a certificate for this host."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


async def start_reset_email(username: str = "ada", to_email: str = EMAIL) -> None:
    """Try to send an email once. Retries run in the background."""
    await send_password_reset_email(to_email=to_email, username=username, token=TOKEN)


async def send_reset_email(username: str = "ada", to_email: str = EMAIL) -> None:
    await start_reset_email(username, to_email)
    await asyncio.gather(*email_utils._retries)


async def request_reset(
    client: AsyncClient, to_email: str, headers: Headers | None = None
) -> None:
    body = {"email": to_email}
    response = await client.post(
        "/api/users/forgot-password", json=body, headers=headers
    )
    assert response.status_code == 202


def part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert body is not None
    content: str = body.get_content()
    return content


@pytest.mark.usefixtures("plain_server")
class TestContent:
    async def test_headers_and_parts(self, mailbox, monkeypatch):
        monkeypatch.setattr(settings, "mail_from", "Blog <noreply@blog.example>")

        await send_email(
            to_email=EMAIL, subject="Hi", plain_text="Text", html_content="<p>HTML</p>"
        )

        [message] = mailbox.messages
        assert message["From"] == "Blog <noreply@blog.example>"
        assert (message["To"], message["Subject"]) == (EMAIL, "Hi")
        assert message["Message-ID"].endswith("@blog.example>")
        assert message["Date"].datetime is not None
        assert message["Auto-Submitted"] == "auto-generated"
        assert message.get_content_type() == "multipart/alternative"
        assert part(message, "plain").strip() == "Text"
        assert part(message, "html").strip() == "<p>HTML</p>"

    @pytest.mark.parametrize(
        ("kind", "name"), [("plain", "O'Neil"), ("html", "O&#39;Neil")]
    )
    async def test_reset_email(self, mailbox, monkeypatch, kind, name):
        monkeypatch.setattr(settings, "frontend_url", "https://blog.example/base")
        monkeypatch.setattr(settings, "reset_token_expire_minutes", 17)
        monkeypatch.setattr(settings, "site_name", "Zoë's Blog")

        await send_reset_email("O'Neil")

        content = part(mailbox.messages[0], kind)
        subject = mailbox.messages[0]["Subject"]
        assert subject == "Reset your password on Zoë's Blog"
        assert "on Zoë" in content
        assert f"https://blog.example/base/reset-password?token={TOKEN}" in content
        assert "17 minutes" in content
        assert f"Hello {name}," in content

    async def test_host_of_request_is_ignored(self, client, mailbox):
        await create_test_user(client)
        forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}

        await request_reset(client, EMAIL, forged)

        [message] = mailbox.messages
        assert "evil.example" not in message.as_string()

    @pytest.mark.parametrize(
        ("username", "greeting"),
        [
            ("O'Neil_7 Zoë-Ann", "Hello O'Neil_7 Zoë-Ann,"),
            ("देवी", "Hello देवी,"),
            ("See evil.example now", "Hello,"),
            ("Click http://evil", "Hello,"),
            ("<b>", "Hello,"),
        ],
    )
    async def test_greeting(self, mailbox, username, greeting):
        await send_reset_email(username)

        lines = part(mailbox.messages[0], "plain").splitlines()
        assert lines[0] == greeting


class TestLocalHostname:
    @pytest.mark.parametrize(
        ("name", "sent"),
        [("blog.example", "blog.example"), ("container", "[127.0.0.1]")],
    )
    async def test_is_full_name_or_ip(
        self, plain_server, mailbox, monkeypatch, name, sent
    ):
        monkeypatch.setattr(socket, "getfqdn", lambda: name)

        await send_reset_email()

        assert mailbox.client_names == [sent]


class TestInternationalEmailAddress:
    async def test_domain_is_ascii(self, plain_server, mailbox):
        await send_reset_email(to_email="ada@bücher.example")

        assert mailbox.recipients == ["ada@xn--bcher-kva.example"]
        assert mailbox.messages[0]["To"] == "ada@xn--bcher-kva.example"

    async def test_server_with_smtputf8(self, serve, mailbox):
        await serve(enable_SMTPUTF8=True)

        await send_reset_email(to_email=LEGACY_EMAIL)

        assert mailbox.recipients == [LEGACY_EMAIL]
        assert mailbox.messages[0]["To"] == LEGACY_EMAIL

    async def test_server_without_smtputf8(self, plain_server, mailbox, caplog):
        await send_reset_email(to_email=LEGACY_EMAIL)

        assert mailbox.messages == []
        assert "not sent: SMTPNotSupported" in caplog.text
        assert "retry" not in caplog.text


class TestUnknownEmail:
    """Unknown email addresses cause the same work, so timing reveals no accounts."""

    async def test_same_statements(self, client, ada):
        with capture_queries() as for_known:
            await request_reset(client, EMAIL)
        with capture_queries() as for_unknown:
            await request_reset(client, "eve@example.com")

        assert for_unknown == for_known

    async def test_connection_without_email(self, client, plain_server, mailbox):
        await request_reset(client, "eve@example.com")

        assert (mailbox.noops, mailbox.attempts) == (1, 0)

    async def test_nothing_stays_in_outbox(self, client, monkeypatch, tmp_path):
        monkeypatch.setattr(settings, "var_dir", tmp_path)

        await request_reset(client, "eve@example.com")

        assert list((tmp_path / "outbox").iterdir()) == []


class TestEncryption:
    @pytest.mark.parametrize(
        ("certify", "is_required", "encrypted"),
        [
            (lambda _: None, False, [False]),
            (lambda _: None, True, []),
            (lambda _: certified(trustme.CA()), False, [True]),
            (lambda _: certified(trustme.CA()), True, []),
            (lambda authority: certified(authority, "other.example"), True, []),
            (certified, True, [True]),
        ],
        ids=[
            *("without TLS", "without required TLS", "any certificate"),
            *("unknown authority", "other host", "valid certificate"),
        ],
    )
    async def test_starttls(
        self, serve, mailbox, authority, monkeypatch, certify, is_required, encrypted
    ):
        await serve(certify(authority))
        monkeypatch.setattr(settings, "mail_use_tls", is_required)

        await send_reset_email()

        assert mailbox.encrypted == encrypted
        assert mailbox.attempts == len(encrypted)

    async def test_port_465_uses_implicit_tls(
        self, serve, mailbox, authority, monkeypatch
    ):
        # RFC 8314, section 7.3, assigns port 465 to implicit TLS.
        assert email_utils.IMPLICIT_TLS_PORT == 465
        await serve(certified(authority), implicit=True)
        monkeypatch.setattr(email_utils, "IMPLICIT_TLS_PORT", settings.mail_port)
        monkeypatch.setattr(settings, "mail_use_tls", True)

        await send_reset_email()

        assert len(mailbox.messages) == 1


class TestLogin:
    @pytest.fixture(autouse=True)
    def credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settings, "mail_username", "blog")
        monkeypatch.setattr(settings, "mail_password", SecretStr("mail-password"))

    @pytest.mark.parametrize(
        ("host", "certify", "logins"),
        [
            ("localhost", lambda _: None, 1),
            ("127.0.0.1", lambda _: None, 1),
            # The app treats 127.0.0.2 as another machine.
            ("127.0.0.2", lambda _: None, 0),
            ("127.0.0.2", lambda authority: certified(authority, "127.0.0.1"), 0),
            ("127.0.0.2", lambda authority: certified(authority, "127.0.0.2"), 1),
        ],
        ids=["localhost", "IP", "no TLS", "other host", "valid certificate"],
    )
    async def test_login(
        self, serve, mailbox, authority, monkeypatch, host, certify, logins
    ):
        await serve(
            certify(authority),
            auth_require_tls=False,
            authenticator=mailbox.authenticate,
        )
        monkeypatch.setattr(settings, "mail_server", host)

        await send_reset_email()

        assert mailbox.logins == [("blog", "mail-password")] * logins
        assert len(mailbox.messages) == logins

    async def test_rejected(self, serve, mailbox, caplog):
        mailbox.accepts_logins = False
        await serve(auth_require_tls=False, authenticator=mailbox.authenticate)

        await send_reset_email()

        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "SMTPAuthenticationError 535" in caplog.text
        assert "mail-password" not in caplog.text


class TestRetries:
    @pytest.mark.parametrize(
        ("command", "error", "times", "attempts", "delivered"),
        [
            ("RCPT", "450 greylisted", 3, 4, 1),
            ("DATA", "421 closing", 3, 4, 1),
            ("RCPT", "450 greylisted", 4, 4, 0),
            ("RCPT", "550 no such user", 1, 1, 0),
            ("DATA", "554 no spam please", 1, 1, 0),
        ],
    )
    async def test_rejected(
        self, plain_server, mailbox, command, error, times, attempts, delivered
    ):
        mailbox.errors[command] = [error] * times

        await send_reset_email()

        assert mailbox.attempts == attempts
        assert len(mailbox.messages) == delivered

    @pytest.mark.parametrize("server", ["127.0.0.1", "smtp..example"])
    async def test_no_connection(self, monkeypatch, caplog, server):
        use_port(free_port(), monkeypatch)
        monkeypatch.setattr(settings, "mail_server", server)
        monkeypatch.setattr(email_utils, "RETRY_DELAYS", (0, 0))

        await send_reset_email()

        levels = [record.levelname for record in caplog.records]
        assert levels == ["WARNING", "WARNING", "ERROR"]


class TestStop:
    """Emails that wait for another attempt when the app stops."""

    @pytest.fixture(autouse=True)
    def long_delays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(email_utils, "RETRY_DELAYS", (60, 60, 60))

    @pytest.mark.parametrize(
        ("errors", "delivered", "levels"),
        [(1, 1, ["WARNING"]), (9, 0, ["WARNING", "ERROR"])],
    )
    async def test_one_more_attempt(
        self, plain_server, mailbox, caplog, errors, delivered, levels
    ):
        mailbox.errors["RCPT"] = ["450 greylisted ada@example.com"] * errors
        await start_reset_email()

        await email_utils.finish_retries()

        assert len(mailbox.messages) == delivered
        assert [record.levelname for record in caplog.records] == levels
        assert "Email password_reset not sent" in caplog.text
        assert "ada@example.com" not in caplog.text

    async def test_no_time_left(self, plain_server, mailbox, monkeypatch, caplog):
        monkeypatch.setattr(email_utils, "STOP_TIMEOUT", 0.05)
        mailbox.errors["RCPT"] = ["450 greylisted"]
        await start_reset_email()

        async def hang(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(email_utils, "deliver", hang)

        await email_utils.finish_retries()

        assert "no time left for another attempt" in caplog.messages[-1]
        assert email_utils._retries == set()


class TestTimeouts:
    async def test_unresponsive_server(self, monkeypatch, caplog):
        monkeypatch.setattr(email_utils, "SMTP_TIMEOUT", 0.05)

        with socket.create_server(("127.0.0.1", 0)) as silent:
            use_port(silent.getsockname()[1], monkeypatch)
            await send_reset_email()

        assert caplog.records[-1].levelname == "ERROR"

    async def test_hanging_dns_lookups_use_three_threads(self, monkeypatch, caplog):
        released = threading.Event()
        threads: list[str] = []

        def hang(*_: Any, **__: Any) -> Any:
            threads.append(threading.current_thread().name)
            released.wait(timeout=30)
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        monkeypatch.setattr(settings, "mail_server", "smtp.example.com")
        monkeypatch.setattr(email_utils, "RETRY_DELAYS", ())
        monkeypatch.setattr(email_utils, "DELIVERY_TIMEOUT", 0.05)

        # All emails time out, because the first three lookups occupy every thread.
        await asyncio.gather(*(send_reset_email() for _ in range(20)))
        released.set()

        assert sorted(threads) == ["smtp_0", "smtp_1", "smtp_2"]
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 20

    async def test_three_deliveries_at_once(self, plain_server, mailbox, monkeypatch):
        full, released = asyncio.Barrier(4), asyncio.Event()

        async def hold(*_: Any) -> str:
            mailbox.attempts += 1
            if mailbox.attempts <= 3:
                await full.wait()
            await released.wait()
            return "550 No"

        monkeypatch.setattr(mailbox, "handle_RCPT", hold)
        emails = asyncio.gather(*(send_reset_email() for _ in range(10)))
        await full.wait()
        # Give a fourth delivery enough time to start.
        await asyncio.sleep(0.1)
        at_once = mailbox.attempts
        released.set()
        await emails

        assert (at_once, mailbox.attempts) == (3, 10)


@pytest.mark.parametrize("code", [450, 550])
async def test_log_omits_secrets(plain_server, mailbox, caplog, code):
    mailbox.errors["RCPT"] = [f"{code} <{EMAIL}> is not available"] * 4

    await send_reset_email()

    messages = [r.getMessage() for r in caplog.records if r.name == "email_utils"]
    assert "Email password_reset not sent: SMTPRecipientsRefused" in messages[-1]
    assert EMAIL not in str(messages)
    assert TOKEN not in str(messages)


class TestOutbox:
    @pytest.fixture(autouse=True)
    def var_dir(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        monkeypatch.setattr(settings, "var_dir", tmp_path)
        return tmp_path

    async def test_file(self, var_dir, caplog):
        with caplog.at_level(logging.INFO):
            await send_reset_email()

        [message] = outbox(var_dir)
        assert message["To"] == EMAIL
        assert f"{settings.site_url}/reset-password?token={TOKEN}" in part(
            message, "plain"
        )
        assert f"email written to {var_dir}/outbox/" in caplog.text
        assert EMAIL not in caplog.text
        assert TOKEN not in caplog.text

    async def test_international_email_address(self, var_dir):
        await send_reset_email(to_email=LEGACY_EMAIL)

        [file] = (var_dir / "outbox").iterdir()
        assert f"To: {LEGACY_EMAIL}".encode() in file.read_bytes()

    async def test_concurrent_emails(self, var_dir):
        await asyncio.gather(*(send_reset_email() for _ in range(20)))

        assert len(outbox(var_dir)) == 20

    async def test_not_writable(self, var_dir, caplog):
        (var_dir / "outbox").touch()

        await send_reset_email()

        assert "Email password_reset not sent: FileExistsError" in caplog.text
