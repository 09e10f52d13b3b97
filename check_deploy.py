"""Verify a deployment and print one line per check: `python check_deploy.py --help`."""

import asyncio
import ipaddress
import json
import os
import time
import urllib.request
from collections.abc import Awaitable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, cast
from urllib.error import URLError

import typer
from aiosmtplib import SMTPException
from sqlalchemy import make_url, text

import check_s3
from config import LIVENESS_PATH, settings
from database import DATABASE_ERRORS, VERIFYING_MODES, command_session, error_cause
from database_state import read_database_state
from email_utils import build_message, deliver, error_summary

HTTP_TIMEOUT = 10
RETRY_INTERVAL = 2
# A random key has at least this many distinct characters.
MIN_DISTINCT_CHARACTERS = 16
# Reserved for documentation (RFC 5737), so it can't be the IP of a real client.
FORGED_IP = "203.0.113.99"
# Connections left for the app: not reserved for superusers or used by other programs.
FREE_CONNECTIONS = text(
    "SELECT current_setting('max_connections')::int "
    "- current_setting('superuser_reserved_connections')::int "
    "- count(*) FILTER (WHERE application_name NOT LIKE 'fastapi-blog%') "
    "FROM pg_stat_activity WHERE backend_type = 'client backend'"
)

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Status
    message: str


def result(name: str, problem: str | None, success: str) -> Check:
    """Return an error if there is a problem, otherwise a success."""
    return Check(name, "error", problem) if problem else Check(name, "ok", success)


async def check_database() -> list[Check]:
    try:
        async with command_session() as db:
            state = await read_database_state(db)
            free = await db.scalar(FREE_CONNECTIONS) or 0
    except DATABASE_ERRORS as error:
        return [Check("database", "error", error_cause(error))]
    schema = result("database", state.problem, f"writable, schema {state.revision}")
    return [schema, check_tls(), check_connections(free)]


def check_tls() -> Check:
    url = make_url(settings.direct_database_dsn or settings.database_dsn or "")
    mode = url.query.get("sslmode", "prefer")
    if mode in VERIFYING_MODES:
        return Check("database TLS", "ok", f"verified, sslmode={mode}")
    message = f"sslmode={mode} doesn't verify the server; use sslmode=verify-full"
    return Check("database TLS", "warning", message)


def check_connections(free: int) -> Check:
    """Check that this task and its successor can both connect during a deployment."""
    processes = int(os.environ.get("WEB_CONCURRENCY", "1"))
    needed = 2 * processes * (settings.db_pool_size + 1)
    message = f"{needed} needed by two tasks, {free} available"
    status: Status = "ok" if needed <= free else "error"
    return Check("database connections", status, message)


def check_storage() -> Iterator[Check]:
    if settings.s3_bucket_name is None:
        message = "S3_BUCKET_NAME is not set; pictures are files"
        yield Check("S3", "warning", message)
        return
    for name, is_ok, message in check_s3.run_steps():
        yield Check(f"S3 {name}", "ok" if is_ok else "error", message)


async def check_email(recipient: str | None) -> Check:
    if settings.mail_server is None:
        message = "MAIL_SERVER is not set; emails are files"
        return Check("email", "warning", message)
    text = "Emails of your blog are delivered."
    email = build_message(recipient or settings.mail_from, "Test", text, text)
    try:
        await deliver(email, is_dry_run=recipient is None)
    except (SMTPException, OSError) as error:
        return Check("email", "error", error_summary(error))
    success = "connected and logged in" if recipient is None else "test email sent"
    return Check("email", "ok", success)


async def check_redis() -> Check:
    if settings.redis_url is None:
        message = "REDIS_URL is not set; each process counts rate limits separately"
        return Check("Redis", "ok", message)
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(settings.redis_url.get_secret_value())
    try:
        # The annotation also covers pipelines, whose results can't be awaited.
        await cast("Awaitable[bool]", client.ping())
    except (RedisError, OSError) as error:
        return Check("Redis", "error", type(error).__name__)
    finally:
        await client.aclose()
    return Check("Redis", "ok", "reachable")


def check_site() -> Iterator[Check]:
    """Request the site through its proxies, as a client does."""
    url = settings.site_url
    if not url.startswith("https://"):
        yield Check("FRONTEND_URL", "warning", f"{url} is not https")
    try:
        client_ip = get_client_ip(f"{url}{LIVENESS_PATH}")
    except (URLError, OSError) as error:
        yield Check("site", "error", f"{url}: {error}")
        return
    yield Check("site", "ok", f"{url} responds")
    yield result("client IP", client_ip_problem(client_ip), client_ip)


def get_client_ip(url: str) -> str:
    """Return the client IP as the site sees it, despite a forged header."""
    request = urllib.request.Request(url, headers={"X-Forwarded-For": FORGED_IP})  # noqa: S310 -- settings allow only http(s) URLs
    with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT) as response:  # noqa: S310 -- same URL
        return str(response.headers.get("X-Client-IP", ""))


def client_ip_problem(client_ip: str) -> str | None:
    hops = f"TRUSTED_PROXY_HOPS is {settings.proxy_hops}"
    if client_ip == FORGED_IP:
        return f"clients can forge their IP; {hops}, which is too high"
    if not client_ip or ipaddress.ip_address(client_ip).is_private:
        return f"the site sees the IP {client_ip} of a proxy; {hops}, which is too low"
    return None


def check_key() -> Check:
    if len(set(settings.signing_key)) < MIN_DISTINCT_CHARACTERS:
        return Check("SECRET_KEY", "warning", "looks guessable; create a random one")
    return Check("SECRET_KEY", "ok", "strong")


async def run_checks(email: str | None) -> list[Check]:
    return [
        check_key(),
        *await check_database(),
        *check_storage(),
        await check_email(email),
        await check_redis(),
        *check_site(),
    ]


def main(
    *,
    email: Annotated[str | None, typer.Option(help="Send a test email.")] = None,
    wait: Annotated[float, typer.Option(help="Retry for this many seconds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the services of the configured blog, and the site as clients see it.

    The exit status is 1 if there is an error. Warnings don't count.
    """
    deadline = time.monotonic() + wait
    while True:
        checks = asyncio.run(run_checks(email))
        has_errors = any(check.status == "error" for check in checks)
        if not has_errors or time.monotonic() >= deadline:
            break
        time.sleep(RETRY_INTERVAL)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            typer.echo(f"{check.status:<8} {check.name}: {check.message}")
    raise typer.Exit(int(has_errors))


if __name__ == "__main__":
    typer.run(main)
