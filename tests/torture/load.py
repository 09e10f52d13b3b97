"""Load and measurement: HTTP/1.1 with little between, and a probe beside the load.

The probe is a process of its own, so that the work of making the load does not count as
a slow answer: `python -m tests.torture.load PORT RATE PATH...` asks, until its input
ends, for one path after the other over one connection, and prints what it has seen.
"""

import asyncio
import contextlib
import http.client
import json
import math
import random
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[2]
READS = ("/", "/api/posts", "/health")
PROBES_PER_SECOND = 40
# What a client who waits for an answer would have given up by.
PATIENCE = 30.0


class Lost(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class Answer:
    """What came back, and how long after the request had begun."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Call:
    """A request that can be made again and again."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encoded_head(self, host: str) -> bytes:
        """What goes before the body."""
        headers = {"Host": host, **self.headers}
        if self.body or self.method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = str(len(self.body))
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def encoded(self, host: str) -> bytes:
        """All that goes over the wire."""
        return self.encoded_head(host) + self.body


def with_json(
    method: str, path: str, content: object, headers: Mapping[str, str] | None = None
) -> Call:
    """A request with JSON in its body."""
    kind = {"Content-Type": "application/json"}
    return Call(method, path, kind | dict(headers or {}), json.dumps(content).encode())


def with_form(
    path: str, headers: Mapping[str, str] | None = None, **fields: str
) -> Call:
    """A form, as one that logs in is sent."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return Call("POST", path, kind | dict(headers or {}), urlencode(fields).encode())


def with_picture(path: str, picture: bytes, headers: Mapping[str, str]) -> Call:
    """An upload, as browsers send it."""
    boundary = "torture-boundary"
    start = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="picture"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    body = start.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    return Call("PATCH", path, kind | dict(headers), body)


class Connection:
    """One connection that is kept, and made anew after it was lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, call: Call, *, patience: float = PATIENCE) -> Answer:
        """Send a request and wait for the whole answer.

        Raises:
            Lost: The connection ended, or the answer took too long.
        """
        start = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                reader, writer = await self._open()
                sending = asyncio.create_task(self._send(writer, call))
                try:
                    status, headers, body = await read_answer(reader, call.method)
                finally:
                    # What was answered before it was all sent is not sent any more.
                    unsent = not sending.done()
                    sending.cancel()
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise Lost(f"{call.method} {call.path}: {type(error).__name__}") from error
        if unsent or headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body, time.monotonic() - start)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        return self._streams

    async def _send(self, writer: asyncio.StreamWriter, call: Call) -> None:
        with contextlib.suppress(OSError):
            writer.write(call.encoded_head(self.host) + call.body)
            await writer.drain()

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def read_answer(
    reader: asyncio.StreamReader, method: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer on a connection (RFC 9112)."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if method == "HEAD" or status in {204, 304}:
        return status, headers, b""
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, await _read_chunks(reader)
    length = int(headers.get("content-length", "0"))
    return status, headers, await reader.readexactly(length)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(chunks)


# Many at once


@dataclass
class Tally:
    """What a crowd was answered; 0 stands for an answer that never came."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def note(self, answer: Answer | None) -> None:
        """Count an answer, or that there was none."""
        self.statuses[answer.status if answer else 0] += 1
        if answer:
            self.seconds.append(answer.seconds)


async def flood(
    port: int, connections: int, next_call: Callable[[], Call], *, seconds: float
) -> Tally:
    """Ask over so many connections, each as fast as it is answered, for so long."""
    tally = Tally()
    deadline = time.monotonic() + seconds

    async def ask_on() -> None:
        connection = Connection(port)
        while time.monotonic() < deadline:
            try:
                tally.note(await connection.ask(next_call(), patience=60))
            except Lost:
                tally.note(None)
                await asyncio.sleep(0.01)
        connection.close()

    await asyncio.gather(*(ask_on() for _ in range(connections)))
    return tally


@dataclass(frozen=True)
class Seen:
    """One request of a steady stream; status 0 when no answer came."""

    call: Call
    begun: float
    seconds: float
    status: int
    headers: Mapping[str, str]


async def steady(
    port: int,
    next_call: Callable[[], Call],
    *,
    per_second: float,
    until: Callable[[Sequence[Seen]], bool],
) -> list[Seen]:
    """Ask at a steady rate, whether answers come or not, and wait for the last ones."""
    seen: list[Seen] = []
    free: list[Connection] = []
    asking: set[asyncio.Task[None]] = set()

    async def ask(call: Call) -> None:
        connection = free.pop() if free else Connection(port)
        begun = time.monotonic()
        try:
            answer = await connection.ask(call)
            status, headers = answer.status, answer.headers
        except Lost:
            status, headers = 0, {}
        seen.append(Seen(call, begun, time.monotonic() - begun, status, headers))
        free.append(connection)

    due = time.monotonic()
    while not until(seen):
        task = asyncio.create_task(ask(next_call()))
        asking.add(task)
        task.add_done_callback(asking.discard)
        due += 1 / per_second
        await asyncio.sleep(max(due - time.monotonic(), 0))
    await asyncio.gather(*asking)
    for connection in free:
        connection.close()
    return seen


def at_random(calls: Sequence[Call], seed: int = 0) -> Callable[[], Call]:
    """Give the calls in a random order that is always the same."""
    chance = random.Random(seed)
    return lambda: chance.choice(calls)


# The probe


@dataclass(frozen=True)
class Sample:
    """An answer to the probe: when it was asked for, how long it took."""

    path: str
    begun: float
    seconds: float
    status: int


class Probe:
    """What the probe has seen, by phase; there is none before it has ended."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.phases: list[tuple[float, str]] = []

    def begin(self, phase: str) -> None:
        """Count what is asked from now on to another phase."""
        self.phases.append((time.monotonic(), phase))

    def during(self, phase: str) -> list[Sample]:
        """What was seen in a phase."""
        return [s for s in self.samples if self._phase_at(s.begun) == phase]

    def statuses(self) -> set[int]:
        """How it was answered, from beginning to end."""
        return {sample.status for sample in self.samples}

    def _phase_at(self, moment: float) -> str:
        return [phase for start, phase in self.phases if start <= moment][-1]


WARMING, QUIET, LOADED = "warming", "quiet", "loaded"
WARMING_SECONDS = 0.7


@contextlib.contextmanager
def probing(
    port: int, paths: Sequence[str] = READS, *, quiet_seconds: float
) -> Iterator[Probe]:
    """Ask for pages at a modest rate, first for a while before the context begins.

    What runs in the context is the load; what it does before its first `begin` belongs
    to the phase `LOADED`.
    """
    probe = Probe()
    rate = str(PROBES_PER_SECOND)
    command = [sys.executable, "-m", "tests.torture.load", str(port), rate, *paths]
    probe.begin(WARMING)
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        time.sleep(WARMING_SECONDS)
        probe.begin(QUIET)
        time.sleep(quiet_seconds)
        probe.begin(LOADED)
        yield probe
        output, _ = process.communicate(timeout=60)
        probe.samples = [Sample(*entry) for entry in json.loads(output)]
    finally:
        process.kill()
        process.wait()


def p99(seconds: Sequence[float]) -> float:
    """What 99 of 100 values do not exceed."""
    return sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1]


def slowdown(probe: Probe, phase: str = LOADED) -> tuple[str, float]:
    """Return how much slower the slowest reads became, in words and as a ratio."""
    quiet, loaded = (
        p99([sample.seconds for sample in probe.during(each)])
        for each in (QUIET, phase)
    )
    ratio = loaded / quiet
    return f"{ratio:.1f} ({loaded * 1000:.0f} ms / {quiet * 1000:.0f} ms)", ratio


def wait_for(holds: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.1)


def measure(port: int, per_second: float, paths: Sequence[str]) -> list[Sample]:
    """What the process of the probe does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    samples: list[Sample] = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(due - time.monotonic(), 0))[0]:
        path = paths[len(samples) % len(paths)]
        begun = time.monotonic()
        status = ask_once(connection, path)
        samples.append(Sample(path, begun, time.monotonic() - begun, status))
        due = max(due + 1 / per_second, time.monotonic())
    connection.close()
    return samples


def ask_once(connection: http.client.HTTPConnection, path: str) -> int:
    """The status of an answer; 0 when none came."""
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0
    return response.status


def main() -> None:
    port, per_second, *paths = sys.argv[1:]
    samples = measure(int(port), float(per_second), paths)
    entries = [(s.path, s.begun, s.seconds, s.status) for s in samples]
    json.dump(entries, sys.stdout)


if __name__ == "__main__":
    main()
