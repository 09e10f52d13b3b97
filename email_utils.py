"""Build emails, and send them by SMTP or write them to `var/outbox`."""

import asyncio
import logging
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from email.utils import formatdate, make_msgid, parseaddr
from typing import Any
from urllib.parse import quote

import aiosmtplib
import idna
import regex
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from config import BASE_DIR, LOCAL_HOSTS, settings
from counters import EMAILS_DROPPED, EMAILS_RETRIED, EMAILS_SENT, counts

logger = logging.getLogger(__name__)

IMPLICIT_TLS_PORT = 465
# In seconds, for each SMTP command and for the whole delivery.
SMTP_TIMEOUT = 5
DELIVERY_TIMEOUT = 12
# Seconds to wait before the second, third and fourth attempt.
RETRY_DELAYS = (1.0, 5.0, 25.0)
MAX_DELIVERIES = 3
# Seconds for one last attempt to send waiting emails when the app stops.
STOP_TIMEOUT = 5

# Emails waiting for another attempt.
_retries: set[asyncio.Task[None]] = set()
_stopping = asyncio.Event()
_deliveries = asyncio.Semaphore(MAX_DELIVERIES)
# Host names are looked up in separate threads, because uvloop only resolves two at a
# time. Lookups that hang would block database connections long after the delivery has
# timed out.
_connecting = ThreadPoolExecutor(MAX_DELIVERIES, "smtp")

# Anyone can sign up with someone else's email address and use any text as a username,
# so greet users by name only if the name looks plausible.
GREETED_NAME = regex.compile(r"[\p{L}\p{M}\p{N}\p{Zs}'\u2019_-]+")

templates = Environment(
    loader=FileSystemLoader(BASE_DIR / "templates" / "email"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
)


async def send_email(
    *,
    to_email: str,
    subject: str,
    plain_text: str,
    html_content: str,
    kind: str = "email",
    is_dry_run: bool = False,
) -> None:
    """Send an email with a text and an HTML part, or write it to `var/outbox`.

    After a temporary error, the delivery is retried in the background, with increasing
    delays. A dry run does the same work, but doesn't send or keep the email. `kind`
    names the email in the log.

    Raises:
        aiosmtplib.SMTPException: The server rejects the email.
        OSError: The email can't be written to the outbox, or TLS fails (`SSLError`).
    """
    message = build_message(to_email, subject, plain_text, html_content)
    if settings.mail_server is None:
        await asyncio.to_thread(_write_to_outbox, message, is_dry_run=is_dry_run)
        return
    try:
        await deliver(message, is_dry_run=is_dry_run)
    except aiosmtplib.SMTPException as error:
        if not _is_temporary(error) or not RETRY_DELAYS:
            raise
        # Not in the request's background task, because that would delay a shutdown.
        retry = asyncio.create_task(
            _retry(message, kind, error_summary(error), is_dry_run=is_dry_run)
        )
        _retries.add(retry)
        retry.add_done_callback(_retries.discard)


def build_message(
    to_email: str, subject: str, plain_text: str, html_content: str
) -> EmailMessage:
    """Return an email from `MAIL_FROM`, with a text and an HTML part."""
    recipient = ascii_domain(to_email)
    # Without utf8, a non-ASCII email address would be written as an encoded word, which
    # is invalid in an email address (RFC 2047, section 5).
    message = EmailMessage(policy=default.clone(utf8=not recipient.isascii()))
    message["From"] = settings.mail_from
    message["To"] = recipient
    message["Subject"] = subject
    message["Date"] = formatdate()
    domain = parseaddr(settings.mail_from)[1].rpartition("@")[2]
    message["Message-ID"] = make_msgid(domain=domain or "localhost")
    # Ask recipients' mail systems not to reply automatically (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(plain_text)
    message.add_alternative(html_content, subtype="html")
    return message


async def _retry(
    message: EmailMessage, kind: str, cause: str, *, is_dry_run: bool
) -> None:
    """Retry an email after each delay. At shutdown, retry it once more."""
    try:
        for delay in RETRY_DELAYS:
            counts[EMAILS_RETRIED] += 1
            logger.warning("Email %s not sent (%s), retrying", kind, cause)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await _stopping.wait()
            try:
                await deliver(message, is_dry_run=is_dry_run)
            except (aiosmtplib.SMTPException, OSError) as error:
                cause = error_summary(error)
                if _stopping.is_set() or not _is_temporary(error):
                    break
            else:
                return
    except asyncio.CancelledError:
        cause = f"{cause}; no time left for another attempt"
    log_dropped_email(kind, cause)


def log_dropped_email(kind: str, cause: str) -> None:
    counts[EMAILS_DROPPED] += 1
    logger.error("Email %s not sent: %s", kind, cause)


async def finish_retries() -> None:
    """Try to deliver waiting emails once more, and log those that are dropped."""
    if not _retries:
        return
    _stopping.set()
    _done, pending = await asyncio.wait(set(_retries), timeout=STOP_TIMEOUT)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    _stopping.clear()


def ascii_domain(address: str) -> str:
    """Return an email address with its domain in ASCII form (RFC 5891)."""
    local, _, domain = address.rpartition("@")
    if domain.isascii():
        return address
    return f"{local}@{idna.encode(domain, uts46=True).decode()}"


async def deliver(message: EmailMessage, *, is_dry_run: bool) -> None:
    """Log in to the SMTP server and, unless this is a dry run, send an email.

    Raises:
        aiosmtplib.SMTPException: The server is unavailable or rejects the email.
        OSError: TLS fails (`SSLError`).
    """
    password = settings.mail_password
    # Never send a password over a network without encryption.
    is_remote_login = settings.mail_username and settings.mail_server not in LOCAL_HOSTS
    needs_tls = settings.mail_use_tls or bool(is_remote_login)
    implicit_tls = settings.mail_use_tls and settings.mail_port == IMPLICIT_TLS_PORT
    try:
        async with _deliveries, asyncio.timeout(DELIVERY_TIMEOUT):
            loop = asyncio.get_running_loop()
            local_hostname, sock = await loop.run_in_executor(_connecting, _connect)
            client = aiosmtplib.SMTP(
                hostname=settings.mail_server,
                local_hostname=local_hostname,
                sock=sock,
                username=settings.mail_username,
                password=password.get_secret_value() if password else None,
                use_tls=implicit_tls,
                # None uses STARTTLS if the server offers it. True requires it.
                start_tls=True if needs_tls and not implicit_tls else None,
                # Opportunistic TLS (RFC 7435) only protects against eavesdropping, so
                # it doesn't need a valid certificate.
                validate_certs=needs_tls,
                timeout=SMTP_TIMEOUT,
            )
            async with client:
                if is_dry_run:
                    await client.noop()
                else:
                    await client.send_message(message)
                    counts[EMAILS_SENT] += 1
    except TimeoutError as error:
        raise aiosmtplib.SMTPTimeoutError("The delivery timed out") from error


def _connect() -> tuple[str, socket.socket]:
    """Look up the local host name and connect to the server. Both can block."""
    address = (settings.mail_server, settings.mail_port)
    try:
        name = socket.getfqdn()
        sock = socket.create_connection(address, SMTP_TIMEOUT)
    # UnicodeError: The server name is invalid (`smtp..example`, for example).
    except (OSError, UnicodeError) as error:
        raise aiosmtplib.SMTPConnectError(str(error)) from error
    # Many servers reject host names without a dot, such as those of containers.
    return (name if "." in name else _address_literal(sock)), sock


def _address_literal(sock: socket.socket) -> str:
    """Return the local IP as an address literal (RFC 5321, section 4.1.3)."""
    ip = sock.getsockname()[0]
    return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"


def _is_temporary(error: Exception) -> bool:
    """Return whether another attempt may succeed (RFC 5321, section 4.2.1)."""
    is_smtp_error = isinstance(error, aiosmtplib.SMTPException)
    if not is_smtp_error or isinstance(error, aiosmtplib.SMTPNotSupported):
        return False
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(refused.code < 500 for refused in error.recipients)
    code = getattr(error, "code", None)
    return code is None or code < 500


def error_summary(error: BaseException) -> str:
    """Return the type and code of an error. Its message may contain email addresses."""
    refused = getattr(error, "recipients", [None])
    code = getattr(error, "code", getattr(refused[0], "code", None))
    errno = getattr(error.__cause__ or error, "errno", None)
    parts = (type(error).__name__, code, errno and f"errno {errno}")
    return " ".join(str(part) for part in parts if part is not None)


def _write_to_outbox(message: EmailMessage, *, is_dry_run: bool) -> None:
    settings.outbox_dir.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{uuid.uuid4().hex[:8]}.eml"
    path = settings.outbox_dir / name
    # Rename the file when it is complete, so that an .eml file is never incomplete.
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(message.as_bytes())
    if is_dry_run:
        unfinished.unlink()
    else:
        unfinished.replace(path)
        logger.info("MAIL_SERVER is not set: email written to %s", path)


async def send_password_reset_email(
    *, to_email: str, username: str, token: str, is_dry_run: bool = False
) -> None:
    """Send a password reset link. Errors are logged, not raised.

    The link is built from `FRONTEND_URL`, because clients can forge the `Host` header.
    """
    await send_email_with_link(
        "password_reset",
        to_email=to_email,
        subject="Reset your password",
        username=username,
        path=f"/reset-password?token={quote(token)}",
        expire_minutes=settings.reset_token_expire_minutes,
        is_dry_run=is_dry_run,
    )


async def simulate_password_reset_email(*, to_email: str, token: str) -> None:
    """Do the same work as `send_password_reset_email` without sending an email.

    This slows down concurrent requests as much as a request for an existing account
    does, so timing doesn't reveal which email addresses have an account.
    """
    await send_password_reset_email(
        to_email=to_email, username="Unknown", token=token, is_dry_run=True
    )


async def send_email_with_link(
    template: str,
    *,
    to_email: str,
    username: str,
    subject: str,
    path: str,
    is_dry_run: bool = False,
    **context: Any,
) -> None:
    """Send an email that links to a page. Errors are logged, not raised."""
    is_name = GREETED_NAME.fullmatch(username) is not None
    context |= {
        "greeting": f"Hello {username}," if is_name else "Hello,",
        "url": f"{settings.site_url}{path}",
        "site_name": settings.site_name,
        "contact": settings.contact_email or "the site's administrators",
    }
    try:
        await send_email(
            to_email=to_email,
            subject=f"{subject} on {settings.site_name}",
            plain_text=templates.get_template(f"{template}.txt").render(context),
            html_content=templates.get_template(f"{template}.html").render(context),
            kind=template,
            is_dry_run=is_dry_run,
        )
    except asyncio.CancelledError:
        log_dropped_email(template, "the server is stopping")
        raise
    except (aiosmtplib.SMTPException, OSError) as error:
        log_dropped_email(template, error_summary(error))
