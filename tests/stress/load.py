"""Generate load, and measure how it affects the server and other clients."""

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
    """Return a black picture, whose file is small even if it has many pixels."""
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
    """The outcome of a request. Status 0 means that there was no response."""

    status: int
    started: float
    seconds: float


def send(client: httpx.Client, request: httpx.Request) -> Exchange:
    started = time.monotonic()
    status = 0
    with suppress(httpx.TransportError):
        status = client.send(request).status_code
    return Exchange(status, started, time.monotonic() - started)


def send_together(
    server: LiveServer, requests: Sequence[httpx.Request]
) -> list[Exchange]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return [*pool.map(partial(send, server.client), requests)]


@contextmanager
def flood(
    client: httpx.Client, requests: Sequence[httpx.Request], clients: int
) -> Iterator[list[Exchange]]:
    """Send random requests from several clients until the context ends."""
    exchanges: list[Exchange] = []
    is_over = threading.Event()

    def keep_sending() -> None:
        while not is_over.is_set():
            exchanges.append(send(client, random.choice(requests)))

    with ThreadPoolExecutor(clients) as pool:
        sending = [pool.submit(keep_sending) for _ in range(clients)]
        try:
            yield exchanges
        finally:
            is_over.set()
    for future in sending:
        future.result()


def count_statuses(exchanges: Sequence[Exchange]) -> Counter[int]:
    return Counter(exchange.status for exchange in exchanges)


def open_slow_reader(
    port: int, request: bytes, *, ip: str = "127.0.0.1"
) -> socket.socket:
    """Send a request without reading the response."""
    client = socket.socket()
    # Set the smallest buffer that the kernel allows. It must be set before connecting.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.settimeout(60)
    client.bind((ip, 0))
    client.connect(("127.0.0.1", port))
    client.sendall(request)
    return client


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.1)


# Limits


@contextmanager
def reads_during(figures: Figures, url: str, what: str) -> Iterator[None]:
    """Read pages while the context runs. Check that it works, and record the times."""
    with httpx.Client(base_url=url, timeout=60) as client:
        reads = [client.build_request("GET", path) for path in READS]
        with flood(client, reads, 1) as exchanges:
            yield
    assert set(count_statuses(exchanges)) == {200}
    slowest = max(exchange.seconds for exchange in exchanges)
    figures.add_seconds(f"slowest read, {what}", slowest, limit=1)


@contextmanager
def memory_limit(
    figures: Figures, server: LiveServer, what: str, *, mib: int
) -> Iterator[None]:
    """Check that the server's memory grows by at most `mib` MiB."""
    before = memory(server)
    # Reset the peak (VmHWM).
    proc(server, "clear_refs").write_text("5")
    yield
    grown = memory(server, "VmHWM") - before
    figures.add(f"memory, {what}", f"{grown:+.0f} MiB", f"+{mib} MiB", grown <= mib)
    assert grown <= mib


def memory(server: LiveServer, kind: str = "VmRSS") -> float:
    """Return the server's current (VmRSS) or peak (VmHWM) memory in MiB."""
    status = proc(server, "status").read_text()
    return int(re.findall(rf"{kind}:\s+(\d+) kB", status)[0]) / 1024


def open_files(server: LiveServer) -> int:
    return len([*proc(server, "fd").iterdir()])


def proc(server: LiveServer, name: str) -> Path:
    """Return the path of a file in `/proc` about the server's process."""
    assert server.process
    return Path(f"/proc/{server.process.pid}/{name}")


def held_connections(server: LiveServer) -> int:
    """Return how many database connections have been held for over half a second."""
    rows = server.sql(
        "SELECT FROM pg_stat_activity WHERE application_name = 'fastapi-blog' "
        "AND datname = current_database() AND state <> 'idle' "
        # Health checks hold their connection for less time.
        "AND clock_timestamp() - state_change > interval '0.5 seconds'"
    )
    return len(rows)
