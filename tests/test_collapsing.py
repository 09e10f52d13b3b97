"""Answers that are made once for a crowd, and kept once while they are taken."""

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
from tests.conftest import counted_statements, create_post, sign_up

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
    """No picture is stored here, and making a bucket takes a while."""


class Application:
    """Answers with what it was told last, when it is let."""

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
    """What is asked."""
    return Application()


@pytest.fixture
def collapsed(application: Application) -> CoalescingMiddleware:
    """What stands before it."""
    return CoalescingMiddleware(application, exempt_paths=("/exempt/",))


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
    """Anybody."""
    transport = ASGITransport(app=responding_to_errors(collapsed))
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def begin(request: Awaitable[Response]) -> "asyncio.Task[Response]":
    """Ask, and wait until nothing happens any more."""
    task = asyncio.ensure_future(request)
    assert isinstance(task, asyncio.Task)
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def test_crowd_is_answered_with_two_answers(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    first = await begin(client.get("/"))
    others = [await begin(client.get("/")) for _ in range(10)]
    application.may_end.set()

    answers = await asyncio.gather(first, *others)

    assert {answer.text for answer in answers} == {"first"}
    assert len(application.asked) == 2


async def test_who_comes_meanwhile_misses_nothing_written_before(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    before = await begin(client.get("/"))
    application.text = "second"
    after = await begin(client.get("/"))
    application.may_end.set()

    assert [(await task).text for task in (before, after)] == ["first", "second"]


async def test_who_comes_later_is_answered_anew(
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
async def test_header_that_decides_tells_requests_apart(
    application: Application, client: AsyncClient, header: str
) -> None:
    await ask_twice_meanwhile(application, client, header)

    assert len(application.asked) == 3


@pytest.mark.parametrize("header", ["User-Agent", "Referer", "X-Forwarded-For"])
async def test_other_headers_do_not(
    application: Application, client: AsyncClient, header: str
) -> None:
    await ask_twice_meanwhile(application, client, header)

    assert len(application.asked) == 2


async def ask_twice_meanwhile(
    application: Application, client: AsyncClient, header: str
) -> None:
    """Ask with two values of a header while an answer without it is made."""
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
        pytest.param(lambda client: client.get("/exempt/file"), id="exempt path"),
    ],
)
async def test_what_is_left_alone_is_asked_each_time(
    application: Application,
    client: AsyncClient,
    ask: Callable[[AsyncClient], Awaitable[Response]],
) -> None:
    application.may_end.clear()
    tasks = [await begin(ask(client)) for _ in range(5)]
    application.may_end.set()
    await asyncio.gather(*tasks)

    assert len(application.asked) == 5


async def test_other_address_is_another_question(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    paths = ("/", "/?skip=1", "/other")
    tasks = [await begin(client.get(path)) for path in paths]
    application.may_end.set()
    await asyncio.gather(*tasks)

    assert len(application.asked) == 3


async def test_error_reaches_all_and_passes(
    application: Application, client: AsyncClient
) -> None:
    application.error = RuntimeError("a bug")
    tasks = [await begin(client.get("/")) for _ in range(3)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    application.error = None

    after = await client.get("/")

    assert [type(outcome) for outcome in outcomes] == [RuntimeError] * 3
    assert after.text == "first"


async def test_who_goes_away_takes_the_answer_from_nobody(
    application: Application, client: AsyncClient
) -> None:
    application.may_end.clear()
    first = asyncio.create_task(client.get("/"))
    second = asyncio.create_task(client.get("/"))
    await application.begun.wait()
    first.cancel()
    application.may_end.set()

    assert (await second).text == "first"


async def test_question_that_was_never_asked_keeps_nobody_waiting(
    application: Application, collapsed: CoalescingMiddleware, client: AsyncClient
) -> None:
    scope = {**SCOPE, "headers": client.build_request("GET", "/").headers.raw}
    never_begun = collapsed._respond(scope)
    never_begun.cancel()

    response = await client.get("/")

    assert response.text == "first"
    assert len(application.asked) == 1


async def test_slow_answer_is_not_waited_for(
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


# What is kept


class SlowReader:
    """Somebody who takes the beginning of an answer, and the rest when told to."""

    def __init__(self, collapsed: CoalescingMiddleware, address: str) -> None:
        self.status = 0
        self.body = b""
        self.goes_on = asyncio.Event()
        self.leaves = asyncio.Event()
        self.begun = asyncio.Event()
        scope = {**SCOPE, "client": (address, 1)}
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
        """Take all the rest."""
        self.goes_on.set()
        await self.reading


async def come(
    collapsed: CoalescingMiddleware, address: str = "192.0.2.1"
) -> SlowReader:
    """Begin to read."""
    reader = SlowReader(collapsed, address)
    async with asyncio.timeout(5):
        await reader.begun.wait()
    return reader


@pytest.fixture
def large(application: Application, monkeypatch: pytest.MonkeyPatch) -> str:
    """A text of which there is room for two, and for one from each address."""
    application.text = "x" * 3000
    monkeypatch.setattr(coalescing, "LARGE_BYTES", 2000)
    monkeypatch.setattr(coalescing, "MAX_BYTES", 7000)
    monkeypatch.setattr(coalescing, "MAX_BYTES_PER_CLIENT", 4000)
    return application.text


async def test_same_large_answer_is_kept_once(
    collapsed: CoalescingMiddleware, large: str
) -> None:
    readers = [await come(collapsed) for _ in range(10)]

    assert {reader.status for reader in readers} == {200}
    assert collapsed._bytes.total() == len(large)
    for reader in readers:
        await reader.end()
    assert collapsed._bytes == {}
    assert {reader.body for reader in readers} == {large.encode()}


async def test_large_answer_finds_no_room_beside_another_of_the_same_client(
    application: Application, collapsed: CoalescingMiddleware, large: str
) -> None:
    first = await come(collapsed)
    application.text = "y" * len(large)
    refused = await come(collapsed)
    elsewhere = await come(collapsed, "192.0.2.2")
    application.text = "small"
    small = await come(collapsed)

    for reader in (first, refused, elsewhere, small):
        await reader.end()
    application.text = "z" * len(large)
    later = await come(collapsed)
    await later.end()

    readers = (first, refused, elsewhere, small, later)
    assert [reader.status for reader in readers] == [200, 503, 200, 200, 200]
    assert collapsed._bytes == {}


async def test_large_answers_find_only_so_much_room_together(
    application: Application, collapsed: CoalescingMiddleware, large: str
) -> None:
    readers = []
    for number in range(4):
        application.text = str(number) * len(large)
        readers.append(await come(collapsed, f"192.0.2.{number}"))

    for reader in readers:
        await reader.end()

    assert [reader.status for reader in readers] == [200, 200, 503, 503]


async def test_large_answers_without_a_tag_are_never_taken_for_each_other(
    application: Application, collapsed: CoalescingMiddleware, large: str
) -> None:
    application.is_tagged = False
    first = await come(collapsed)
    application.text = "y" * len(large)
    second = await come(collapsed, "192.0.2.2")

    for reader in (first, second):
        await reader.end()

    assert first.body != second.body


async def test_nothing_is_sent_to_a_reader_who_has_left(
    application: Application, collapsed: CoalescingMiddleware
) -> None:
    application.text = "x" * (10 * CHUNK_BYTES)
    reader = await come(collapsed)

    reader.leaves.set()
    await reader.end()

    # The part after the first may have been on its way.
    assert len(reader.body) <= 2 * CHUNK_BYTES
    assert collapsed._bytes == {}


async def test_reader_who_is_lost_frees_the_room(
    collapsed: CoalescingMiddleware, large: str
) -> None:
    reader = await come(collapsed)
    reader.reading.cancel()
    await asyncio.wait({reader.reading})

    assert collapsed._bytes == {}


# The application


async def test_crowd_on_the_home_page_costs_what_two_readers_cost(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    await create_post(concurrent_client, ada)
    with counted_statements() as alone:
        await concurrent_client.get("/")

    with counted_statements() as together:
        answers = await asyncio.gather(*(concurrent_client.get("/") for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert len(together) <= 2 * len(alone)


async def test_people_who_ask_at_once_get_their_own(
    concurrent_client: AsyncClient,
) -> None:
    people = ["ada", "bob", "cleo"]
    headers = [await sign_up(concurrent_client, name) for name in people]

    answers = await asyncio.gather(
        *(concurrent_client.get("/api/users/me", headers=own) for own in headers * 5)
    )

    assert [answer.json()["username"] for answer in answers] == people * 5


async def test_answer_without_a_body_needs_no_room(
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


async def test_what_was_just_written_is_in_the_next_answer(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")

    async def write_and_read(number: int) -> bool:
        title = f"Number {number}"
        await create_post(concurrent_client, ada, title=title)
        listed = await concurrent_client.get("/api/posts?limit=100")
        return title in listed.text

    assert all(await asyncio.gather(*(write_and_read(n) for n in range(20))))
