"""Load on a server, and what it costs the server and other clients."""

import asyncio
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image

from tests.server import LiveServer, Person
from tests.stress.conftest import Figures

READS = ("/", "/api/posts", "/health")

# Requests


def login(
    server: LiveServer, email: str, password: str = "wrong", *, ip: str = "127.0.0.1"
) -> httpx.Request:
    form = {"username": email, "password": password}
    headers = {"X-Forwarded-For": ip}
    path = "/api/users/token"
    return server.client.build_request("POST", path, data=form, headers=headers)


def forgotten(server: LiveServer, email: str) -> httpx.Request:
    path = "/api/users/forgot-password"
    return server.client.build_request("POST", path, json={"email": email})


def upload(server: LiveServer, person: Person, content: bytes) -> httpx.Request:
    return server.client.build_request(
        "PATCH",
        f"/api/users/{person.id}/picture",
        files={"file": ("me.png", content)},
        headers=person.headers,
    )


def picture(width: int = 20, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Return a picture whose decoding takes far more memory than its file has."""
    output = BytesIO()
    Image.new(mode, (width, width)).save(output, kind, progressive=True)
    return output.getvalue()


def encoded(request: httpx.Request) -> bytes:
    """Return the bytes of a request for an uncompressed response."""
    headers = {**request.headers, "accept-encoding": "identity"}
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + request.read()


# Clients


@dataclass(frozen=True)
class Exchange:
    """A request and its response; status 0 means that there was none."""

    status: int
    started: float
    seconds: float


def send(server: LiveServer, request: httpx.Request) -> Exchange:
    started = time.monotonic()
    status = 0
    with suppress(httpx.TransportError):
        status = server.client.send(request).status_code
    return Exchange(status, started, time.monotonic() - started)


def send_together(
    server: LiveServer, requests: Sequence[httpx.Request]
) -> list[Exchange]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return [*pool.map(partial(send, server), requests)]


def flood(
    server: LiveServer,
    requests: Sequence[httpx.Request],
    clients: int,
    is_over: Callable[[list[Exchange]], bool],
) -> list[Exchange]:
    """Send requests in random order; each client waits for a response."""
    exchanges: list[Exchange] = []

    def keep_sending(_client: int) -> None:
        while not is_over(exchanges):
            exchanges.append(send(server, random.choice(requests)))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(keep_sending, range(clients)))
    return exchanges


def count_statuses(exchanges: Sequence[Exchange]) -> Counter[int]:
    return Counter(exchange.status for exchange in exchanges)


def send_slowly(
    port: int, start: bytes, *, clients: int, seconds: float, ip: str = "127.0.0.1"
) -> Counter[int]:
    """Send a byte per second after `start`, and start again when the server ends it.

    Returns how often it responded with each status, or without one (0).
    """
    statuses: Counter[int] = Counter()

    async def keep_sending() -> None:
        while True:
            await asyncio.sleep(random.uniform(0, seconds / 8))
            statuses[await _send_bytewise(port, start, ip)] += 1

    async def send_all() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(keep_sending() for _ in range(clients)))

    asyncio.run(send_all())
    return statuses


async def _send_bytewise(port: int, start: bytes, ip: str) -> int:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(ip, 0)
    )
    writer.write(start)
    response = asyncio.create_task(reader.read(12))
    try:
        while not (await asyncio.wait({response}, timeout=1))[0]:
            writer.write(b"x")
        with suppress(OSError):
            return int((await response)[9:] or 0)
        return 0
    finally:
        response.cancel()
        writer.transport.abort()


def open_slow_reader(
    port: int, request: bytes, *, ip: str = "127.0.0.1"
) -> socket.socket:
    """Send a request, and read nothing yet."""
    client = socket.socket()
    # As little as the kernel allows; has no effect after connecting.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.settimeout(60)
    client.bind((ip, 0))
    client.connect(("127.0.0.1", port))
    client.sendall(request)
    return client


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "the condition doesn't come true"
        time.sleep(0.1)


# Limits


@contextmanager
def reads_during(figures: Figures, url: str, what: str) -> Iterator[None]:
    """Check that another client can read pages."""
    is_over = threading.Event()
    seconds: list[float] = []

    def read() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not is_over.wait(0.02):
                response = client.get(READS[len(seconds) % len(READS)])
                assert response.status_code == 200
                seconds.append(response.elapsed.total_seconds())

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            yield
        finally:
            is_over.set()
    reading.result()
    figures.add_seconds(f"slowest read, {what}", max(seconds), limit=1)


@contextmanager
def memory_limit(
    figures: Figures, server: LiveServer, what: str, *, mib: int
) -> Iterator[None]:
    """Check how much memory the server needs at most."""
    before = memory(server)
    # Forget the maximum so far.
    proc(server, "clear_refs").write_text("5")
    yield
    grown = memory(server, "VmHWM") - before
    figures.add(f"memory, {what}", f"{grown:+.0f} MiB", f"+{mib} MiB", grown <= mib)
    assert grown <= mib


def memory(server: LiveServer, kind: str = "VmRSS") -> float:
    """Return the current (VmRSS) or largest (VmHWM) memory in MiB."""
    status = proc(server, "status").read_text()
    return int(re.findall(rf"{kind}:\s+(\d+) kB", status)[0]) / 1024


def open_files(server: LiveServer) -> int:
    return len([*proc(server, "fd").iterdir()])


def proc(server: LiveServer, name: str) -> Path:
    """Return a file about the process."""
    assert server.process
    return Path(f"/proc/{server.process.pid}/{name}")


def held_connections(server: LiveServer) -> int:
    """Return how many database connections requests hold without using them."""
    rows = server.sql(
        "SELECT FROM pg_stat_activity WHERE application_name = 'fastapi-blog' "
        "AND datname = current_database() AND state <> 'idle' "
        # Health checks are faster.
        "AND clock_timestamp() - state_change > interval '0.5 seconds'"
    )
    return len(rows)
