"""Run migrations on the configured database."""

import asyncio
import logging
import time
from typing import Any

import asyncpg
from alembic import context
from sqlalchemy import Connection, NullPool, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

import models
from database import LOCK_NOT_AVAILABLE, DatabaseUnavailable, connect, sqlstate
from logs import configure_logging

logger = logging.getLogger(__name__)

# Seconds to wait for a database that is starting (`alembic -x wait=0 ...`), for another
# migration, and for a lock on a table.
START_TIMEOUT = 30
MIGRATION_TIMEOUT = 600
LOCK_TIMEOUT = 5
RETRY_DELAY = 2
MAX_ATTEMPTS = 5
# Any number that no other application uses for advisory locks in this database.
LOCK_ID = 7_315_204_118

OPTIONS = context.get_x_argument(as_dictionary=True)

configure_logging()


def migrate(connection: Connection) -> None:
    """Run migrations on an open connection."""
    context.configure(
        connection=connection,
        target_metadata=models.User.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_online() -> None:
    """Connect to the configured database and run migrations, one process at a time."""
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect_when_started, poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            await wait_for_other_migrations(connection)
            await migrate_when_unlocked(connection)
    except DatabaseUnavailable as error:
        raise SystemExit(f"Database unavailable: {error}") from None


async def connect_when_started() -> Any:
    """Connect to the database, and wait for it if it is still starting."""
    deadline = time.monotonic() + float(OPTIONS.get("wait", START_TIMEOUT))
    while True:
        try:
            return await connect(for_requests=False)
        except DatabaseUnavailable as error:
            may_be_starting = isinstance(
                error.__cause__, (OSError, asyncpg.CannotConnectNowError)
            )
            if not may_be_starting or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(1)


async def wait_for_other_migrations(connection: AsyncConnection) -> None:
    """Wait for other migrations, and block new ones until this connection closes."""
    deadline = time.monotonic() + MIGRATION_TIMEOUT
    # Don't wait inside a statement: CREATE INDEX CONCURRENTLY waits for statements.
    while not await connection.scalar(select(func.pg_try_advisory_lock(LOCK_ID))):
        await connection.commit()
        if time.monotonic() >= deadline:
            raise SystemExit(
                f"Gave up: another migration has run for {MIGRATION_TIMEOUT} seconds"
            )
        await asyncio.sleep(0.5)
    await connection.commit()


async def migrate_when_unlocked(connection: AsyncConnection) -> None:
    """Run migrations, and try again if a table is locked.

    While a migration waits for a lock, all other statements on the table wait too.
    """
    await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}s'"))
    await connection.commit()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            await connection.run_sync(migrate)
            await connection.commit()
        except DBAPIError as error:
            await connection.rollback()
            if sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
            logger.warning("Attempt %d of %d: a table is locked", attempt, MAX_ATTEMPTS)
        else:
            return
        await asyncio.sleep(RETRY_DELAY)
    raise SystemExit(
        "Gave up: other transactions have locked a table for a long time; end them, "
        "and migrate again"
    )


def migrate_offline() -> None:
    """Print SQL statements instead of executing them (`--sql`)."""
    context.configure(
        target_metadata=models.User.metadata,
        dialect_name="postgresql",
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    migrate_offline()
elif connection := context.config.attributes.get("connection"):
    # Tests pass a connection to their own database.
    migrate(connection)
else:
    asyncio.run(migrate_online())
