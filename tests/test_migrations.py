"""Upgrades and downgrades of tables with rows, and a comparison with the models."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from config import BASE_DIR
from database import Base
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database

SCRIPTS = ScriptDirectory(str(BASE_DIR / "alembic"))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
ROWS = (
    """INSERT INTO users (username, email, password_hash)
       VALUES ('ada', 'ada@example.com', 'x'), ('bob', 'bob@example.com', 'x')""",
    """INSERT INTO posts (title, content, user_id)
       SELECT 'A title', 'Some content', id FROM users""",
    """INSERT INTO password_reset_tokens (user_id, token_hash, expires_at)
       SELECT id, md5(email), now() FROM users""",
)
INSERT_USERS = "INSERT INTO users (username, username_key, email, password_hash)"
# Lists columns, indexes and constraints as text, so that schemas can be compared.
SCHEMA = """
    SELECT format('column %s.%s %s %s default %s', table_name, column_name,
                  coalesce(character_maximum_length::text, '') || data_type,
                  is_nullable, column_default)
    FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    UNION ALL
    SELECT format('index %s', indexdef) FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL
    SELECT format('constraint %s on %s %s', conname, conrelid::regclass,
                  pg_get_constraintdef(oid))
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
      AND conrelid <> coalesce(to_regclass('alembic_version')::oid, 0)
    ORDER BY 1
"""


@pytest.fixture
def database_url() -> Iterator[str]:
    with scratch_database(ADMIN_URL) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    yield engine
    await engine.dispose()


async def migrate(database: AsyncEngine, revision: str, *, down: bool = False) -> None:
    def run(connection: Connection) -> None:
        config = Config(BASE_DIR / "alembic.ini")
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)

    async with database.begin() as connection:
        await connection.run_sync(run)


async def execute(database: AsyncEngine, *statements: str) -> list[str]:
    """Run statements, and return the first column of the last statement's rows."""
    async with database.begin() as connection:
        results = [await connection.execute(text(line)) for line in statements]
        last = results[-1]
        return [str(row[0]) for row in last] if last.returns_rows else []


class TestRevisions:
    @pytest.mark.parametrize("revision", REVISIONS)
    async def test_down_and_up_with_rows(self, database, revision):
        before = SCRIPTS.get_revision(revision).down_revision or "base"
        await migrate(database, revision)
        await execute(database, *ROWS)

        await migrate(database, str(before), down=True)
        await migrate(database, revision)

        version = await execute(database, "SELECT version_num FROM alembic_version")
        assert version == [revision]

    async def test_0005_turns_responses_into_post_ids(self, database):
        await migrate(database, "0004")
        await execute(
            database,
            *ROWS,
            """INSERT INTO idempotency_keys (user_id, key, fingerprint, answer)
               SELECT user_id, id, '', json_build_object('id', id)::text FROM posts""",
            """INSERT INTO idempotency_keys (user_id, key, fingerprint, answer)
               VALUES (1, 'deleted', '', '{"id": 2147483647}'), (1, 'empty', '', '')""",
        )

        await migrate(database, "0005")

        query = "SELECT key || '=' || coalesce(post_id, 0) FROM idempotency_keys"
        found = await execute(database, f"{query} ORDER BY key")
        assert found == ["1=1", "2=2", "deleted=0", "empty=0"]

    async def test_0005_deletes_keys_on_downgrade(self, database):
        await migrate(database, "0005")
        await execute(
            database,
            *ROWS,
            """INSERT INTO idempotency_keys (user_id, key, fingerprint, post_id)
               SELECT user_id, 'key', '', id FROM posts""",
        )

        await migrate(database, "0004", down=True)

        assert await execute(database, "SELECT id FROM idempotency_keys") == []
        assert await execute(database, "SELECT count(*) FROM posts") == ["2"]

    async def test_0006_keeps_older_usernames(self, database):
        await migrate(database, "0005")
        await execute(
            database,
            INSERT_USERS + " VALUES ('Ａda', 'ａda', 'a', ''), ('ada', 'ada', 'b', ''),"
            "('a  b', 'a  b', 'c', ''), ('old', NULL, 'd', '')",
        )

        await migrate(database, "0006")

        keys = await execute(database, "SELECT username_key FROM users ORDER BY email")
        assert keys == ["ada", "\n2", "a b", "old"]

    async def test_0006_restores_keys_on_downgrade(self, database):
        await migrate(database, "0006")
        users = " VALUES ('Ａda', 'ada', 'a', ''), ('ada', E'\\n2', 'b', '')"
        await execute(database, INSERT_USERS + users)

        await migrate(database, "0005", down=True)

        keys = await execute(database, "SELECT username_key FROM users ORDER BY email")
        assert keys == ["ａda", "ada"]


class TestSchema:
    async def test_matches_models_and_downgrades(self, database):
        await migrate(database, "head")
        migrated = await execute(database, *ROWS, SCHEMA)
        await migrate(database, "base", down=True)
        left = await execute(database, SCHEMA)

        async with database.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        assert await execute(database, SCHEMA) == migrated
        assert left == []

    async def test_foreign_keys_have_indexes(self, database):
        await migrate(database, "head")

        without_index = """
            SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT EXISTS (
                SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1]
            )"""
        assert await execute(database, without_index) == []


# As in alembic/env.py, which only Alembic can import.
LOCK_ID = 7_315_204_118
UNREACHABLE = "postgresql://ada:database-password@127.0.0.1:1/blog"


@contextmanager
def running(database_url: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start Alembic, and kill it at the end if it is still running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=BASE_DIR,
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def alembic(database_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    with running(database_url, *arguments) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def find_line(lines: Iterable[str] | None, text: str) -> str:
    """Return the first line that contains this text."""
    return next(line for line in lines or () if text in line)


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the database as another client."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    yield connection
    await connection.close()


async def wait_until_idle(connection: asyncpg.Connection) -> None:
    """Wait until another client of this database has been idle for 0.3 seconds."""
    idle = """SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid()
              AND datname = current_database() AND state = 'idle'
              AND state_change < clock_timestamp() - interval '0.3 seconds'"""
    async with asyncio.timeout(30):
        while not await connection.fetch(idle):  # noqa: ASYNC110 -- there is no event
            await asyncio.sleep(0.05)


class TestCommand:
    def test_upgrade_and_check(self, database_url):
        upgraded = alembic(database_url, "upgrade", "head")

        checked = alembic(database_url, "check")

        assert (upgraded.returncode, checked.returncode) == (0, 0), checked.stderr
        assert "No new upgrade operations detected" in checked.stdout + checked.stderr

    async def test_waits_for_another_migration(self, database_url, other):
        await other.execute(f"SELECT pg_advisory_lock({LOCK_ID})")
        with running(database_url, "upgrade", "head") as waiting:
            await wait_until_idle(other)
            has_started = await other.fetchval("SELECT to_regclass('alembic_version')")

            await other.close()

            waiting.communicate(timeout=60)
        assert has_started is None
        assert waiting.returncode == 0

    async def test_tries_again_if_a_table_is_locked(self, database_url, other):
        assert alembic(database_url, "upgrade", "head").returncode == 0
        transaction = other.transaction()
        await transaction.start()
        await other.fetch("SELECT FROM users")
        with running(database_url, "downgrade", "base") as waiting:
            warning = (waiting.stderr, "Attempt 1 of 5: a table is locked")
            await asyncio.wait_for(asyncio.to_thread(find_line, *warning), 60)

            await transaction.rollback()

            waiting.communicate(timeout=60)
        assert waiting.returncode == 0

    def test_sql(self):
        printed = alembic(UNREACHABLE, "upgrade", "head", "--sql")

        assert printed.returncode == 0, printed.stderr
        assert "CREATE TABLE users" in printed.stdout
        assert printed.stdout.rstrip().endswith("COMMIT;")

    def test_unreachable_database(self):
        result = alembic(UNREACHABLE, "-x", "wait=0", "current")

        assert result.returncode != 0
        assert "Database unavailable" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert "database-password" not in result.stderr
