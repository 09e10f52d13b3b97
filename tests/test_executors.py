"""Work in threads, with a limit."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from httpx import AsyncClient, Response
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.ext.asyncio import AsyncSession

import auth
from auth import hash_reset_token
from executors import BoundedExecutor, QueueFull
from models import PasswordResetToken, User, utcnow
from tests.conftest import PASSWORD, get_user_id


@pytest.fixture
def blocked() -> Iterator[tuple[BoundedExecutor, threading.Event]]:
    """Yield a blocked thread with a queue of one, and the event that releases it."""
    release = threading.Event()
    yield BoundedExecutor("test", max_workers=1, max_queue=1), release
    release.set()


async def test_work_runs_in_a_separate_thread() -> None:
    executor = BoundedExecutor("test", max_workers=1, max_queue=0)

    name = await executor.run(lambda: threading.current_thread().name)

    assert name.startswith("test")


async def test_excess_work_is_rejected_at_once(
    blocked: tuple[BoundedExecutor, threading.Event],
) -> None:
    executor, release = blocked
    jobs = [asyncio.ensure_future(executor.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(QueueFull):
        await executor.run(release.wait)

    release.set()
    assert await asyncio.gather(*jobs) == [True, True]


async def test_slot_is_freed_after_success_and_failure() -> None:
    executor = BoundedExecutor("test", max_workers=1, max_queue=0)

    with pytest.raises(ZeroDivisionError):
        await executor.run(lambda: 1 / 0)

    assert await executor.run(lambda: "done") == "done"


async def test_slot_stays_taken_by_abandoned_work(
    blocked: tuple[BoundedExecutor, threading.Event],
) -> None:
    executor, release = blocked
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await executor.run(release.wait)
    waiting = asyncio.ensure_future(executor.run(release.wait))
    await asyncio.sleep(0)

    with pytest.raises(QueueFull):
        await executor.run(release.wait)

    release.set()
    assert await waiting


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness there")
async def test_only_worker_threads_are_niced() -> None:
    executor = BoundedExecutor("test", max_workers=1, max_queue=0, niceness=5)
    before = os.nice(0)

    inside = await executor.run(os.nice, 0)

    assert inside == min(before + 5, 19)
    assert os.nice(0) == before


# In the app


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the password hashing queue."""
    full = BoundedExecutor("full", max_workers=1, max_queue=0)
    full._slots.acquire()
    monkeypatch.setattr(auth, "_hashing", full)


def assert_busy(response: Response) -> None:
    assert response.status_code == 503
    assert response.json() == {
        "detail": "The server is busy. Please try again in a moment."
    }
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/api/users",
            {
                "json": {
                    "username": "new",
                    "email": "new@example.com",
                    "password": PASSWORD,
                }
            },
        ),
        (
            "/api/users/token",
            {"data": {"username": "ada@example.com", "password": PASSWORD}},
        ),
        (
            "/api/users/token",
            {"data": {"username": "nobody@example.com", "password": PASSWORD}},
        ),
    ],
)
async def test_excess_password_is_rejected(
    client: AsyncClient, ada: dict[str, str], busy: None, path: str, body: Any
) -> None:
    assert_busy(await client.post(path, **body))


async def test_excess_password_change_is_rejected(
    client: AsyncClient, ada: dict[str, str], busy: None
) -> None:
    response = await client.patch(
        "/api/users/me/password",
        json={"current_password": PASSWORD, "new_password": "new horse 1"},
        headers=ada,
    )

    assert_busy(response)


async def test_excess_reset_is_rejected_and_can_be_retried(
    client: AsyncClient,
    db: AsyncSession,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db.add(
        PasswordResetToken(
            user_id=await get_user_id(client, ada),
            token_hash=hash_reset_token("a-token"),
            expires_at=utcnow().replace(year=utcnow().year + 1, day=1),
        )
    )
    await db.commit()
    reset = {"token": "a-token", "new_password": "new horse 1"}
    full = BoundedExecutor("full", max_workers=1, max_queue=0)
    full._slots.acquire()

    with monkeypatch.context() as patch:
        patch.setattr(auth, "_hashing", full)
        refused = await client.post("/api/users/reset-password", json=reset)
    repeated = await client.post("/api/users/reset-password", json=reset)

    assert_busy(refused)
    assert repeated.status_code == 200


async def test_login_with_outdated_hash_rehashes_password(
    client: AsyncClient,
    db: AsyncSession,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = {"username": "ada@example.com", "password": PASSWORD}
    stronger = Argon2Hasher(time_cost=2, memory_cost=16, parallelism=1)
    monkeypatch.setattr(auth, "password_hash", PasswordHash((stronger,)))

    responses = [await client.post("/api/users/token", data=login) for _ in range(2)]

    user = await db.get(User, await get_user_id(client, ada))
    assert [response.status_code for response in responses] == [200, 200]
    assert user is not None
    assert "m=16,t=2,p=1" in user.password_hash
    # The earlier token is still valid, because the password has not changed.
    assert (await client.get("/api/users/me", headers=ada)).status_code == 200


async def test_login_works_if_rehashing_is_too_busy(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(_password: str) -> str:
        raise QueueFull

    monkeypatch.setattr("routers.login.needs_rehash", lambda _stored: True)
    monkeypatch.setattr("routers.login.hash_password_async", busy)
    login = {"username": "ada@example.com", "password": PASSWORD}

    response = await client.post("/api/users/token", data=login)

    assert response.status_code == 200


async def test_unknown_hash_format_matches_no_password(
    client: AsyncClient, db: AsyncSession, ada: dict[str, str]
) -> None:
    user = await db.get(User, await get_user_id(client, ada))
    assert user is not None
    user.password_hash = "!"
    await db.commit()
    login = {"username": "ada@example.com", "password": "!"}

    response = await client.post("/api/users/token", data=login)

    assert response.status_code == 401
