"""Collapsed requests: one response shared by concurrent clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from middleware import coalescing
from middleware.coalescing import CoalescingMiddleware
from middleware.etags import CHUNK_BYTES
from tests.conftest import capture_queries, create_post, sign_up

SCOPE: Scope = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": [],
}
BUSY = PlainTextResponse("No room", status_code=503)


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


class Application:
    """Respond with the latest text, once it is released."""

    def __init__(self) -> None:
        self.asked: list[Scope] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.text = "first"
        self.error: Exception | None = None
        self.is_tagged = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope)
        self.begun.set()
        text, error = self.text, self.error
        await self.may_end.wait()
        if error is not None:
            raise error
        headers = {"ETag": f'"{hash(text)}"'} if self.is_tagged else {}
        await PlainTextResponse(text, headers=headers)(scope, receive, send)


@pytest.fixture
def application() -> Application:
    """Return the wrapped app."""
    return Application()


@pytest.fixture
def collapsed(application: Application) -> CoalescingMiddleware:
    """Return the middleware around it."""
    return CoalescingMiddleware(application)


def responding_to_errors(
    collapsed: CoalescingMiddleware,
) -> Callable[[Scope, Receive, Send], Coroutine[None, None, None]]:
    """Return an app that turns HTTP errors of the middleware into responses."""

    async def site(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await collapsed(scope, receive, send)
        except HTTPException:
            await BUSY(scope, receive, send)

    return site


@pytest.fixture
async def client(collapsed: CoalescingMiddleware) -> AsyncIterator[AsyncClient]:
    """Return an anonymous client."""
    transport = ASGITransport(app=responding_to_errors(collapsed))
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def begin(request: Awaitable[Response]) -> "asyncio.Task[Response]":
    """Start a request and wait until it is blocked."""
    task = asyncio.ensure_future(request)
    assert isinstance(task, asyncio.Task)
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def test_concurrent_requests_share_two_responses(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    first = await begin(client.get("/"))
    others = [await begin(client.get("/")) for _ in range(10)]
    application.may_end.set()

    answers = await asyncio.gather(first, *others)

    assert {answer.text for answer in answers} == {"first"}
    assert len(application.asked) == 2


async def test_late_request_sees_earlier_writes(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    before = await begin(client.get("/"))
    application.text = "second"
    after = await begin(client.get("/"))
    application.may_end.set()

    assert [(await task).text for task in (before, after)] == ["first", "second"]


async def test_later_request_gets_new_response(
    application: Application, client: AsyncClient
) -> None:
    before = await client.get("/")
    application.text = "second"

    after = await client.get("/")

    assert [before.text, after.text] == ["first", "second"]


@pytest.mark.parametrize(
    "header",
    [
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "If-Match",
        "If-Modified-Since",
        "If-None-Match",
        "If-Unmodified-Since",
        "Range",
    ],
)
async def test_vary_header_separates_requests(
    application: Application, client: AsyncClient, header: str
) -> None:
    await request_twice_during(application, client, header)

    assert len(application.asked) == 3


@pytest.mark.parametrize("header", ["User-Agent", "Referer", "X-Forwarded-For"])
async def test_other_headers_share_a_response(
    application: Application, client: AsyncClient, header: str
) -> None:
    await request_twice_during(application, client, header)

    assert len(application.asked) == 2


async def request_twice_during(
    application: Application, client: AsyncClient, header: str
) -> None:
    """Send two header values while a response without the header is pending."""
    application.may_end.clear()
    tasks = [
        await begin(client.get("/", headers=headers))
        for headers in ({}, {header: "one"}, {header: "two"})
    ]
    application.may_end.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.post("/"), id="another method"),
        pytest.param(lambda client: client.get("/static/file"), id="exempt path"),
    ],
)
async def test_excluded_requests_are_never_shared(
    application: Application,
    client: AsyncClient,
    ask: Callable[[AsyncClient], Awaitable[Response]],
) -> None:
    application.may_end.clear()
    tasks = [await begin(ask(client)) for _ in range(5)]
    application.may_end.set()
    await asyncio.gather(*tasks)

    assert len(application.asked) == 5


async def test_other_path_is_not_shared(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    paths = ("/", "/?skip=1", "/other")
    tasks = [await begin(client.get(path)) for path in paths]
    application.may_end.set()
    await asyncio.gather(*tasks)

    assert len(application.asked) == 3


async def test_error_reaches_all_and_is_not_cached(
    application: Application, client: AsyncClient
) -> None:
    application.error = RuntimeError("a bug")
    tasks = [await begin(client.get("/")) for _ in range(3)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    application.error = None

    after = await client.get("/")

    assert [type(outcome) for outcome in outcomes] == [RuntimeError] * 3
    assert after.text == "first"


async def test_disconnect_does_not_cancel_shared_response(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    first = asyncio.create_task(client.get("/"))
    second = asyncio.create_task(client.get("/"))
    await application.begun.wait()
    first.cancel()
    application.may_end.set()

    assert (await second).text == "first"


async def test_cancelled_request_blocks_no_one(
    application: Application, collapsed: CoalescingMiddleware, client: AsyncClient
) -> None:
    scope = {**SCOPE, "headers": client.build_request("GET", "/").headers.raw}
    never_begun = collapsed._respond(scope)
    never_begun.cancel()

    response = await client.get("/")

    assert response.text == "first"
    assert len(application.asked) == 1


async def test_slow_response_is_not_waited_for(
    application: Application,
    collapsed: CoalescingMiddleware,
    client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalescing, "WAIT_TIMEOUT", 0.01)
    application.may_end.clear()
    first = await begin(client.get("/"))

    others = []
    for _ in range(3):
        others.append(asyncio.create_task(client.get("/")))
        await asyncio.sleep(0.05)

    assert len(application.asked) == 4
    application.may_end.set()
    answers = await asyncio.gather(first, *others)
    assert {answer.text for answer in answers} == {"first"}
    assert collapsed._running == collapsed._queued == {}


# Memory


class SlowClient:
    """A client that reads the start of a response, and the rest on demand."""

    def __init__(self, collapsed: CoalescingMiddleware, ip: str) -> None:
        self.status = 0
        self.body = b""
        self.goes_on = asyncio.Event()
        self.leaves = asyncio.Event()
        self.begun = asyncio.Event()
        scope = {**SCOPE, "client": (ip, 1)}
        site = responding_to_errors(collapsed)
        self.reading = asyncio.create_task(site(scope, self.receive, self.take))

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message["body"]
            self.begun.set()
            await self.goes_on.wait()

    async def end(self) -> None:
        """Read the rest."""
        self.goes_on.set()
        await self.reading


async def start_reading(
    collapsed: CoalescingMiddleware, ip: str = "192.0.2.1"
) -> SlowClient:
    """Start to read."""
    reader = SlowClient(collapsed, ip)
    async with asyncio.timeout(5):
        await reader.begun.wait()
    return reader


@pytest.fixture
def large(application: Application, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set a large text; memory holds two copies, and one per client IP."""
    application.text = "x" * 3000
    monkeypatch.setattr(coalescing, "LARGE_BYTES", 2000)
    monkeypatch.setattr(coalescing, "MAX_BYTES", 7000)
    monkeypatch.setattr(coalescing, "MAX_BYTES_PER_CLIENT", 4000)
    return application.text


async def test_identical_large_response_is_stored_once(
    collapsed: CoalescingMiddleware, large: str
) -> None:
    readers = [await start_reading(collapsed) for _ in range(10)]

    assert {reader.status for reader in readers} == {200}
    assert collapsed._bytes.total() == len(large)
    for reader in readers:
        await reader.end()
    assert collapsed._bytes == {}
    assert {reader.body for reader in readers} == {large.encode()}


async def test_second_large_response_of_a_client_is_rejected(
    application: Application, collapsed: CoalescingMiddleware, large: str
) -> None:
    first = await start_reading(collapsed)
    application.text = "y" * len(large)
    refused = await start_reading(collapsed)
    elsewhere = await start_reading(collapsed, "192.0.2.2")
    application.text = "small"
    small = await start_reading(collapsed)

    for reader in (first, refused, elsewhere, small):
        await reader.end()
    application.text = "z" * len(large)
    later = await start_reading(collapsed)
    await later.end()

    readers = (first, refused, elsewhere, small, later)
    assert [reader.status for reader in readers] == [200, 503, 200, 200, 200]
    assert collapsed._bytes == {}


async def test_total_memory_of_large_responses_is_limited(
    application: Application, collapsed: CoalescingMiddleware, large: str
) -> None:
    readers = []
    for number in range(4):
        application.text = str(number) * len(large)
        readers.append(await start_reading(collapsed, f"192.0.2.{number}"))

    for reader in readers:
        await reader.end()

    assert [reader.status for reader in readers] == [200, 200, 503, 503]


async def test_large_responses_without_etag_are_not_shared(
    application: Application, collapsed: CoalescingMiddleware, large: str
) -> None:
    application.is_tagged = False
    first = await start_reading(collapsed)
    application.text = "y" * len(large)
    second = await start_reading(collapsed, "192.0.2.2")

    for reader in (first, second):
        await reader.end()

    assert first.body != second.body


async def test_disconnected_reader_is_sent_nothing(
    application: Application, collapsed: CoalescingMiddleware
) -> None:
    application.text = "x" * (10 * CHUNK_BYTES)
    reader = await start_reading(collapsed)

    reader.leaves.set()
    await reader.end()

    # The second chunk may already have been on its way.
    assert len(reader.body) <= 2 * CHUNK_BYTES
    assert collapsed._bytes == {}


async def test_disconnected_reader_frees_memory(
    collapsed: CoalescingMiddleware, large: str
) -> None:
    reader = await start_reading(collapsed)
    reader.reading.cancel()
    await asyncio.wait({reader.reading})

    assert collapsed._bytes == {}


# The application


async def test_concurrent_home_page_requests_cost_two_reads(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    await create_post(concurrent_client, ada)
    with capture_queries() as alone:
        await concurrent_client.get("/")

    with capture_queries() as together:
        answers = await asyncio.gather(*(concurrent_client.get("/") for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert len(together) <= 2 * len(alone)


async def test_concurrent_users_get_their_own_responses(
    concurrent_client: AsyncClient,
) -> None:
    people = ["ada", "bob", "cleo"]
    headers = [await sign_up(concurrent_client, name) for name in people]

    answers = await asyncio.gather(
        *(concurrent_client.get("/api/users/me", headers=own) for own in headers * 5)
    )

    assert [answer.json()["username"] for answer in answers] == people * 5


async def test_response_without_body_needs_no_memory(
    concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await concurrent_client.get("/login")
    monkeypatch.setattr(coalescing, "LARGE_BYTES", 0)
    monkeypatch.setattr(coalescing, "MAX_BYTES", 10)
    known = {"If-None-Match": page.headers["ETag"]}

    full = await concurrent_client.get("/login")
    unchanged = await concurrent_client.get("/login", headers=known)
    head = await concurrent_client.head("/login")

    statuses = [answer.status_code for answer in (full, unchanged, head)]
    assert statuses == [503, 304, 200]


async def test_next_response_includes_latest_write(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")

    async def write_and_read(number: int) -> bool:
        title = f"Number {number}"
        await create_post(concurrent_client, ada, title=title)
        listed = await concurrent_client.get("/api/posts?limit=100")
        return title in listed.text

    assert all(await asyncio.gather(*(write_and_read(n) for n in range(20))))
