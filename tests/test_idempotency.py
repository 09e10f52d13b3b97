"""Idempotency keys: repeated requests publish a post once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import QueuePool

import idempotency
from database import AsyncSessionLocal, DatabaseUnavailable, engine
from models import IdempotencyKey, Post, User, utcnow
from tests.conftest import create_post, get_user_id, sign_up

CROWD = 20
DAY = timedelta(hours=24)
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
POST = {"title": "Tea", "content": "Is ready."}


async def publish(
    client: AsyncClient,
    headers: dict[str, str],
    key: str | bytes | None = KEY,
    **fields: Any,
) -> Response:
    """Request a new post, optionally with an idempotency key."""
    headers_of_key: dict[str, Any] = {} if key is None else {"Idempotency-Key": key}
    return await client.post(
        "/api/posts", json={**POST, **fields}, headers={**headers, **headers_of_key}
    )


async def count(db: AsyncSession, model: type[Any]) -> int:
    """Return how many rows a table has."""
    return await db.scalar(select(func.count(model.id))) or 0


def get_replayed_parts(response: Response) -> tuple[Any, ...]:
    """Return the parts of a response that a repeated request must return again."""
    headers = [response.headers.get(name) for name in ("etag", "location")]
    return response.status_code, response.content, *headers


# Replays


async def test_repeated_request_returns_same_response(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    first = await publish(client, ada)

    second = await publish(client, ada)

    assert first.status_code == 201
    assert first.headers["location"] == f"/api/posts/{first.json()['id']}"
    assert get_replayed_parts(second) == get_replayed_parts(first)
    assert await count(db, Post) == 1


async def test_repeated_request_returns_current_post(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    first = await publish(client, ada)
    path = first.headers["location"]
    await client.patch(path, json={"title": "Coffee"}, headers=ada)
    user_path = f"/api/users/{first.json()['user_id']}"
    await client.patch(user_path, json={"username": "lady"}, headers=ada)
    current = await client.get(path)

    second = await publish(client, ada)

    assert second.status_code == 201
    assert second.json() == current.json()
    assert second.json()["title"] == "Coffee"
    assert second.json()["author"]["username"] == "lady"
    assert second.headers["location"] == path
    assert second.headers["etag"] == current.headers["etag"]
    assert await count(db, Post) == 1


async def test_repeated_request_for_deleted_post_is_not_found(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    first = await publish(client, ada)
    await client.delete(first.headers["location"], headers=ada)

    second = await publish(client, ada)

    assert second.status_code == 404
    assert second.json() == {"detail": "Post not found"}
    assert "location" not in second.headers
    assert await count(db, Post) == 0
    # The key does not publish anything later, either.
    assert (await publish(client, ada)).status_code == 404
    assert (await publish(client, ada, title="Coffee")).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        '{"title": "Tea", "content": "Is ready."}',
        '{"content":"Is ready.","title":"Tea"}',
        '{"title": "\\u0054ea", "content": "Is ready."}',
        '{"title": "  Tea ", "content": "Is ready.", "likes": 7}',
    ],
)
async def test_equivalent_json_is_the_same_request(
    client: AsyncClient, ada: dict[str, str], body: str
) -> None:
    first = await publish(client, ada)
    headers = {**ada, "Idempotency-Key": KEY, "Content-Type": "application/json"}

    second = await client.post("/api/posts", content=body, headers=headers)

    assert get_replayed_parts(second) == get_replayed_parts(first)


@pytest.mark.parametrize("fields", [{"title": "Coffee"}, {"content": "Was ready."}])
async def test_reused_key_is_rejected(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    fields: dict[str, str],
) -> None:
    first = await publish(client, ada)

    response = await publish(client, ada, **fields)

    assert response.status_code == 422
    assert response.json() == {"detail": "Idempotency-Key was used for another request"}
    assert await count(db, Post) == 1
    # The key still returns its original post.
    assert get_replayed_parts(await publish(client, ada)) == get_replayed_parts(first)


async def test_keys_of_two_users_are_independent(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], db: AsyncSession
) -> None:
    firsts = [
        await publish(client, ada),
        await publish(client, bob, title="Coffee"),
    ]

    seconds = [
        await publish(client, ada),
        await publish(client, bob, title="Coffee"),
    ]

    assert [first.json()["author"]["username"] for first in firsts] == ["ada", "bob"]
    assert [*map(get_replayed_parts, seconds)] == [*map(get_replayed_parts, firsts)]
    assert await count(db, Post) == 2


async def test_other_key_publishes_again(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    # Keys are compared as sent, without trimming or case folding.
    keys = ["a", "A", "a b", "a  b", '"a"']

    ids = [(await publish(client, ada, key)).json()["id"] for key in keys]

    assert len(set(ids)) == await count(db, Post) == len(keys)


async def test_request_without_key_stores_nothing(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    first = await publish(client, ada, None)
    second = await publish(client, ada, None)

    assert first.json()["id"] != second.json()["id"]
    assert await count(db, IdempotencyKey) == 0


async def test_key_only_applies_to_publishing(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    path = f"/api/posts/{(await create_post(client, ada))['id']}"
    headers = {**ada, "Idempotency-Key": KEY}

    titles = [
        (await client.patch(path, json={"title": title}, headers=headers)).json()
        for title in ("one", "two")
    ]

    assert [post["title"] for post in titles] == ["one", "two"]
    assert await count(db, IdempotencyKey) == 0


async def test_repeated_requests_do_not_count_as_posts(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = AsyncMock()
    monkeypatch.setattr("rate_limit.count", counted)

    for _ in range(3):
        await publish(client, ada)

    assert counted.await_count == 1


# Expiry


async def age_keys(db: AsyncSession, age: timedelta) -> None:
    """Make all keys this old."""
    await db.execute(update(IdempotencyKey).values(created_at=utcnow() - age))
    await db.commit()


@pytest.mark.parametrize(
    ("age", "posts"),
    [(DAY - timedelta(minutes=1), 1), (DAY + timedelta(seconds=1), 2)],
)
async def test_key_is_kept_for_24_hours(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    age: timedelta,
    posts: int,
) -> None:
    first = await publish(client, ada)
    await age_keys(db, age)

    second = await publish(client, ada)
    third = await publish(client, ada)

    assert await count(db, Post) == posts
    assert (second.json()["id"] == first.json()["id"]) == (posts == 1)
    assert get_replayed_parts(third) == get_replayed_parts(second)
    assert await count(db, IdempotencyKey) == 1


async def test_expired_key_can_be_reused(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    await publish(client, ada)
    await age_keys(db, DAY + timedelta(seconds=1))

    response = await publish(client, ada, title="Coffee")

    assert (response.status_code, response.json()["title"]) == (201, "Coffee")


async def test_expired_keys_are_deleted(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], db: AsyncSession
) -> None:
    for author in (ada, bob):
        await publish(client, author, "old")
    await age_keys(db, DAY + timedelta(seconds=1))

    await publish(client, ada, "new")
    await publish(client, bob, "newer")

    assert set(await db.scalars(select(IdempotencyKey.key))) == {"new", "newer"}
    # The posts are kept.
    assert await count(db, Post) == 4


async def test_cleanup_per_request_is_limited(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idempotency, "MAX_PRUNED", 2)
    for number in range(5):
        await publish(client, ada, str(number))
    await age_keys(db, DAY + timedelta(seconds=1))

    await publish(client, ada, "new")

    assert await count(db, IdempotencyKey) == 5 - 2 + 1


async def test_keys_are_deleted_with_their_user(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], db: AsyncSession
) -> None:
    await publish(client, ada)
    await publish(client, bob)
    user_id = await get_user_id(client, ada)

    await client.delete(f"/api/users/{user_id}", headers=ada)

    assert user_id not in set(await db.scalars(select(IdempotencyKey.user_id)))
    assert await count(db, IdempotencyKey) == 1


# Keys


@pytest.mark.parametrize(
    "key", ["a", " ~", "~" * 255, '"8e03978e"', "'; DROP TABLE posts; --", "%00"]
)
async def test_any_printable_ascii_key_is_accepted(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession, key: str
) -> None:
    responses = [await publish(client, ada, key) for _ in range(2)]

    assert [response.status_code for response in responses] == [201, 201]
    assert await count(db, Post) == 1


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "x" * 5000, "é".encode(), b"\xff", "a\tb", "a\x7f", b"a\0b"]
)
async def test_invalid_key_is_rejected(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession, key: str | bytes
) -> None:
    response = await publish(client, ada, key)

    assert response.status_code == 422
    places = [fault["loc"] for fault in response.json()["detail"]]
    assert places == [["header", "Idempotency-Key"]]
    assert await count(db, Post) == await count(db, IdempotencyKey) == 0


async def test_login_is_checked_before_key(client: AsyncClient) -> None:
    assert (await publish(client, {}, "")).status_code == 401


# Failed requests leave their key unused


async def test_invalid_body_leaves_key_unused(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    refused = await publish(client, ada, content=" ")

    assert refused.status_code == 422
    assert await count(db, IdempotencyKey) == 0
    assert (await publish(client, ada)).status_code == 201


async def test_aborted_request_leaves_key_unused(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    failing = AsyncMock(side_effect=DatabaseUnavailable("before the commit"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sqlalchemy.ext.asyncio.AsyncSession.commit", failing)
        broken = await publish(client, ada)

    assert broken.status_code == 503
    assert await count(db, Post) == await count(db, IdempotencyKey) == 0
    assert (await publish(client, ada, title="Coffee")).status_code == 201


async def test_concurrently_deleted_author_leaves_nothing(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = idempotency.claim

    async def delete_first(session: AsyncSession, user: User, *rest: str) -> Any:
        await session.execute(delete(User).where(User.id == user.id))
        return await claim(session, user, *rest)

    monkeypatch.setattr(idempotency, "claim", delete_first)

    response = await publish(client, ada)

    assert response.status_code == 401
    assert response.json() == {"detail": "Invalid or expired token"}
    assert await count(db, Post) == await count(db, IdempotencyKey) == 0


# Concurrency


@asynccontextmanager
async def running_request(user_id: int, key: str = KEY) -> AsyncIterator[AsyncSession]:
    """Hold a request with this key open."""
    async with AsyncSessionLocal() as session:
        row = IdempotencyKey(user_id=user_id, key=key, fingerprint="")
        session.add(row)
        await session.flush()
        yield session


async def test_repeated_request_does_not_wait_long_for_first(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    async with running_request(await get_user_id(concurrent_client, ada)):
        start = time.monotonic()
        response = await publish(concurrent_client, ada)
        seconds = time.monotonic() - start

    assert response.status_code == 409
    assert response.json() == {
        "detail": "A request with this Idempotency-Key is still running"
    }
    assert response.headers["retry-after"] == "1"
    assert 0.9 < seconds < 1.9
    # The first request never completed, so this one publishes.
    assert (await publish(concurrent_client, ada)).status_code == 201


async def test_request_does_not_wait_for_keys_of_others(
    concurrent_client: AsyncClient,
) -> None:
    ada, bob = [await sign_up(concurrent_client, name) for name in ("ada", "bob")]
    async with running_request(await get_user_id(concurrent_client, ada)):
        responses = [
            await publish(concurrent_client, bob),
            await publish(concurrent_client, ada, "another key"),
            await publish(concurrent_client, ada, None),
        ]

    assert [response.status_code for response in responses] == [201] * 3


async def test_lock_timeout_ends_with_the_request(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    await publish(concurrent_client, ada)

    async with AsyncExitStack() as stack:
        # One of these requests reuses the connection.
        sessions = [
            await stack.enter_async_context(AsyncSessionLocal())
            for _ in range(cast("QueuePool", engine.pool).checkedin())
        ]
        timeouts = [
            await session.scalar(text("SHOW lock_timeout")) for session in sessions
        ]

    assert set(timeouts) == {"2s"}


async def test_concurrent_equal_requests_publish_one_post(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")

    responses = await asyncio.gather(
        *(publish(concurrent_client, ada) for _ in range(CROWD))
    )

    assert len(set(map(get_replayed_parts, responses))) == 1
    assert responses[0].status_code == 201
    async with AsyncSessionLocal() as session:
        assert await count(session, Post) == 1
        assert await count(session, IdempotencyKey) == 1


async def test_concurrent_reuse_of_key_publishes_one_post(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")

    responses = await asyncio.gather(
        *(publish(concurrent_client, ada, title=str(n)) for n in range(CROWD))
    )

    statuses = [response.status_code for response in responses]
    assert Counter(statuses) == {201: 1, 422: CROWD - 1}
    async with AsyncSessionLocal() as session:
        titles = list(await session.scalars(select(Post.title)))
    assert titles == [str(statuses.index(201))]


async def test_concurrent_requests_with_own_keys_all_publish(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")

    responses = await asyncio.gather(
        *(publish(concurrent_client, ada, f"key {n}") for n in range(CROWD))
    )

    assert {response.status_code for response in responses} == {201}
    assert len({response.json()["id"] for response in responses}) == CROWD


async def test_publishing_during_account_deletion_is_consistent(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    path = f"/api/users/{await get_user_id(concurrent_client, ada)}"

    *responses, deletion = await asyncio.gather(
        *(publish(concurrent_client, ada, f"key {n % 3}") for n in range(10)),
        concurrent_client.delete(path, headers=ada),
    )

    assert deletion.status_code == 204
    assert {response.status_code for response in responses} <= {201, 401, 409}
    async with AsyncSessionLocal() as session:
        assert await count(session, Post) == await count(session, IdempotencyKey) == 0
