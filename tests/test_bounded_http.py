"""Connections that do not come to the point, on a server of uvicorn's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

import bounded_http
from entity_tags import send_in_parts
from tests.databases import free_port

HEAD = b"GET / HTTP/1.1\r\nHost: test\r\n"
ANSWER = b"HTTP/1.1 200 OK"
# More than all that is between two programs takes in.
MUCH = b"x" * 20_000_000
gone = asyncio.Event()

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Nothing is stored here, and making a bucket takes longer than these tests do."""


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Take in what is sent, and greet; or say much, and note when that has ended."""
    # The application sees to the end of what never comes in the same way.
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await Request(scope, receive).body()
    await asyncio.sleep(0.01)
    if scope["path"] == "/much":
        gone.clear()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send_in_parts(MUCH, send)
        gone.set()
    else:
        await PlainTextResponse("Hello")(scope, receive, send)


@asynccontextmanager
async def serving(**where: Any) -> AsyncIterator[None]:
    """A server for as long as the context lasts."""
    config = uvicorn.Config(
        hello,
        http="bounded_http:BoundedHttp",
        log_config=None,
        lifespan="off",
        **where,
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield
    server.should_exit = True
    await server.shutdown()


@pytest.fixture
async def wire() -> AsyncIterator[Streams]:
    """A connection to a server."""
    port = free_port()
    async with serving(port=port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield reader, writer
        writer.transport.abort()


async def test_socket_of_another_family_will_do(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with serving(uds=path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(HEAD + b"Connection: close\r\n\r\n")

        answer = await read_to_the_end(reader)
        writer.close()

    assert answer.startswith(ANSWER)


async def test_answer_that_is_not_taken_is_given_up(
    wire: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "TAKING_SECONDS", 0.1)
    reader, writer = wire
    assert isinstance(writer.transport, asyncio.Transport)
    writer.transport.pause_reading()
    writer.write(b"GET /much HTTP/1.1\r\nHost: test\r\n\r\n")
    async with asyncio.timeout(10):
        await gone.wait()
    writer.transport.resume_reading()

    with suppress(ConnectionResetError):
        assert len(await read_to_the_end(reader)) < len(MUCH)


async def test_answer_that_is_taken_bit_by_bit_is_whole(
    wire: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "TAKING_SECONDS", 5.0)
    reader, writer = wire
    head = b"GET /much HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    writer.write(head)

    answer = await read_to_the_end(reader)

    # In chunks, as nothing says how long it is.
    assert answer.count(b"x") == len(MUCH)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits a tenth of a second for a head."""
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", 0.1)


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server hangs up."""
    async with asyncio.timeout(10):
        return await reader.read()


async def begin(stack: AsyncExitStack, port: int, begun: bytes) -> asyncio.StreamReader:
    """Connect until the end of a context and send this; what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    writer.write(begun)
    return reader


@pytest.mark.parametrize(
    ("begun", "answers"),
    [
        pytest.param(b"", 0, id="nothing asked"),
        pytest.param(HEAD, 0, id="half a head"),
        pytest.param(HEAD + b"\r\n", 1, id="another request to come"),
    ],
)
async def test_connections_that_ask_for_nothing_make_room(
    begun: bytes, answers: int
) -> None:
    port = free_port()
    async with serving(port=port, limit_concurrency=5), AsyncExitStack() as stack:
        silent = []
        for _ in range(12):
            reader = await begin(stack, port, begun)
            if answers:
                await reader.readuntil(b"Hello")
            silent.append(reader)

        reader = await begin(stack, port, HEAD + b"Connection: close\r\n\r\n")
        answer = await read_to_the_end(reader)

        first = await read_to_the_end(silent[0])

    assert answer.startswith(ANSWER)
    assert first == b""


async def test_connections_that_are_answered_make_no_room() -> None:
    port = free_port()
    async with serving(port=port, limit_concurrency=3), AsyncExitStack() as stack:
        # The application waits for the body, and the answer for that.
        head = HEAD + b"Content-Length: 1\r\n\r\n"
        busy = [await begin(stack, port, head) for _ in range(4)]
        heads = [await reader.readline() for reader in busy]

    assert heads[:2] == [ANSWER + b"\r\n"] * 2
    assert heads[2:] == [b"HTTP/1.1 503 Service Unavailable\r\n"] * 2


async def test_headers_without_an_end_are_refused(wire: Streams) -> None:
    reader, writer = wire
    writer.write(HEAD + b"X: " + b"a" * bounded_http.MAX_HEAD_BYTES)

    answer = await read_to_the_end(reader)

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_many_short_headers_are_refused_like_a_long_one(wire: Streams) -> None:
    reader, writer = wire
    writer.write(HEAD)
    for _ in range(bounded_http.MAX_HEAD_BYTES // 1000 + 1):
        writer.write(b"X: a\r\n" * 200)

    answer = await read_to_the_end(reader)

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_body_counts_for_nothing_here(wire: Streams) -> None:
    reader, writer = wire
    length = 3 * bounded_http.MAX_HEAD_BYTES
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % length + b"a" * length)
    writer.write(HEAD + b"Connection: close\r\n\r\n")

    answers = await read_to_the_end(reader)

    assert answers.count(ANSWER) == 2


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n" + HEAD])
async def test_who_does_not_come_to_the_end_is_not_waited_for(
    impatient: None, wire: Streams, sent: bytes
) -> None:
    reader, writer = wire
    writer.write(sent)

    answers = await read_to_the_end(reader)

    assert answers.count(ANSWER) == sent.count(HEAD + b"\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD, id="in the headers"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\nabc", id="in the body"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\na", id="in a chunk"
        ),
    ],
)
async def test_end_in_the_midst_of_a_request_is_refused_at_once(
    wire: Streams, sent: bytes
) -> None:
    reader, writer = wire
    writer.write(sent)
    writer.write_eof()

    answer = await read_to_the_end(reader)

    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("requests", [1, 3])
async def test_who_sends_no_more_is_answered_all_the_same(
    wire: Streams, requests: int
) -> None:
    reader, writer = wire
    writer.write((HEAD + b"\r\n") * requests)
    writer.write_eof()

    answers = await read_to_the_end(reader)

    assert answers.count(ANSWER) == requests


async def test_whole_request_is_answered_when_the_next_one_is_not_whole(
    wire: Streams,
) -> None:
    reader, writer = wire
    writer.write(HEAD + b"\r\n" + HEAD + b"Content-Length: 9\r\n\r\nabc")
    writer.write_eof()

    answer = await reader.readuntil(b"Hello")

    assert answer.startswith(ANSWER)


async def test_who_hangs_up_between_two_requests_is_told_nothing(
    wire: Streams,
) -> None:
    reader, writer = wire
    writer.write(HEAD + b"\r\n")
    answer = await reader.readuntil(b"Hello")
    writer.write_eof()

    assert answer.startswith(ANSWER)
    assert await read_to_the_end(reader) == b""


async def test_idle_connection_is_kept_after_an_answer(
    impatient: None, wire: Streams
) -> None:
    reader, writer = wire
    writer.write(HEAD + b"\r\n")
    await reader.readuntil(b"Hello")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.read(1)
