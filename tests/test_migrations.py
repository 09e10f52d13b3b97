"""Migrations, up and down with rows in the tables, compared with the models."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

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
# Everything that two schemas can differ in, one text line each.
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


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture
def database_url() -> Iterator[str]:
    """Create an empty database and return its URL."""
    with scratch_database(ADMIN_URL) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Create an empty database."""
    engine = create_async_engine(database_url)
    yield engine
    await engine.dispose()


async def migrate(
    database: AsyncEngine, run: Callable[[Config, str], None], revision: str
) -> None:
    """Migrate a database to a revision."""

    def run_with(connection: Connection) -> None:
        config = Config(BASE_DIR / "alembic.ini")
        config.attributes["connection"] = connection
        run(config, revision)

    async with database.connect() as connection:
        await connection.run_sync(run_with)
        await connection.commit()


async def execute(database: AsyncEngine, *statements: str) -> list[str]:
    """Run statements; return the first column of the last one's rows."""
    async with database.begin() as connection:
        results = [await connection.execute(text(line)) for line in statements]
        last = results[-1]
        return [str(row[0]) for row in last] if last.returns_rows else []


def alembic(database_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as its manual shows."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=BASE_DIR,
        env={**os.environ, "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_is_one_head_revision() -> None:
    assert SCRIPTS.get_heads() == [REVISIONS[-1]]


@pytest.mark.parametrize("revision", REVISIONS)
async def test_migration_runs_up_and_down_with_rows(
    database: AsyncEngine, revision: str
) -> None:
    script = SCRIPTS.get_revision(revision)
    before = str(script.down_revision or "base")
    await migrate(database, command.upgrade, revision)
    await execute(database, *ROWS)

    await migrate(database, command.downgrade, before)
    await migrate(database, command.upgrade, revision)

    version = await execute(database, "SELECT version_num FROM alembic_version")
    assert version == [revision]


async def test_stored_responses_become_post_ids(
    database: AsyncEngine,
) -> None:
    await migrate(database, command.upgrade, "0004")
    await execute(
        database,
        *ROWS,
        """INSERT INTO idempotency_keys (user_id, key, fingerprint, answer)
           SELECT user_id, id, '', json_build_object('id', id)::text FROM posts""",
        """INSERT INTO idempotency_keys (user_id, key, fingerprint, answer)
           SELECT id, 'deleted', '', '{"id": 2147483647}' FROM users""",
        """INSERT INTO idempotency_keys (user_id, key, fingerprint, answer)
           SELECT id, 'empty', '', '' FROM users""",
    )

    await migrate(database, command.upgrade, "0005")

    found = await execute(
        database,
        "SELECT key || '=' || coalesce(post_id::text, '') FROM idempotency_keys "
        "ORDER BY key",
    )
    assert found == ["1=1", "2=2", "deleted=", "deleted=", "empty=", "empty="]


async def test_keys_without_recoverable_response_are_deleted(
    database: AsyncEngine,
) -> None:
    await migrate(database, command.upgrade, "0005")
    await execute(
        database,
        *ROWS,
        """INSERT INTO idempotency_keys (user_id, key, fingerprint, post_id)
           SELECT user_id, 'key', '', id FROM posts""",
    )

    await migrate(database, command.downgrade, "0004")

    assert await execute(database, "SELECT count(*) FROM idempotency_keys") == ["0"]
    assert await execute(database, "SELECT count(*) FROM posts") == ["2"]


async def test_full_downgrade_with_rows_leaves_nothing(
    database: AsyncEngine,
) -> None:
    await migrate(database, command.upgrade, "head")
    await execute(database, *ROWS)

    await migrate(database, command.downgrade, "base")

    assert await execute(database, SCHEMA) == []


async def test_migrations_match_models(
    database: AsyncEngine,
) -> None:
    await migrate(database, command.upgrade, "head")
    migrated = await execute(database, SCHEMA)
    await migrate(database, command.downgrade, "base")

    async with database.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    assert await execute(database, SCHEMA) == migrated


async def test_every_foreign_key_has_an_index(database: AsyncEngine) -> None:
    await migrate(database, command.upgrade, "head")

    without = await execute(
        database,
        """SELECT conname FROM pg_constraint
           WHERE contype = 'f' AND NOT EXISTS (
               SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1]
           )""",
    )

    assert without == []


async def test_upgrade_of_current_database_keeps_rows(
    database: AsyncEngine,
) -> None:
    await migrate(database, command.upgrade, "head")
    await execute(database, *ROWS)

    await migrate(database, command.upgrade, "head")

    assert await execute(database, "SELECT count(*) FROM posts") == ["2"]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("('ADA', 'other@example.com', 'x')", id="name"),
        pytest.param("('other', 'ADA@example.com', 'x')", id="email"),
    ],
)
async def test_migrated_database_ignores_case_for_uniqueness(
    database: AsyncEngine, row: str
) -> None:
    await migrate(database, command.upgrade, "head")
    await execute(database, *ROWS)
    insert = "INSERT INTO users (username, email, password_hash) VALUES "

    added = await execute(
        database, f"{insert} {row} ON CONFLICT DO NOTHING RETURNING id"
    )

    assert added == []


async def test_migrated_database_cascades_user_deletion(
    database: AsyncEngine,
) -> None:
    await migrate(database, command.upgrade, "head")
    await execute(database, *ROWS, "DELETE FROM users WHERE username = 'ada'")

    assert await execute(database, "SELECT count(*) FROM posts") == ["1"]
    assert await execute(database, "SELECT count(*) FROM password_reset_tokens") == [
        "1"
    ]


def test_command_migrates_and_check_finds_no_changes(
    database_url: str,
) -> None:
    upgraded = alembic(database_url, "upgrade", "head")

    checked = alembic(database_url, "check")

    assert (upgraded.returncode, checked.returncode) == (0, 0), checked.stderr
    assert "No new upgrade operations detected" in checked.stdout + checked.stderr


def test_command_prints_sql_for_the_schema(database_url: str) -> None:
    printed = alembic(database_url, "upgrade", "head", "--sql")

    assert printed.returncode == 0, printed.stderr
    assert "CREATE TABLE users" in printed.stdout
    assert "lower(username)" in printed.stdout
    assert printed.stdout.rstrip().endswith("COMMIT;")


def test_unreachable_database_is_reported_in_one_line() -> None:
    result = alembic("postgresql://ada:database-password@127.0.0.1:1/x", "current")

    assert result.returncode != 0
    assert "Database unavailable" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert "database-password" not in result.stderr
