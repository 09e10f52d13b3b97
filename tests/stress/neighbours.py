"""External services that work, or fail in various ways."""

import asyncio
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.databases import free_port
from tests.stress.site import child

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Behavior = Callable[["FaultyService", Reader, Writer], Awaitable[None]]

BUCKET = "pictures"


class FaultyService:
    """A local port whose service works or fails.

    It runs in another thread. Changing its behavior closes all connections.
    """

    def __init__(self, behavior: Behavior, upstream: int | None = None) -> None:
        self.port = free_port()
        self.upstream = upstream
        self.behavior = behavior
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], Writer] = {}
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "FaultyService":
        self._thread.start()
        self.set_behavior(self.behavior)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set_behavior(self, behavior: Behavior) -> None:
        """Change the behavior."""
        self._run(self._change(behavior))

    def _run(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=10)

    async def _change(self, behavior: Behavior) -> None:
        await self._end()
        self.behavior = behavior
        if behavior is not refuses:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port
            )

    async def _end(self) -> None:
        if self._server is not None:
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            # A new connection is reported in a later iteration of the event loop, and
            # would stay open if the server were closed earlier.
            for _ in range(5):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        serving, self._serving = self._serving, {}
        for task, writer in serving.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*serving, return_exceptions=True)

    def _accept(self, reader: Reader, writer: Writer) -> None:
        # Recorded here, because the task may be cancelled before it starts.
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving[task] = writer
        task.add_done_callback(lambda task: self._serving.pop(task, None))

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        try:
            with suppress(OSError, EOFError):
                await self.behavior(self, reader, writer)
        finally:
            writer.transport.abort()


# Behaviors


async def refuses(_neighbour: FaultyService, _reader: Reader, _writer: Writer) -> None:
    """Refuse connections."""


async def accepts_without_response(
    _neighbour: FaultyService, reader: Reader, _writer: Writer
) -> None:
    """Read everything and never respond."""
    while await reader.read(65_536):
        pass


async def responds_slowly(
    _neighbour: FaultyService, _reader: Reader, writer: Writer
) -> None:
    """Send a byte per second, endlessly."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".ljust(3600, b"x"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def forwards(neighbour: FaultyService, reader: Reader, writer: Writer) -> None:
    """Forward everything to the real service."""
    there = await asyncio.open_connection("127.0.0.1", neighbour.upstream)
    try:
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))
    finally:
        there[1].transport.abort()


async def forwards_without_response(
    neighbour: FaultyService, reader: Reader, writer: Writer
) -> None:
    """Forward everything to the real service, but drop its responses."""
    there = await asyncio.open_connection("127.0.0.1", neighbour.upstream)
    try:
        # Clients wait for 100 Continue before they send a picture.
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.gather(
            carry(reader, there[1]), accepts_without_response(neighbour, *there)
        )
    finally:
        there[1].transport.abort()


async def carry(reader: Reader, writer: Writer) -> None:
    """Forward data from one connection to another."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


def responds_with(status: str, code: str) -> Behavior:
    """Return a behavior: S3 responds to every request with an error."""
    body = f"<Error><Code>{code}</Code><Message>No</Message></Error>"
    response = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )

    async def behave(_neighbour: FaultyService, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response.encode())
        await writer.drain()
        # Do not reset the connection before the response has been read.
        await accepts_without_response(_neighbour, reader, writer)

    return behave


def smtp(*, login: str, recipient: str) -> Behavior:
    """Return a behavior: SMTP replies like this to a login and a recipient."""
    replies = {
        "EHLO": "250-neighbour\r\n250 AUTH PLAIN",
        "AUTH": login,
        "RCPT": recipient,
        "DATA": "354 Go on",
        "QUIT": "221 Bye",
    }

    async def behave(_neighbour: FaultyService, reader: Reader, writer: Writer) -> None:
        writer.write(b"220 neighbour\r\n")
        while line := (await reader.readline()).decode().strip():
            command = line[:4].upper()
            writer.write(f"{replies.get(command, '250 OK')}\r\n".encode())
            if command == "DATA":
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 OK\r\n")

    return behave


accepts_mail = smtp(login="235 Welcome", recipient="250 OK")
rejects_mail = smtp(login="235 Welcome", recipient="550 No such user")
rejects_logins = smtp(login="535 Wrong password", recipient="530 Log in")
forbids = responds_with("403 Forbidden", "AccessDenied")
fails = responds_with("500 Internal Server Error", "InternalError")


# Picture storage


class Bucket:
    """The bucket's content, read directly from the storage."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/{BUCKET}"

    def make(self) -> None:
        """Wait for the storage and create the bucket."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                httpx.put(self.url).raise_for_status()
                return
            time.sleep(0.1)
        raise TimeoutError("the store does not start")

    def files(self) -> set[str]:
        """Return the names of the stored pictures."""
        listing = httpx.get(f"{self.url}?list-type=2").raise_for_status().text
        return set(re.findall(r"<Key>profile_pics/([^<]+)</Key>", listing))


@contextmanager
def running_moto(folder: Path) -> Iterator[Bucket]:
    """Run picture storage in another process."""
    bucket = Bucket(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
    with (
        (folder / "moto.txt").open("wb") as output,
        child([*command, "-p", str(bucket.port)], output),
    ):
        bucket.make()
        yield bucket
