"""Request coalescing: one response shared by concurrent clients."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from middleware import coalescing
from middleware.coalescing import CoalescingMiddleware
from middleware.etags import CHUNK_BYTES
from tests.conftest import Json, capture_queries

# Headers that responses depend on
CONDITIONS = ["if-match", "if-modified-since", "if-none-match", "if-unmodified-since"]
OTHER_HEADERS = ["accept", "accept-encoding", "authorization", "range"]


class Site:
    """An app that responds with its current text, behind the middleware."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.text = "first"
        self.has_etag = True
        self.error: Exception | None = None
        self.coalescing = CoalescingMiddleware(self.respond)

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        text, error = self.text, self.error
        await self.may_respond.wait()
        if error is not None:
            raise error
        headers = {"ETag": f'"{hash(text)}"'} if self.has_etag else {}
        await PlainTextResponse(text, headers=headers)(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.coalescing(scope, receive, send)
        except HTTPException as error:
            await PlainTextResponse("", error.status_code)(scope, receive, send)


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the S3 bucket, which is slow to set up and not needed here."""


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def visitor(site: Site) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(site)
    async with AsyncClient(transport=transport, base_url="http://test") as visitor:
        yield visitor


async def start(visitor: AsyncClient, **request: Any) -> "asyncio.Task[Response]":
    """Start a request and let it proceed until it waits."""
    request = {"method": "GET", "url": "/"} | request
    task = asyncio.create_task(visitor.request(**request))
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def at_once(site: Site, visitor: AsyncClient, *requests: Json) -> list[Response]:
    """Start all requests before the site responds; return the responses."""
    site.may_respond.clear()
    tasks = [await start(visitor, **request) for request in requests]
    site.may_respond.set()
    return await asyncio.gather(*tasks)


class TestSharing:
    async def test_concurrent_requests(self, site, visitor):
        requests = [{"headers": {"User-Agent": f"No. {n}"}} for n in range(10)]

        responses = await at_once(site, visitor, *requests)

        assert {response.text for response in responses} == {"first"}
        assert site.calls == 2

    async def test_later_request_sees_later_writes(self, site, visitor):
        site.may_respond.clear()
        before = await start(visitor)
        site.text = "second"
        after = await start(visitor)
        site.may_respond.set()

        responses = await asyncio.gather(before, after)

        assert [response.text for response in responses] == ["first", "second"]

    async def test_nothing_is_cached(self, site, visitor):
        await visitor.get("/")
        site.text = "second"

        assert (await visitor.get("/")).text == "second"

    @pytest.mark.parametrize("header", [*CONDITIONS, *OTHER_HEADERS])
    async def test_depends_on_headers(self, site, visitor, header):
        requests = [{}, {"headers": {header: "one"}}, {"headers": {header: "two"}}]

        await at_once(site, visitor, *requests)

        assert site.calls == 3

    @pytest.mark.parametrize(
        ("method", "paths"),
        [
            ("POST", ["/"] * 3),
            ("GET", ["/static/file"] * 3),
            ("GET", ["/media/file"] * 3),
            ("GET", ["/health"] * 3),
            ("GET", ["/", "/?skip=1", "/other"]),
        ],
    )
    async def test_other_requests_are_separate(self, site, visitor, method, paths):
        await at_once(site, visitor, *({"method": method, "url": p} for p in paths))

        assert site.calls == 3

    async def test_error(self, site, visitor):
        site.error = RuntimeError("a bug")
        requests = [await start(visitor) for _ in range(3)]
        errors = await asyncio.gather(*requests, return_exceptions=True)
        site.error = None

        later = await visitor.get("/")

        assert [str(error) for error in errors] == ["a bug"] * 3
        assert later.text == "first"

    async def test_disconnected_client_cancels_nothing(self, site, visitor):
        site.may_respond.clear()
        _running, first, second = [await start(visitor) for _ in range(3)]
        first.cancel()
        site.may_respond.set()

        assert (await second).text == "first"

    async def test_canceled_task_blocks_nothing(self, site, visitor):
        headers = visitor.build_request("GET", "/").headers.raw
        scope = {"path": "/", "query_string": b"", "headers": headers}
        site.coalescing._respond(scope).cancel()

        response = await visitor.get("/")

        assert response.text == "first"
        assert site.calls == 1

    async def test_slow_response_is_not_awaited(self, site, visitor, monkeypatch):
        monkeypatch.setattr(coalescing, "WAIT_TIMEOUT", 0)
        site.may_respond.clear()
        requests = [await start(visitor) for _ in range(4)]

        assert site.calls == 4
        site.may_respond.set()
        responses = await asyncio.gather(*requests)
        assert {response.text for response in responses} == {"first"}
        assert site.coalescing._running == site.coalescing._queued == {}


LARGE = "x" * 3000


class Reader:
    """A client that reads the start of a response, and the rest on demand."""

    def __init__(self, site: Site, ip: str) -> None:
        self.status = 0
        self.body = b""
        self.continues = asyncio.Event()
        self.disconnects = asyncio.Event()
        self.has_started = asyncio.Event()
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
        scope |= {"headers": [], "client": (ip, 1)}
        self.task = asyncio.create_task(site(scope, self.receive, self.read))

    async def receive(self) -> Message:
        await self.disconnects.wait()
        return {"type": "http.disconnect"}

    async def read(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        if "body" in message:
            self.body += message["body"]
            self.has_started.set()
            await self.continues.wait()

    async def finish(self) -> bytes:
        self.continues.set()
        await self.task
        return self.body


async def start_reading(site: Site, text: str = LARGE, ip: str = "192.0.2.1") -> Reader:
    site.text = text
    reader = Reader(site, ip)
    await reader.has_started.wait()
    return reader


class TestLargeResponse:
    @pytest.fixture(autouse=True)
    def limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let memory hold two large responses, and one per client IP."""
        monkeypatch.setattr(coalescing, "LARGE_BYTES", 2000)
        monkeypatch.setattr(coalescing, "MAX_BYTES", 7000)
        monkeypatch.setattr(coalescing, "MAX_BYTES_PER_CLIENT", 4000)

    async def test_is_stored_once(self, site):
        readers = [await start_reading(site) for _ in range(10)]

        assert site.coalescing._bytes.total() == len(LARGE)
        bodies = {await reader.finish() for reader in readers}
        assert bodies == {LARGE.encode()}
        assert site.coalescing._bytes == {}

    async def test_limit_per_client(self, site):
        readers = [
            await start_reading(site),
            await start_reading(site, "y" * 3000),
            await start_reading(site, "y" * 3000, ip="192.0.2.2"),
            await start_reading(site, "small"),
        ]
        [await reader.finish() for reader in readers]

        later = await start_reading(site, "z" * 3000)

        await later.finish()
        assert [reader.status for reader in readers] == [200, 503, 200, 200]
        assert later.status == 200
        assert site.coalescing._bytes == {}

    async def test_limit_in_total(self, site):
        readers = [
            await start_reading(site, str(n) * 3000, ip=f"192.0.2.{n}")
            for n in range(4)
        ]

        [await reader.finish() for reader in readers]

        assert [reader.status for reader in readers] == [200, 200, 503, 503]

    async def test_is_not_shared_without_etag(self, site):
        site.has_etag = False
        first = await start_reading(site)
        second = await start_reading(site, "y" * 3000, ip="192.0.2.2")

        assert await first.finish() != await second.finish()

    async def test_is_not_sent_after_disconnect(self, site, monkeypatch):
        monkeypatch.setattr(coalescing, "MAX_BYTES", 10 * CHUNK_BYTES)
        monkeypatch.setattr(coalescing, "MAX_BYTES_PER_CLIENT", 10 * CHUNK_BYTES)
        reader = await start_reading(site, "x" * (10 * CHUNK_BYTES))
        reader.disconnects.set()

        body = await reader.finish()

        # The second chunk may already have been on its way.
        assert len(body) <= 2 * CHUNK_BYTES
        assert site.coalescing._bytes == {}

    async def test_memory_is_released_after_cancellation(self, site):
        reader = await start_reading(site)

        reader.task.cancel()
        await asyncio.wait({reader.task})

        assert site.coalescing._bytes == {}


class TestApp:
    async def test_burst_costs_two_reads(self, concurrent_client):
        with capture_queries() as alone:
            await concurrent_client.get("/")

        with capture_queries() as together:
            await asyncio.gather(*(concurrent_client.get("/") for _ in range(20)))

        assert 0 < len(together) <= 2 * len(alone)

    async def test_response_without_body_needs_no_memory(
        self, concurrent_client, monkeypatch
    ):
        etag = (await concurrent_client.get("/login")).headers["etag"]
        monkeypatch.setattr(coalescing, "LARGE_BYTES", 0)
        monkeypatch.setattr(coalescing, "MAX_BYTES", 10)

        responses = [
            await concurrent_client.get("/login"),
            await concurrent_client.get("/login", headers={"If-None-Match": etag}),
            await concurrent_client.head("/login"),
        ]

        assert [response.status_code for response in responses] == [503, 304, 200]
