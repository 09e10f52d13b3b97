"""Triggers update the post counts in the transaction of each change."""

import asyncio

import pytest
from httpx import AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from database import AsyncSessionLocal
from queries import SITE

Counts = dict[int, int]

ADD_USERS = """
    INSERT INTO users (id, username, email, password_hash)
    SELECT n, 'user' || n, n || '@example.com', '-' FROM generate_series(1, 3) AS n
"""
ADD_POSTS = """
    INSERT INTO posts (id, title, content, user_id)
    SELECT n, 'A title', 'Words', (n + 2) / 3 FROM generate_series(1, 9) AS n
"""
COUNTS = """
    SELECT user_id, sum(posts) FROM post_counts GROUP BY user_id HAVING sum(posts) <> 0
"""
NEXT_ID = "SELECT nextval('posts_id_seq')"
DELETE_ONE = """
    DELETE FROM posts WHERE id = (
        SELECT id FROM posts WHERE user_id = 2 LIMIT 1 FOR UPDATE SKIP LOCKED
    )
"""
THREE_EACH = {SITE: 9, 1: 3, 2: 3, 3: 3}


@pytest.fixture
async def posts(db: AsyncSession) -> None:
    """Add posts 1 to 9, three by each of three users."""
    await db.execute(text(ADD_USERS))
    await db.execute(text(ADD_POSTS))


async def read_counts(db: AsyncSession) -> Counts:
    rows = await db.execute(text(COUNTS))
    return {row.user_id: row.sum for row in rows}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM posts WHERE id IN (1, 4, 5, 6)", {SITE: 5, 1: 2, 3: 3}),
        ("DELETE FROM users WHERE id = 2", {SITE: 6, 1: 3, 3: 3}),
        ("UPDATE posts SET user_id = 3 WHERE id < 3", THREE_EACH | {1: 1, 3: 5}),
        ("UPDATE posts SET user_id = 1 WHERE id = 9", THREE_EACH | {1: 4, 3: 2}),
        ("UPDATE posts SET title = 'Another title'", THREE_EACH),
        ("TRUNCATE posts CASCADE", {}),
        (ADD_POSTS.replace("SELECT n", "SELECT n + 9"), {SITE: 18, 1: 6, 2: 6, 3: 6}),
    ],
    ids=["delete", "cascade", "move", "move back", "edit", "truncate", "insert"],
)
async def test_change(
    db: AsyncSession, posts: None, change: str, expected: Counts
) -> None:
    await db.execute(text(change))

    assert await read_counts(db) == expected


async def test_rollback(db: AsyncSession, posts: None) -> None:
    savepoint = await db.begin_nested()
    await db.execute(text("DELETE FROM posts"))

    await savepoint.rollback()

    assert await read_counts(db) == THREE_EACH


async def test_deleted_user_leaves_no_row(db: AsyncSession, posts: None) -> None:
    await db.execute(text("DELETE FROM posts WHERE user_id = 1"))

    await db.execute(text("DELETE FROM users WHERE id IN (1, 2)"))

    remaining = await db.scalars(text("SELECT DISTINCT user_id FROM post_counts"))
    assert {*remaining} == {SITE, 3}


async def test_concurrent_changes(concurrent_client: AsyncClient) -> None:
    async def write_and_delete() -> None:
        async with AsyncSessionLocal() as session:
            for _ in range(10):
                await session.execute(text(ADD_POSTS.replace("SELECT n", NEXT_ID)))
                await session.execute(text(DELETE_ONE))
                await session.commit()

    async with AsyncSessionLocal() as session:
        await session.execute(text(ADD_USERS))
        await session.commit()

    await asyncio.gather(*(write_and_delete() for _ in range(16)))

    async with AsyncSessionLocal() as session:
        assert await read_counts(session) == {SITE: 1280, 1: 480, 2: 320, 3: 480}


class TestRecount:
    async def test_corrects_counts(self, db: AsyncSession, posts: None) -> None:
        await db.execute(text("UPDATE post_counts SET posts = 5 WHERE user_id = 1"))
        await db.execute(text("DELETE FROM post_counts WHERE user_id = 3"))
        await db.execute(text("INSERT INTO post_counts VALUES (7, 0, 1)"))

        corrected = await db.execute(text("SELECT * FROM recount_posts()"))

        assert [tuple(row) for row in corrected] == [(1, 5, 3), (3, 0, 3), (7, 1, 0)]
        assert await read_counts(db) == THREE_EACH
