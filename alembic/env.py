"""Runs migrations over the application's own engine, wherever its settings point."""

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
    """Bring an open connection's database to where the command wants it."""
    context.configure(
        connection=connection,
        target_metadata=models.User.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_online() -> None:
    """Migrate the database of the settings."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        # A migration may take longer than what a request asks for.
        async_creator=partial(connect, limits_statements=False),
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()
    except DatabaseUnavailable as error:
        raise SystemExit(f"The database cannot be reached: {error}") from None
    finally:
        await dispose_engine()


def migrate_offline() -> None:
    """Print the statements instead of running them (`--sql`)."""
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
    # A caller's own: the tests migrate databases of theirs.
    migrate(connection)
else:
    asyncio.run(migrate_online())
