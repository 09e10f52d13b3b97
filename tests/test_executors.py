"""Bounded thread pools, and the password hashing that runs in one."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from unittest.mock import AsyncMock

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import select, update

import auth
from executors import BoundedExecutor, QueueFull
from models import User
from tests.conftest import PASSWORD, REQUEST_ID, Headers

LOGIN = {"username": "ada@example.com", "password": PASSWORD}


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Return an event for which blocked work waits."""
    release = threading.Event()
    yield release
    release.set()


class TestBoundedExecutor:
    async def test_full_queue(self, release):
        executor = BoundedExecutor("test", max_workers=1, max_queue=1)
        work = [asyncio.ensure_future(executor.run(release.wait)) for _ in range(2)]
        await asyncio.sleep(0)

        with pytest.raises(QueueFull):
            await executor.run(release.wait)

        release.set()
        assert await asyncio.gather(*work) == [True, True]

    async def test_failed_work_frees_its_slot(self):
        executor = BoundedExecutor("test", max_workers=1, max_queue=0)

        with pytest.raises(ZeroDivisionError):
            await executor.run(lambda: 1 / 0)

        assert await executor.run(lambda: "done") == "done"

    async def test_canceled_work_keeps_its_slot(self, release):
        executor = BoundedExecutor("test", max_workers=1, max_queue=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await executor.run(release.wait, 5)

        with pytest.raises(QueueFull):
            await executor.run(release.wait, 5)

    @pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux has niceness per thread"
    )
    async def test_only_threads_have_low_priority(self):
        executor = BoundedExecutor("test", max_workers=1, max_queue=0, niceness=5)
        before = os.nice(0)

        niceness = await executor.run(os.nice, 0)

        assert (niceness, os.nice(0)) == (min(before + 5, 19), before)


BUSY = {
    "detail": "The server is busy. Please try again in a moment.",
    "request_id": REQUEST_ID,
}
ACCOUNT = {"username": "new", "email": "new@example.com", "password": PASSWORD}
CHANGE = {"current_password": PASSWORD, "new_password": "new horse 1"}


@pytest.fixture
def full_queue(ada: Headers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the queue for password hashing after ada has signed up."""
    executor = BoundedExecutor("full", max_workers=1, max_queue=0)
    executor._slots.acquire()
    monkeypatch.setattr(auth, "hashing", executor)


@pytest.mark.usefixtures("full_queue")
class TestBusyHashing:
    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/api/users", {"json": ACCOUNT}),
            ("POST", "/api/users/token", {"data": LOGIN}),
            ("PATCH", "/api/users/me/password", {"json": CHANGE}),
        ],
        ids=["sign up", "login", "change"],
    )
    async def test_request_is_rejected(self, client, ada, method, path, body):
        response = await client.request(method, path, headers=ada, **body)

        assert (response.status_code, response.json()) == (503, BUSY)
        assert int(response.headers["retry-after"]) > 0


class TestRehash:
    async def test_outdated_hash_is_replaced(
        self, client, db, ada, user_id, monkeypatch
    ):
        stronger = Argon2Hasher(time_cost=2, memory_cost=16, parallelism=1)
        monkeypatch.setattr(auth, "password_hasher", PasswordHash((stronger,)))

        first = await client.post("/api/users/token", data=LOGIN)
        second = await client.post("/api/users/token", data=LOGIN)

        user = await db.get_one(User, user_id)
        assert (first.status_code, second.status_code) == (200, 200)
        assert "m=16,t=2,p=1" in user.password_hash
        # The earlier token is still valid, because the password has not changed.
        assert (await client.get("/api/users/me", headers=ada)).status_code == 200

    async def test_login_works_if_queue_is_full(self, client, ada, monkeypatch):
        full = AsyncMock(side_effect=QueueFull)
        monkeypatch.setattr("routers.login.needs_rehash", lambda _stored: True)
        monkeypatch.setattr("routers.login.hash_password_async", full)

        response = await client.post("/api/users/token", data=LOGIN)

        assert response.status_code == 200

    async def test_concurrent_password_change_is_kept(
        self, client, db, user_id, monkeypatch
    ):
        async def change_first(_password: str) -> str:
            await db.execute(update(User).values(password_hash="changed"))
            await db.commit()
            return "rehashed"

        monkeypatch.setattr("routers.login.needs_rehash", lambda _stored: True)
        monkeypatch.setattr("routers.login.hash_password_async", change_first)

        response = await client.post("/api/users/token", data=LOGIN)

        assert response.status_code == 200
        assert await db.scalar(select(User.password_hash)) == "changed"

    async def test_unknown_format_matches_no_password(self, client, db, user_id):
        user = await db.get_one(User, user_id)
        user.password_hash = "!"
        await db.commit()

        response = await client.post("/api/users/token", data=LOGIN | {"password": "!"})

        assert response.status_code == 401
