"""Work in threads: so much of it and no more."""

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
from tests.conftest import PASSWORD, own_id


@pytest.fixture
def blocked() -> Iterator[tuple[BoundedExecutor, threading.Event]]:
    """One thread that is at work until it is let go, and one place to wait."""
    let_go = threading.Event()
    yield BoundedExecutor("test", threads=1, waiting=1), let_go
    let_go.set()


async def test_work_is_done_in_a_thread_of_its_own() -> None:
    workers = BoundedExecutor("test", threads=1, waiting=0)

    name = await workers.run(lambda: threading.current_thread().name)

    assert name.startswith("test")


async def test_what_is_too_much_is_refused_at_once(
    blocked: tuple[BoundedExecutor, threading.Event],
) -> None:
    workers, let_go = blocked
    jobs = [asyncio.ensure_future(workers.run(let_go.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(QueueFull):
        await workers.run(let_go.wait)

    let_go.set()
    assert await asyncio.gather(*jobs) == [True, True]


async def test_place_is_free_again_after_the_work_and_after_a_failure() -> None:
    workers = BoundedExecutor("test", threads=1, waiting=0)

    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0)

    assert await workers.run(lambda: "done") == "done"


async def test_place_is_taken_while_the_work_goes_on_that_nobody_waits_for(
    blocked: tuple[BoundedExecutor, threading.Event],
) -> None:
    workers, let_go = blocked
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await workers.run(let_go.wait)
    waiting = asyncio.ensure_future(workers.run(let_go.wait))
    await asyncio.sleep(0)

    with pytest.raises(QueueFull):
        await workers.run(let_go.wait)

    let_go.set()
    assert await waiting


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness there")
async def test_threads_stand_back_and_nothing_else_does() -> None:
    workers = BoundedExecutor("test", threads=1, waiting=0, niceness=5)
    before = os.nice(0)

    inside = await workers.run(os.nice, 0)

    assert inside == min(before + 5, 19)
    assert os.nice(0) == before


# In the application


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more passwords can wait."""
    full = BoundedExecutor("full", threads=1, waiting=0)
    full._places.acquire()
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
async def test_password_beyond_what_can_wait_is_refused(
    client: AsyncClient, ada: dict[str, str], busy: None, path: str, body: Any
) -> None:
    assert_busy(await client.post(path, **body))


async def test_change_of_password_beyond_what_can_wait_is_refused(
    client: AsyncClient, ada: dict[str, str], busy: None
) -> None:
    response = await client.patch(
        "/api/users/me/password",
        json={"current_password": PASSWORD, "new_password": "new horse 1"},
        headers=ada,
    )

    assert_busy(response)


async def test_reset_beyond_what_can_wait_is_refused_and_can_be_repeated(
    client: AsyncClient,
    db: AsyncSession,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db.add(
        PasswordResetToken(
            user_id=await own_id(client, ada),
            token_hash=hash_reset_token("a-token"),
            expires_at=utcnow().replace(year=utcnow().year + 1, day=1),
        )
    )
    await db.commit()
    reset = {"token": "a-token", "new_password": "new horse 1"}
    full = BoundedExecutor("full", threads=1, waiting=0)
    full._places.acquire()

    with monkeypatch.context() as patch:
        patch.setattr(auth, "_hashing", full)
        refused = await client.post("/api/users/reset-password", json=reset)
    repeated = await client.post("/api/users/reset-password", json=reset)

    assert_busy(refused)
    assert repeated.status_code == 200


async def test_login_with_an_outdated_hash_makes_a_new_one(
    client: AsyncClient,
    db: AsyncSession,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = {"username": "ada@example.com", "password": PASSWORD}
    stronger = Argon2Hasher(time_cost=2, memory_cost=16, parallelism=1)
    monkeypatch.setattr(auth, "password_hash", PasswordHash((stronger,)))

    responses = [await client.post("/api/users/token", data=login) for _ in range(2)]

    user = await db.get(User, await own_id(client, ada))
    assert [response.status_code for response in responses] == [200, 200]
    assert user is not None
    assert "m=16,t=2,p=1" in user.password_hash
    # The token from before is as good as ever: the password is the same.
    assert (await client.get("/api/users/me", headers=ada)).status_code == 200


async def test_login_works_when_there_is_no_time_for_a_new_hash(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(_password: str) -> str:
        raise QueueFull

    monkeypatch.setattr("routers.login.needs_rehash", lambda _stored: True)
    monkeypatch.setattr("routers.login.hash_password_async", busy)
    login = {"username": "ada@example.com", "password": PASSWORD}

    response = await client.post("/api/users/token", data=login)

    assert response.status_code == 200


async def test_hash_of_another_kind_is_nobodys_password(
    client: AsyncClient, db: AsyncSession, ada: dict[str, str]
) -> None:
    user = await db.get(User, await own_id(client, ada))
    assert user is not None
    user.password_hash = "!"
    await db.commit()
    login = {"username": "ada@example.com", "password": "!"}

    response = await client.post("/api/users/token", data=login)

    assert response.status_code == 401
