"""The benchmark's databases, on an embedded server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_plus

from sqlalchemy import URL, make_url

from benchmarks.progress import say
from embedded_postgres import EmbeddedPostgres
from tests.databases import execute

BATCH = 100_000
OPTIONS = [
    # Enough for the connection pools of all servers.
    "max_connections=200",
    # Autovacuum would slow down some measurements and not others.
    "autovacuum=off",
]
COUNT_BUSY = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
"""
INSERT_USERS = """
INSERT INTO users (username, email, password_hash)
SELECT 'User ' || n, 'user' || n || '@example.com', ''
FROM generate_series(1, 1000) AS n
"""
# Each post has about 1,000 bytes of content, and no two posts have the same content.
INSERT_POSTS = """
INSERT INTO posts (title, content, user_id, date_posted)
SELECT
    'Post ' || n,
    md5(n::text) || ' ' || substr(repeat(text, 4), n % 400, 960),
    n % 1000 + 1,
    timestamptz '2020-01-01 00:00Z' + n * interval '1 minute'
FROM
    generate_series({first}, {last}) AS n,
    (VALUES (
        'The rain came over the hills at six, and by seven the garden was a lake. We '
        'carried the tomatoes inside, one pot after another, and drank tea until the '
        'windows were clear again. Some plants prefer a dry week; these had asked for '
        'none. In the evening my neighbor brought bread, and a story about a flood '
        'that grows by ten centimeters a year. Tomorrow I will repair the fence. '
    )) AS texts (text)
"""


def run_sql(url: URL, statement: str) -> str:
    """Run a statement and return the first value of its result, if it has one."""
    rows = asyncio.run(execute(url, statement))
    return str(rows[0][0]) if rows else ""


def is_idle(url: URL) -> bool:
    """Return whether the server has finished all statements and transactions."""
    return run_sql(url, COUNT_BUSY) == "0"


@contextmanager
def embedded_server(folder: Path) -> Iterator[URL]:
    """Run PostgreSQL, and yield the URL of a database for administrative statements."""
    server = EmbeddedPostgres(folder / "postgres", options=OPTIONS)
    host = quote_plus(str(server.start()))
    try:
        yield make_url(
            f"postgresql+asyncpg://{server.user}@/{server.database}?host={host}"
        )
    finally:
        server.release()


def create_database(admin: URL, name: str, *, template: str = "template1") -> URL:
    run_sql(admin, f"CREATE DATABASE {name} TEMPLATE {template}")
    return admin.set(database=name)


def insert_users(url: URL) -> None:
    run_sql(url, INSERT_USERS)


def insert_posts(url: URL, number: int) -> None:
    """Insert posts, oldest first, and update the planner's statistics."""
    for first in range(1, number + 1, BATCH):
        last = min(first + BATCH - 1, number)
        run_sql(url, INSERT_POSTS.format(first=first, last=last))
        say(f"Inserted {last:,} of {number:,} posts")
    run_sql(url, "VACUUM ANALYZE")
    run_sql(url, "CHECKPOINT")
