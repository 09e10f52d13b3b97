"""Load generation: a minimal HTTP/1.1 client, and a probe that measures latency.

The probe is a separate process, so that generating the load does not count as latency.
`python -m tests.stress.load PORT RATE PATH...` requests the paths in turn over one
connection until its input ends, and prints what it has seen.
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
# A client would have given up waiting by then.
PATIENCE = 30.0


class ConnectionLost(Exception):
    """The connection ended before the response was complete."""


@dataclass(frozen=True)
class TimedResponse:
    """A response and its time since the start of the request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Call:
    """A request that can be sent repeatedly."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encoded_head(self, host: str) -> bytes:
        """Return the encoded request line and headers."""
        headers = {"Host": host, **self.headers}
        if self.body or self.method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = str(len(self.body))
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def encoded(self, host: str) -> bytes:
        """Return the encoded request."""
        return self.encoded_head(host) + self.body


def with_json(
    method: str, path: str, content: object, headers: Mapping[str, str] | None = None
) -> Call:
    """Return a request with a JSON body."""
    kind = {"Content-Type": "application/json"}
    return Call(method, path, kind | dict(headers or {}), json.dumps(content).encode())


def with_form(
    path: str, headers: Mapping[str, str] | None = None, **fields: str
) -> Call:
    """Return a form request, such as a login."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return Call("POST", path, kind | dict(headers or {}), urlencode(fields).encode())


def with_picture(path: str, picture: bytes, headers: Mapping[str, str]) -> Call:
    """Return an upload like a browser's."""
    boundary = "torture-boundary"
    start = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="picture"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    body = start.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    return Call("PATCH", path, kind | dict(headers), body)


class Connection:
    """A persistent connection that is reopened after an error."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, call: Call, *, patience: float = PATIENCE) -> TimedResponse:
        """Send a request and read the complete response.

        Raises:
            ConnectionLost: The connection ended, or the response took too long.
        """
        start = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                reader, writer = await self._open()
                sending = asyncio.create_task(self._send(writer, call))
                try:
                    status, headers, body = await read_response(reader, call.method)
                finally:
                    # After an early response, the rest of the request is not sent.
                    unsent = not sending.done()
                    sending.cancel()
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise ConnectionLost(
                f"{call.method} {call.path}: {type(error).__name__}"
            ) from error
        if unsent or headers.get("connection") == "close":
            self.close()
        return TimedResponse(status, headers, body, time.monotonic() - start)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        return self._streams

    async def _send(self, writer: asyncio.StreamWriter, call: Call) -> None:
        with contextlib.suppress(OSError):
            writer.write(call.encoded_head(self.host) + call.body)
            await writer.drain()

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def read_response(
    reader: asyncio.StreamReader, method: str
) -> tuple[int, dict[str, str], bytes]:
    """Read the status, headers and body of a response (RFC 9112)."""
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


# Many requests at once


@dataclass
class StatusCounts:
    """Response counts by status; 0 means that there was no response."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def note(self, response: TimedResponse | None) -> None:
        """Count a response, or a missing one."""
        self.statuses[response.status if response else 0] += 1
        if response:
            self.seconds.append(response.seconds)


async def flood(
    port: int, connections: int, next_call: Callable[[], Call], *, seconds: float
) -> StatusCounts:
    """Send requests over this many connections as fast as possible."""
    tally = StatusCounts()
    deadline = time.monotonic() + seconds

    async def send_on() -> None:
        connection = Connection(port)
        while time.monotonic() < deadline:
            try:
                tally.note(await connection.ask(next_call(), patience=60))
            except ConnectionLost:
                tally.note(None)
                await asyncio.sleep(0.01)
        connection.close()

    await asyncio.gather(*(send_on() for _ in range(connections)))
    return tally


@dataclass(frozen=True)
class Seen:
    """One request at a steady rate; status 0 means that there was no response."""

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
    """Send requests at a steady rate and wait for the last responses."""
    seen: list[Seen] = []
    free: list[Connection] = []
    asking: set[asyncio.Task[None]] = set()

    async def ask(call: Call) -> None:
        connection = free.pop() if free else Connection(port)
        begun = time.monotonic()
        try:
            response = await connection.ask(call)
            status, headers = response.status, response.headers
        except ConnectionLost:
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


def in_random_order(calls: Sequence[Call], seed: int = 0) -> Callable[[], Call]:
    """Yield the calls in a reproducible random order."""
    chance = random.Random(seed)
    return lambda: chance.choice(calls)


# Probe


@dataclass(frozen=True)
class Sample:
    """A probe request: when it started and how long it took."""

    path: str
    begun: float
    seconds: float
    status: int


class Probe:
    """The probe's samples by phase; empty until the probe has ended."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.phases: list[tuple[float, str]] = []

    def begin(self, phase: str) -> None:
        """Start a new phase."""
        self.phases.append((time.monotonic(), phase))

    def during(self, phase: str) -> list[Sample]:
        """Return the samples of a phase."""
        return [s for s in self.samples if self._phase_at(s.begun) == phase]

    def statuses(self) -> set[int]:
        """Return all response statuses."""
        return {sample.status for sample in self.samples}

    def _phase_at(self, moment: float) -> str:
        return [phase for start, phase in self.phases if start <= moment][-1]


WARMING, QUIET, LOADED = "warming", "quiet", "loaded"
WARMING_SECONDS = 0.7


@contextlib.contextmanager
def probing(
    port: int, paths: Sequence[str] = READS, *, quiet_seconds: float
) -> Iterator[Probe]:
    """Probe pages at a moderate rate, first without load.

    The context runs the load; samples before its first `begin` belong to the phase
    `LOADED`.
    """
    probe = Probe()
    rate = str(PROBES_PER_SECOND)
    command = [sys.executable, "-m", "tests.stress.load", str(port), rate, *paths]
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
    """Return the 99th percentile."""
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
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.1)


def measure(port: int, per_second: float, paths: Sequence[str]) -> list[Sample]:
    """Run the probe process."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    samples: list[Sample] = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(due - time.monotonic(), 0))[0]:
        path = paths[len(samples) % len(paths)]
        begun = time.monotonic()
        status = request_once(connection, path)
        samples.append(Sample(path, begun, time.monotonic() - begun, status))
        due = max(due + 1 / per_second, time.monotonic())
    connection.close()
    return samples


def request_once(connection: http.client.HTTPConnection, path: str) -> int:
    """Return the response's status; 0 means that there was no response."""
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
