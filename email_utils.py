"""Mail: builds messages and hands them to the SMTP server, or to the outbox."""

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosmtplib
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from config import BASE_DIR, LOCAL_HOSTS, settings

logger = logging.getLogger(__name__)

IMPLICIT_TLS_PORT = 465
# For each exchange with the server, and for all of them together.
SMTP_SECONDS = 5
DELIVERY_SECONDS = 12
# Pauses before the second, third and fourth attempt.
RETRY_SECONDS = (1.0, 5.0, 25.0)

# As many as ask a server at once; used on the loop of the mails alone.
_deliveries = asyncio.Semaphore(3)

templates = Environment(
    loader=FileSystemLoader(BASE_DIR / "templates" / "email"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
)


async def send_email(
    *, to_email: str, subject: str, plain_text: str, html_content: str
) -> None:
    """Send one mail, as text and as HTML, or write it to `var/outbox`.

    Tries again a few times with growing pauses when the fault may pass.

    Raises:
        aiosmtplib.SMTPException: The server refused it, or could not be reached.
        OSError: The outbox cannot be written, or TLS does not come about (`SSLError`).
    """
    message = EmailMessage()
    message["From"] = settings.mail_from
    message["To"] = to_email
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=_domain(settings.mail_from))
    message.set_content(plain_text)
    message.add_alternative(html_content, subtype="html")
    if settings.mail_server is None:
        path = await asyncio.to_thread(_write_to_outbox, message)
        logger.info("MAIL_SERVER is not set: mail written to %s", path)
        return
    for pause in RETRY_SECONDS:
        try:
            await _deliver(message)
        except aiosmtplib.SMTPException as error:
            if not _may_pass(error):
                raise
            logger.warning("Mail not sent (%s), next try in %g s", reason(error), pause)
            await asyncio.sleep(pause)
        else:
            return
    await _deliver(message)


class MailLoop(asyncio.SelectorEventLoop):
    """An event loop, in a thread of its own, whose look-ups keep nobody else waiting.

    Names are looked up in threads, one each for as long as it takes. On the loop that
    serves requests these are the few that the database needs too; and the process does
    not end before the threads of an executor have.
    """

    # asyncio's own types link the function to its arguments and result; these do not.
    def run_in_executor(  # type: ignore[override]
        self,
        executor: Executor | None,  # noqa: ARG002 -- asyncio has it
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """Call a function that blocks in a thread that nobody waits for at the end."""
        job: Future[Any] = Future()

        def run() -> None:
            try:
                job.set_result(func(*args))
            # Whoever waits for it gets to know.
            except Exception as error:  # noqa: BLE001
                job.set_exception(error)

        job.set_running_or_notify_cancel()
        threading.Thread(target=run, name="mail look-up", daemon=True).start()
        return asyncio.wrap_future(job, loop=self)


@cache
def _mail_loop() -> MailLoop:
    loop = MailLoop()
    threading.Thread(target=loop.run_forever, name="mail", daemon=True).start()
    return loop


async def _deliver(message: EmailMessage) -> None:
    delivery = asyncio.run_coroutine_threadsafe(_hand_over(message), _mail_loop())
    await asyncio.wrap_future(delivery)


async def _hand_over(message: EmailMessage) -> None:
    password = settings.mail_password
    needs_tls = settings.mail_use_tls or _would_leak_login()
    implicit_tls = settings.mail_use_tls and settings.mail_port == IMPLICIT_TLS_PORT
    try:
        async with _deliveries, asyncio.timeout(DELIVERY_SECONDS):
            await aiosmtplib.send(
                message,
                hostname=settings.mail_server,
                port=settings.mail_port,
                username=settings.mail_username,
                password=password.get_secret_value() if password else None,
                use_tls=implicit_tls,
                # None takes STARTTLS where the server offers it, True fails where it
                # does not.
                start_tls=True if needs_tls and not implicit_tls else None,
                # Encryption that is taken only where it is offered keeps out who
                # listens, not who interferes (RFC 7435): a certificate proves nothing
                # then.
                validate_certs=needs_tls,
                timeout=SMTP_SECONDS,
            )
    except TimeoutError as error:
        raise aiosmtplib.SMTPTimeoutError("The server is too slow") from error


def _would_leak_login() -> bool:
    """Whether name and password would cross a network that others may listen to."""
    return settings.mail_username is not None and (
        settings.mail_server not in LOCAL_HOSTS
    )


def _may_pass(error: aiosmtplib.SMTPException) -> bool:
    """Whether another try helps: not after a permanent reply (RFC 5321, 4.2.1)."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(refused.code < 500 for refused in error.recipients)
    code = getattr(error, "code", None)
    return code is None or code < 500


def reason(error: BaseException) -> str:
    """What went wrong, for the log: servers repeat the address in their texts."""
    code = getattr(error, "code", None)
    return type(error).__name__ if code is None else f"{type(error).__name__} {code}"


def _write_to_outbox(message: EmailMessage) -> Path:
    settings.outbox_dir.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{uuid.uuid4().hex[:8]}.eml"
    path = settings.outbox_dir / name
    # Under its name it is whole: others look for what ends in ".eml".
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(message.as_bytes())
    return unfinished.replace(path)


def _domain(address: str) -> str:
    return parseaddr(address)[1].rpartition("@")[2] or "localhost"


async def send_password_reset_email(
    *, to_email: str, username: str, token: str
) -> None:
    """Send the link that allows a new password; a failure is logged, not raised.

    The link is built from `FRONTEND_URL` alone: a `Host` header is the client's to
    write.
    """
    await _send(
        "password_reset",
        to_email=to_email,
        subject="Reset your password",
        username=username,
        url=f"{settings.site_url}/reset-password?token={quote(token)}",
        expire_minutes=settings.reset_token_expire_minutes,
    )


async def send_password_changed_email(*, to_email: str, username: str) -> None:
    """Tell an owner that the password is new; a failure is logged, not raised."""
    await _send(
        "password_changed",
        to_email=to_email,
        subject="Your password was changed",
        username=username,
        url=f"{settings.site_url}/forgot-password",
    )


async def send_address_changed_email(*, to_email: str, username: str) -> None:
    """Tell the old address that it is no longer used; a failure is only logged."""
    await _send(
        "address_changed",
        to_email=to_email,
        subject="Your email address was changed",
        username=username,
        url=f"{settings.site_url}/account",
    )


async def _send(template: str, *, to_email: str, subject: str, **context: Any) -> None:
    """Send what two templates make, after the answer, which it must not touch."""
    try:
        await send_email(
            to_email=to_email,
            subject=subject,
            plain_text=templates.get_template(f"{template}.txt").render(context),
            html_content=templates.get_template(f"{template}.html").render(context),
        )
    except (aiosmtplib.SMTPException, OSError) as error:
        logger.error("Mail %s not sent: %s", template, reason(error))
