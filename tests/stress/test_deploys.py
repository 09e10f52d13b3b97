"""Concurrent and blocked migrations, and the older app on the new schema."""

import asyncio
import io
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from config import BASE_DIR
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer, clean_environment


@pytest.fixture
def empty_database() -> Iterator[str]:
    with scratch_database(ADMIN_URL) as url:
        yield url


def alembic(database_url: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=BASE_DIR,
        env=clean_environment(DATABASE_URL=database_url, SECRET_KEY="k" * 32),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_concurrent_migrations(stress):
    results = []
    for _ in range(20 if stress else 2):
        with scratch_database(ADMIN_URL) as url:
            commands = [alembic(url, "upgrade", "head") for _ in range(3)]
            results += [
                (command.communicate()[1], command.returncode) for command in commands
            ]

    assert [printed for printed, status in results if status != 0] == []


async def test_locked_table(empty_database, figures):
    alembic(empty_database, "upgrade", "head").communicate()
    dsn = empty_database.replace("+asyncpg", "")
    blocker, reader = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.fetch("SELECT FROM users")

    command = alembic(empty_database, "downgrade", "base")
    slowest = 0.0
    while command.poll() is None:
        started = time.monotonic()
        await reader.fetch("SELECT FROM users")
        slowest = max(slowest, time.monotonic() - started)
        await asyncio.sleep(0.05)

    printed = command.communicate()[1]
    await transaction.rollback()
    await blocker.close()
    await reader.close()
    assert command.returncode != 0
    assert "other transactions have locked a table" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    figures.add_seconds("slowest read behind a migration", slowest, limit=6)


def unpack_older_app(folder: Path) -> None:
    """Unpack the app as it was before the newest migration was added."""
    added = ("--diff-filter=A", "--", "alembic/versions")
    newest = git("log", "-1", "--format=%H", *added).decode().strip()
    archive = git("archive", f"{newest}^")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def git(*arguments: str) -> bytes:
    return subprocess.check_output(["git", *arguments], cwd=BASE_DIR)


def test_older_app_on_new_schema(tmp_path, empty_database):
    unpack_older_app(tmp_path / "older")
    server = LiveServer(tmp_path, database_url=empty_database)
    server.migrate()
    server.directory = tmp_path / "older"
    server.start()

    def use(number: int) -> list[int]:
        person = server.sign_up(f"user{number}")
        statuses = []
        for _ in range(25):
            post = server.write(person)
            paths = ("/", "/api/posts", f"/posts/{post['id']}")
            statuses += [server.client.get(path).status_code for path in paths]
            server.call("DELETE", f"/api/posts/{post['id']}", person)
        return statuses

    with ThreadPoolExecutor(8) as threads:
        statuses = Counter(
            status for found in threads.map(use, range(8)) for status in found
        )
    server.stop()
    server.client.close()

    assert statuses == {200: 600}
