"""Client IP, rate limits, slow bodies, and errors in middleware and at startup."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from config import ConfigurationError
from exceptions import TOO_MANY_ATTEMPTS
from main import app
from middleware.body_limit import BodyLimitMiddleware
from middleware.client_ip import ClientIPMiddleware
from middleware.errors import ServerErrorMiddleware, StartupErrorMiddleware
from middleware.rate_limit import RateLimitMiddleware
from tests.conftest import get_user_id, reset_rate_limits, settings

PEER = ("192.0.2.9", 50_000)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def http_scope(client: Any, *forwarded_for: bytes) -> dict[str, Any]:
    """Return the scope of a request as the server creates it."""
    return {
        "type": "http",
        "method": "GET",
        "path": "/login",
        "query_string": b"",
        "headers": [
            (b"host", b"testserver"),
            *((b"x-forwarded-for", value) for value in forwarded_for),
        ],
        "client": client,
    }


class TestClientIP:
    @pytest.mark.parametrize(
        ("hops", "forwarded_for", "client_ip"),
        [
            (0, [], "192.0.2.9"),
            (0, [b"192.0.2.1"], "192.0.2.9"),
            (1, [], "192.0.2.9"),
            (1, [b"192.0.2.1"], "192.0.2.1"),
            (1, [b"192.0.2.1:4711"], "192.0.2.1"),
            (1, [b"[2001:DB8::1]:4711"], "2001:db8::1"),
            (1, [b"2001:db8::1"], "2001:db8::1"),
            (1, [b"198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            (1, [b"198.51.100.1", b"192.0.2.1"], "192.0.2.1"),
            (2, [b"198.51.100.1, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
            (2, [b"198.51.100.1"], "127.0.0.1"),
            (1, [b"198.51.100.1,"], "127.0.0.1"),
            (1, [b"unknown"], "127.0.0.1"),
            (1, [b"[2001:db8::1"], "2001:db8::1"),
            (1, [b"["], "127.0.0.1"),
            (1, [b""], "127.0.0.1"),
        ],
    )
    async def test_outermost_trusted_proxy_reports_it(
        self, hops: int, forwarded_for: list[bytes], client_ip: str
    ) -> None:
        scope = http_scope(PEER, *forwarded_for)

        await ClientIPMiddleware(AsyncMock(), hops)(scope, AsyncMock(), AsyncMock())

        assert scope["client"][0] == client_ip

    @pytest.mark.parametrize("trusted", ["127.0.0.1", "*"])
    @pytest.mark.parametrize(
        "written",
        [
            b"192.0.2.1",
            b"192.0.2.1:4711",
            b"192.0.2.1: 4_711",
            b"192.0.2.1:x",
            b"192.0.2.1, 127.0.0.1",
            b"[2001:db8::1]:4711",
            b"[2001:db8::1]x",
            b"[2001:db8::1",
            b"somewhere",
        ],
    )
    async def test_header_is_ignored_without_trusted_proxies(
        self, written: bytes, trusted: str
    ) -> None:
        scope = http_scope(("127.0.0.1", 50_000), written)
        ours: Any = ClientIPMiddleware(AsyncMock(), hops=0)

        # uvicorn starts every app like this unless told otherwise.
        server = ProxyHeadersMiddleware(ours, trusted_hosts=trusted)
        await server(scope, AsyncMock(), AsyncMock())  # type: ignore[arg-type]  # a dict

        assert scope["client"][0] == "127.0.0.1"

    async def test_without_proxies_a_client_cannot_hide_its_ip(self) -> None:
        scope = http_scope(("192.0.2.7", 50_000), b"192.0.2.7")

        await ClientIPMiddleware(AsyncMock(), hops=0)(scope, AsyncMock(), AsyncMock())

        assert scope["client"] == ("192.0.2.7", 50_000)

    async def test_client_without_an_ip_gets_one(self) -> None:
        scope = http_scope(None)

        await ClientIPMiddleware(AsyncMock(), hops=0)(scope, AsyncMock(), AsyncMock())

        assert scope["client"] == ("127.0.0.1", 0)

    async def test_access_log_uses_it(self) -> None:
        # The server logs from this scope. It has read the header's first entry, which
        # the client controls.
        scope = http_scope(("203.0.113.66", 0), b"203.0.113.66, 192.0.2.1")

        await app(scope, AsyncMock(), AsyncMock())

        assert scope["client"] == ("192.0.2.1", 0)


class TestConcurrentRequests:
    @pytest.fixture(autouse=True)
    async def two_at_most(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        """Allow two concurrent requests."""
        monkeypatch.setattr(settings, "rate_limit_enabled", True)
        monkeypatch.setattr(settings, "rate_limit_concurrent_requests", 2)
        await reset_rate_limits()
        yield
        await reset_rate_limits()

    @asynccontextmanager
    async def in_progress(
        self, client: AsyncClient, ips: list[str]
    ) -> AsyncIterator[None]:
        """Keep requests in progress until the context ends."""
        arrived, may_go_on = asyncio.Semaphore(0), asyncio.Event()

        async def slow_body() -> AsyncIterator[bytes]:
            yield b"username="
            arrived.release()
            await may_go_on.wait()
            yield b"ada&password=-"

        async def log_in(ip: str) -> Response:
            headers = FORM | {"X-Forwarded-For": ip}
            path = "/api/users/token"
            return await client.post(path, content=slow_body(), headers=headers)

        requests = [asyncio.create_task(log_in(ip)) for ip in ips]
        for _ in ips:
            await arrived.acquire()
        yield
        may_go_on.set()
        responses = await asyncio.gather(*requests)
        assert {response.status_code for response in responses} == {401}

    async def get(self, client: AsyncClient, ip: str, path: str = "/login") -> Response:
        return await client.get(path, headers={"X-Forwarded-For": ip})

    async def test_excess_request_is_rejected_until_one_ends(
        self, concurrent_client: AsyncClient
    ) -> None:
        async with self.in_progress(concurrent_client, ["192.0.2.1"] * 2):
            rejected = await self.get(concurrent_client, "192.0.2.1", "/api/posts")
        accepted = await self.get(concurrent_client, "192.0.2.1")

        assert rejected.status_code == 503
        assert int(rejected.headers["retry-after"]) > 0
        assert rejected.headers["connection"] == "close"
        assert rejected.headers["x-content-type-options"] == "nosniff"
        assert accepted.status_code == 200

    async def test_other_clients_are_served(
        self, concurrent_client: AsyncClient
    ) -> None:
        async with self.in_progress(concurrent_client, ["192.0.2.1"] * 2):
            assert (await self.get(concurrent_client, "192.0.2.2")).status_code == 200

    async def test_ipv6_clients_count_by_network(
        self, concurrent_client: AsyncClient
    ) -> None:
        async with self.in_progress(concurrent_client, ["2001:db8::1", "2001:db8::2"]):
            same = await self.get(concurrent_client, "2001:db8::3")
            other = await self.get(concurrent_client, "2001:db8:0:1::3")

        assert same.status_code == 503
        assert other.status_code == 200

    async def test_health_is_exempt(self, concurrent_client: AsyncClient) -> None:
        async with self.in_progress(concurrent_client, ["192.0.2.1"] * 2):
            response = await self.get(concurrent_client, "192.0.2.1", "/health")

        assert response.status_code == 200

    async def test_limit_can_be_turned_off(
        self, concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settings, "rate_limit_enabled", False)

        async with self.in_progress(concurrent_client, ["192.0.2.1"] * 2):
            assert (await self.get(concurrent_client, "192.0.2.1")).status_code == 200

    @pytest.mark.parametrize("fails", [False, True])
    async def test_only_time_until_response_counts(self, fails: bool) -> None:
        in_progress = []

        async def note() -> None:
            in_progress.append(dict(limited.in_progress))

        async def site(scope: Scope, receive: Receive, send: Send) -> None:
            await note()
            if fails:
                raise RuntimeError
            response = PlainTextResponse("-", background=BackgroundTask(note))
            await response(scope, receive, send)

        limited = RateLimitMiddleware(site)
        async with AsyncClient(
            transport=ASGITransport(limited, raise_app_exceptions=False)
        ) as client:
            await client.get("http://blog/")

        assert in_progress[:1] == [{"127.0.0.1": 1}]
        assert in_progress[1:] == ([] if fails else [{}])
        assert limited.in_progress == {}


class TestSlowBodies:
    @pytest.mark.parametrize(
        ("method", "path", "content_type"),
        [
            ("POST", "/api/users/token", FORM["Content-Type"]),
            ("POST", "/api/users", "application/json"),
            ("PATCH", "/api/users/{id}/picture", "multipart/form-data; boundary=x"),
        ],
    )
    async def test_incomplete_body_times_out(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        path: str,
        content_type: str,
    ) -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            while True:
                yield b"-"
                await asyncio.sleep(0.001)

        path = path.format(id=await get_user_id(client, ada))
        monkeypatch.setattr("middleware.body_limit.BODY_TIMEOUT_PER_MIB", 0.01)

        response = await client.request(
            method,
            path,
            content=endless(),
            headers=ada | {"Content-Type": content_type},
        )

        assert response.status_code == 422
        assert response.json()["detail"] == [
            {
                "type": "body",
                "loc": ["body"],
                "msg": "Timed out reading the request body",
            }
        ]
        assert response.headers["connection"] == "close"

    @pytest.mark.parametrize(
        ("path", "seconds"),
        [("/api/users/token", 15), ("/api/users/1/picture", 75.9375)],
    )
    async def test_timeout_depends_on_allowed_size(
        self, monkeypatch: pytest.MonkeyPatch, path: str, seconds: float
    ) -> None:
        deadlines = []
        timeout_at = asyncio.timeout_at

        def note(when: float | None) -> asyncio.Timeout:
            deadlines.append(when)
            return timeout_at(when)

        monkeypatch.setattr("middleware.body_limit.asyncio.timeout_at", note)
        scope = http_scope(PEER) | {"method": "POST", "path": path}
        limited = BodyLimitMiddleware(read_body)
        before = asyncio.get_running_loop().time()

        await limited(scope, AsyncMock(return_value={"type": "-"}), AsyncMock())

        assert deadlines[0] == pytest.approx(before + seconds, abs=5)
        # After the body, only a disconnect can follow.
        assert deadlines[1] is None


async def read_body(_scope: Scope, receive: Receive, _send: Send) -> None:
    """Read a one-message body and wait for the client to disconnect."""
    await receive()
    await receive()


class TestErrors:
    async def test_error_after_response_is_only_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def site(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("-")(scope, receive, send)
            raise TOO_MANY_ATTEMPTS.exception(Retry_After="7")

        guarded = ServerErrorMiddleware(site)
        async with AsyncClient(transport=ASGITransport(guarded)) as client:
            response = await client.get("http://blog/")

        assert response.text == "-"
        assert "Too many attempts" in caplog.text

    @pytest.mark.parametrize(
        ("error", "is_one_line"),
        [(ConfigurationError("X: is missing"), True), (RuntimeError("a bug"), False)],
    )
    async def test_expected_startup_error_has_no_traceback(
        self, error: Exception, is_one_line: bool
    ) -> None:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            raise error
            yield

        sent: list[Message] = []
        site = StartupErrorMiddleware(FastAPI(lifespan=lifespan))
        receive = AsyncMock(return_value={"type": "lifespan.startup"})

        with pytest.raises(type(error)):
            await site(
                {"type": "lifespan"}, receive, AsyncMock(side_effect=sent.append)
            )

        [failed] = sent
        assert failed["type"] == "lifespan.startup.failed"
        assert (failed["message"] == str(error)) == is_one_line
        assert ("Traceback" in failed["message"]) != is_one_line
