"""Deletion of many posts, in batches."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

import account_deletion
from account_deletion import delete_posts_of
from models import Post
from tests.conftest import add_posts, create_post, get_user_id

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "deleted"),
    [(None, 5), (START, 5), (START + timedelta(days=1), 3)],
    ids=["all", "since the first", "since the second date"],
)
async def test_batches(client, db, ada, bob, monkeypatch, since, deleted):
    monkeypatch.setattr(account_deletion, "BATCH_SIZE", 2)
    user_id = await get_user_id(client, ada)
    # Some posts have the same date.
    await add_posts(db, user_id, [START + timedelta(days=n // 2) for n in range(5)])
    await create_post(client, bob)

    number = await delete_posts_of(db, user_id, since=since)

    assert number == deleted
    assert await db.scalar(select(func.count(Post.id))) == 6 - deleted
