"""The limit on concurrent requests per client IP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from config import settings
from middleware.request_limits import RequestLimitsMiddleware
from tests.conftest import reset_rate_limits

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(autouse=True)
async def two_requests(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Allow two concurrent requests per client IP."""
    monkeypatch.setattr(settings, "rate_limit_enabled", True)
    monkeypatch.setattr(settings, "rate_limit_concurrent_requests", 2)
    await reset_rate_limits()
    yield
    await reset_rate_limits()


@asynccontextmanager
async def in_progress(client: AsyncClient, *ips: str) -> AsyncIterator[None]:
    """Keep a request from each client IP in progress until the context ends."""
    arrived, may_continue = asyncio.Semaphore(0), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"username="
        arrived.release()
        await may_continue.wait()
        yield b"ada&password=-"

    async with asyncio.TaskGroup() as tasks:
        for ip in ips:
            headers = FORM | {"X-Forwarded-For": ip}
            path = "/api/users/token"
            tasks.create_task(client.post(path, content=slow_body(), headers=headers))
        for _ in ips:
            await arrived.acquire()
        yield
        may_continue.set()


async def get(client: AsyncClient, ip: str, path: str = "/login") -> Response:
    return await client.get(path, headers={"X-Forwarded-For": ip})


class TestConcurrencyLimit:
    @pytest.mark.parametrize(
        ("first", "second", "third", "other"),
        [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"),
            # IPv6 clients are counted by network.
            ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::3"),
        ],
        ids=["IPv4", "IPv6"],
    )
    async def test_excess_request_is_rejected(
        self, concurrent_client, first, second, third, other
    ):
        client = concurrent_client
        async with in_progress(client, first, second):
            rejected = await get(client, third, "/api/posts")
            accepted = [await get(client, other), await get(client, third, "/health")]
        accepted.append(await get(client, third))

        assert rejected.status_code == 503
        assert int(rejected.headers["retry-after"]) > 0
        assert rejected.headers["connection"] == "close"
        assert rejected.headers["x-content-type-options"] == "nosniff"
        assert {response.status_code for response in accepted} == {200}

    async def test_can_be_turned_off(self, concurrent_client, monkeypatch):
        monkeypatch.setattr(settings, "rate_limit_enabled", False)

        async with in_progress(concurrent_client, "192.0.2.1", "192.0.2.1"):
            response = await get(concurrent_client, "192.0.2.1")

        assert response.status_code == 200

    @pytest.mark.parametrize(
        ("fails", "counts"),
        [(False, [{"127.0.0.1": 1}, {}]), (True, [{"127.0.0.1": 1}])],
        ids=["background task", "error"],
    )
    async def test_request_counts_until_response(self, fails, counts):
        seen: list[dict[str, int]] = []

        async def record() -> None:
            seen.append(dict(limited.in_progress))

        async def site(scope: Scope, receive: Receive, send: Send) -> None:
            await record()
            assert not fails
            response = PlainTextResponse("-", background=BackgroundTask(record))
            await response(scope, receive, send)

        limited = RequestLimitsMiddleware(site)
        transport = ASGITransport(limited, raise_app_exceptions=False)
        async with AsyncClient(transport=transport) as client:
            await client.get("http://blog/")

        assert seen == counts
        assert limited.in_progress == {}
