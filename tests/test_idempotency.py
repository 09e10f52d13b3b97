"""Idempotency keys: repeated requests publish a post once."""

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
from tests.conftest import Headers, get_user_id, sign_up

POST = {"title": "Tea", "content": "Is ready."}
EXPIRED = timedelta(hours=24, seconds=1)


async def publish(
    client: AsyncClient, headers: Headers, key: str | bytes = "a key", **fields: Any
) -> Response:
    with_key: Any = {**headers, "Idempotency-Key": key}
    return await client.post("/api/posts", json={**POST, **fields}, headers=with_key)


async def count(db: AsyncSession, model: type[Any]) -> int:
    """Return how many rows a table has."""
    return await db.scalar(select(func.count(model.id))) or 0


async def age_keys(db: AsyncSession, age: timedelta) -> None:
    await db.execute(update(IdempotencyKey).values(created_at=utcnow() - age))
    await db.commit()


def replayed(response: Response) -> tuple[Any, ...]:
    """Return the parts of a response that must be the same after a retry."""
    headers = [response.headers.get(name) for name in ("ETag", "Location")]
    return response.status_code, response.content, *headers


class TestRetry:
    async def test_same_response(self, client, ada, db):
        first = await publish(client, ada)

        second = await publish(client, ada)

        assert first.status_code == 201
        assert replayed(second) == replayed(first)
        assert await count(db, Post) == 1

    async def test_edited_post(self, client, ada):
        first = await publish(client, ada)
        path = first.headers["Location"]
        edit = await client.patch(path, json={"title": "Coffee"}, headers=ada)

        second = await publish(client, ada)

        assert second.status_code == 201
        assert second.json() == edit.json()
        assert second.headers["Location"] == path
        assert second.headers["ETag"] == edit.headers["ETag"]

    async def test_deleted_post(self, client, ada):
        first = await publish(client, ada)
        await client.delete(first.headers["Location"], headers=ada)

        second = await publish(client, ada)
        other = await publish(client, ada, title="Coffee")

        assert second.status_code == 404
        assert second.json() == {"detail": "Post not found"}
        assert "Location" not in second.headers
        assert other.status_code == 422

    async def test_equivalent_json(self, client, ada):
        first = await publish(client, ada)
        body = '{"content": "Is ready.", "title": " \\u0054ea ", "likes": 7}'
        headers = {"Idempotency-Key": "a key", "Content-Type": "application/json"}

        second = await client.post("/api/posts", content=body, headers=ada | headers)

        assert replayed(second) == replayed(first)


class TestKey:
    @pytest.mark.parametrize("fields", [{"title": "Coffee"}, {"content": "Was ready."}])
    async def test_another_request(self, client, ada, db, fields):
        first = await publish(client, ada)

        response = await publish(client, ada, **fields)

        assert response.status_code == 422
        assert response.json() == {
            "detail": "Idempotency-Key was used for another request"
        }
        assert await count(db, Post) == 1
        assert replayed(await publish(client, ada)) == replayed(first)

    async def test_another_user(self, client, ada, bob):
        first = await publish(client, ada)

        bobs = await publish(client, bob, title="Coffee")

        assert bobs.status_code == 201
        assert bobs.json()["author"]["username"] == "bob"
        assert replayed(await publish(client, ada)) == replayed(first)
        assert replayed(await publish(client, bob, title="Coffee")) == replayed(bobs)

    async def test_any_printable_ascii(self, client, ada, db):
        keys = ["a", "A", "a b", "a  b", '"a"', "~" * 255]

        ids = [(await publish(client, ada, key)).json()["id"] for key in keys * 2]

        assert ids[: len(keys)] == ids[len(keys) :]
        assert len(set(ids)) == len(keys)

    async def test_absent(self, client, ada, db):
        await client.post("/api/posts", json=POST, headers=ada)
        await client.post("/api/posts", json=POST, headers=ada)

        assert await count(db, Post) == 2
        assert await count(db, IdempotencyKey) == 0

    @pytest.mark.parametrize("key", ["", "x" * 256, "é".encode(), "a\tb", "a\x7f"])
    async def test_invalid(self, client, ada, db, key):
        response = await publish(client, ada, key)

        assert response.status_code == 422
        (error,) = response.json()["detail"]
        assert error["loc"] == ["header", "Idempotency-Key"]
        assert await count(db, Post) == await count(db, IdempotencyKey) == 0

    async def test_anonymous(self, client):
        assert (await publish(client, {}, "")).status_code == 401


class TestExpiry:
    async def test_almost_24_hours(self, client, ada, db):
        first = await publish(client, ada)
        await age_keys(db, timedelta(hours=23, minutes=59))

        second = await publish(client, ada)

        assert replayed(second) == replayed(first)

    async def test_reuse_after_24_hours(self, client, ada, db):
        await publish(client, ada)
        await age_keys(db, EXPIRED)

        second = await publish(client, ada, title="Coffee")
        third = await publish(client, ada, title="Coffee")

        assert second.status_code == 201
        assert replayed(third) == replayed(second)
        assert (await count(db, Post), await count(db, IdempotencyKey)) == (2, 1)

    async def test_expired_keys_are_deleted(self, client, ada, bob, db):
        await publish(client, ada)
        await publish(client, bob)
        await age_keys(db, EXPIRED)

        await publish(client, ada, "new")

        assert list(await db.scalars(select(IdempotencyKey.key))) == ["new"]
        assert await count(db, Post) == 3

    async def test_deletion_is_limited(self, client, ada, db, monkeypatch):
        monkeypatch.setattr(idempotency, "MAX_PRUNED", 1)
        [await publish(client, ada, key) for key in ("1", "2", "3")]
        await age_keys(db, EXPIRED)

        await publish(client, ada, "new")

        assert await count(db, IdempotencyKey) == 3


class TestFailedRequest:
    async def test_failed_commit(self, client, ada, db):
        with pytest.MonkeyPatch.context() as patch:
            failing = AsyncMock(side_effect=DatabaseUnavailable("before the commit"))
            patch.setattr("sqlalchemy.ext.asyncio.AsyncSession.commit", failing)
            failed = await publish(client, ada)

        assert failed.status_code == 503
        assert await count(db, Post) == await count(db, IdempotencyKey) == 0
        assert (await publish(client, ada, title="Coffee")).status_code == 201

    async def test_author_is_deleted(self, client, ada, db, monkeypatch):
        claim = idempotency.claim

        async def delete_first(session: AsyncSession, user: User, *rest: str) -> Any:
            await session.execute(delete(User).where(User.id == user.id))
            return await claim(session, user, *rest)

        monkeypatch.setattr(idempotency, "claim", delete_first)

        response = await publish(client, ada)

        assert response.status_code == 401
        assert response.json() == {"detail": "Invalid or expired token"}
        assert await count(db, IdempotencyKey) == 0


@asynccontextmanager
async def running_request(client: AsyncClient, headers: Headers) -> AsyncIterator[None]:
    """Simulate a request in progress that has claimed the key `a key`."""
    user_id = await get_user_id(client, headers)
    async with AsyncSessionLocal() as session:
        session.add(IdempotencyKey(user_id=user_id, key="a key", fingerprint=""))
        await session.flush()
        yield


class TestRunningRequest:
    async def test_same_key(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")

        async with running_request(concurrent_client, ada):
            response = await publish(concurrent_client, ada)

        assert response.status_code == 409
        assert response.json() == {
            "detail": "A request with this Idempotency-Key is still running"
        }
        assert response.headers["Retry-After"] == "1"
        assert (await publish(concurrent_client, ada)).status_code == 201

    async def test_other_keys(self, concurrent_client):
        ada, bob = [await sign_up(concurrent_client, name) for name in ("ada", "bob")]

        async with running_request(concurrent_client, ada):
            responses = [
                await publish(concurrent_client, bob),
                await publish(concurrent_client, ada, "another key"),
                await concurrent_client.post("/api/posts", json=POST, headers=ada),
            ]

        assert [response.status_code for response in responses] == [201] * 3

    async def test_lock_timeout_is_reset(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        await publish(concurrent_client, ada)

        async with AsyncExitStack() as stack:
            # One of these sessions reuses the request's connection.
            sessions = [
                await stack.enter_async_context(AsyncSessionLocal())
                for _ in range(cast("QueuePool", engine.pool).checkedin())
            ]
            timeouts = {await s.scalar(text("SHOW lock_timeout")) for s in sessions}

        assert timeouts == {"2s"}
