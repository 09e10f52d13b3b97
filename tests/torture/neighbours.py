"""Services beside the application that work, or fail in one of many ways."""

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
from tests.torture.site import child

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Behaviour = Callable[["Neighbour", Reader, Writer], Awaitable[None]]

BUCKET = "pictures"


class Neighbour:
    """A port of this machine at which something is served, well or badly.

    It runs in a thread of its own. A change of its behaviour ends all connections.
    """

    def __init__(self, behaviour: Behaviour, upstream: int | None = None) -> None:
        self.port = free_port()
        self.upstream = upstream
        self.behaviour = behaviour
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], Writer] = {}
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        self.be(self.behaviour)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def be(self, behaviour: Behaviour) -> None:
        """Behave like this from now on."""
        self._run(self._change(behaviour))

    def _run(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=10)

    async def _change(self, behaviour: Behaviour) -> None:
        await self._end()
        self.behaviour = behaviour
        if behaviour is not refuses:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port
            )

    async def _end(self) -> None:
        if self._server is not None:
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            # Whoever was let in just now is told of in one of the next turns, and is
            # lost, unclosed, when the server is closed before that.
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
        # Noted here and not in the task, which may be ended before it has begun.
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving[task] = writer
        task.add_done_callback(lambda task: self._serving.pop(task, None))

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        try:
            with suppress(OSError, EOFError):
                await self.behaviour(self, reader, writer)
        finally:
            writer.transport.abort()


# How they behave


async def refuses(_neighbour: Neighbour, _reader: Reader, _writer: Writer) -> None:
    """Nobody listens."""


async def hangs(_neighbour: Neighbour, reader: Reader, _writer: Writer) -> None:
    """Take everything and never answer."""
    while await reader.read(65_536):
        pass


async def drips(_neighbour: Neighbour, _reader: Reader, writer: Writer) -> None:
    """Answer a byte a second, without an end."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".ljust(3600, b"x"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def works(neighbour: Neighbour, reader: Reader, writer: Writer) -> None:
    """Pass everything on to the real service."""
    there = await asyncio.open_connection("127.0.0.1", neighbour.upstream)
    try:
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))
    finally:
        there[1].transport.abort()


async def obeys_in_silence(
    neighbour: Neighbour, reader: Reader, writer: Writer
) -> None:
    """Have everything done by the real service, and never say so."""
    there = await asyncio.open_connection("127.0.0.1", neighbour.upstream)
    try:
        # Its clients ask for a go-ahead before they send a picture.
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.gather(carry(reader, there[1]), hangs(neighbour, *there))
    finally:
        there[1].transport.abort()


async def carry(reader: Reader, writer: Writer) -> None:
    """Pass on what comes from one to the other."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


def answers(status: str, code: str) -> Behaviour:
    """Make a behaviour: an S3 that answers everything with an error."""
    body = f"<Error><Code>{code}</Code><Message>No</Message></Error>"
    answer = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )

    async def behave(_neighbour: Neighbour, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        # Not to reset the connection before the answer has been read.
        await hangs(_neighbour, reader, writer)

    return behave


def smtp(*, login: str, recipient: str) -> Behaviour:
    """Make a behaviour: an SMTP server that replies this to a login and a recipient."""
    replies = {
        "EHLO": "250-neighbour\r\n250 AUTH PLAIN",
        "AUTH": login,
        "RCPT": recipient,
        "DATA": "354 Go on",
        "QUIT": "221 Bye",
    }

    async def behave(_neighbour: Neighbour, reader: Reader, writer: Writer) -> None:
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
forbids = answers("403 Forbidden", "AccessDenied")
fails = answers("500 Internal Server Error", "InternalError")


# A store for pictures


class Bucket:
    """What is in the store, seen past whatever is between it and the application."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/{BUCKET}"

    def make(self) -> None:
        """Wait for the store, and make the bucket."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                httpx.put(self.url).raise_for_status()
                return
            time.sleep(0.1)
        raise TimeoutError("the store does not start")

    def files(self) -> set[str]:
        """The names of the stored pictures."""
        listing = httpx.get(f"{self.url}?list-type=2").raise_for_status().text
        return set(re.findall(r"<Key>profile_pics/([^<]+)</Key>", listing))


@contextmanager
def stored_by_moto(folder: Path) -> Iterator[Bucket]:
    """A store in a process of its own."""
    bucket = Bucket(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
    with (
        (folder / "moto.txt").open("wb") as output,
        child([*command, "-p", str(bucket.port)], output),
    ):
        bucket.make()
        yield bucket
