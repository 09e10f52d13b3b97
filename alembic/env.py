"""Run migrations on the configured database."""

import asyncio
import logging
from functools import partial

from alembic import context
from sqlalchemy import Connection, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

import models
from database import DatabaseUnavailable, connect, dispose_engine

logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")


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
    """Connect to the configured database and run migrations."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        # Migrations may take longer than the timeouts for requests allow.
        async_creator=partial(connect, for_requests=False),
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()
    except DatabaseUnavailable as error:
        raise SystemExit(f"Database unavailable: {error}") from None
    finally:
        await dispose_engine()


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
