"""Whether the database can serve requests: writable, with an up-to-date schema."""

import asyncio
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncSession

from config import BASE_DIR
from models import User

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

STATE = text(
    "SELECT current_setting('transaction_read_only') = 'on', "
    "to_regclass('alembic_version') IS NOT NULL"
)
REVISION = text("SELECT version_num FROM alembic_version")


@dataclass(frozen=True)
class DatabaseState:
    """What requests need from the database."""

    revision: str
    """Revision of the schema, or `none`."""
    is_current: bool
    """Whether the schema is at least as new as the code."""
    is_read_only: bool

    @property
    def problem(self) -> str | None:
        """Why the database can't serve requests, or None if it can."""
        if self.is_read_only:
            return "the server is read-only"
        if not self.is_current:
            return (
                f"the schema is at revision {self.revision}, and the code needs "
                f"{migrations().get_current_head()}; run: alembic upgrade head"
            )
        return None


async def read_database_state(db: AsyncSession) -> DatabaseState:
    is_read_only, has_revision = (await db.execute(STATE)).one()
    revision = await db.scalar(REVISION) if has_revision else None
    if revision is None:
        connection = await db.connection()
        is_current = await connection.run_sync(has_all_columns)
    else:
        # In a thread, because the first call reads all migrations.
        is_current = await asyncio.to_thread(is_current_revision, revision)
    if is_read_only:
        # After a failover, this connection leads to the old server.
        await db.invalidate()
    return DatabaseState(revision or "none", is_current, is_read_only)


def has_all_columns(connection: Connection) -> bool:
    """Return whether the database has the tables and columns of all models."""
    found = {
        (table, column["name"])
        for (_schema, table), columns in inspect(connection).get_multi_columns().items()
        for column in columns
    }
    needed = {
        (table.name, column.name)
        for table in User.metadata.tables.values()
        for column in table.columns
    }
    return needed <= found


def is_current_revision(revision: str) -> bool:
    """Return whether a revision is the newest, or is known only to newer code."""
    known = {script.revision for script in migrations().walk_revisions()}
    return revision not in known or revision == migrations().get_current_head()


@cache
def migrations() -> "ScriptDirectory":
    """Return the migrations of this code."""
    # Imported on first use, because this takes 0.1 seconds.
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(Config(BASE_DIR / "alembic.ini"))
