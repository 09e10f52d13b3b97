"""Malformed requests get a timely response without a server error.

`fuzz.py` generates them. A failed case can be repeated with its seed and number.
"""

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

import pytest
from httpx import AsyncClient
from starlette.types import Message

from main import app
from models import Post, User
from tests.conftest import auth_header, create_post, get_user_id, login_user, sign_up
from tests.stress.conftest import Figures
from tests.stress.fuzz import Case, Known, make_case, raw_case, short
from tests.stress.site import Site
from tests.test_races import count

SEED = 1
LIMIT_SECONDS = 2.0
# An incomplete request gets no response, so do not wait longer.
SILENCE_SECONDS = 1.0
AT_ONCE = 8

STATUS_LINE = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """The result of a case."""

    number: int
    case: Case
    status: int
    seconds: float
    error: str = ""

    @property
    def is_bad(self) -> bool:
        """Return whether the app has a bug."""
        # A disconnected client gets no response.
        is_silent = self.status == 0 and self.case.is_cut_off
        return bool(self.error) or not (200 <= self.status < 500 or is_silent)

    def __str__(self) -> str:
        """Return enough to repeat the case."""
        return (
            f"seed {SEED}, case {self.number}: {self.status} {self.error} "
            f"after {self.seconds:.1f} s for {self.case}"
        )


@dataclass(frozen=True)
class Exchange:
    """The data sent and received over a connection."""

    number: int
    sent: bytes
    statuses: list[int]
    seconds: float
    is_healthy: bool

    @property
    def is_bad(self) -> bool:
        """Return whether the server has a bug."""
        return any(status >= 500 for status in self.statuses) or not self.is_healthy

    def __str__(self) -> str:
        """Return enough to repeat the case."""
        return (
            f"seed {SEED}, raw case {self.number}: {self.statuses}, healthy after it: "
            f"{self.is_healthy}; sent {short(self.sent)}"
        )


async def send(number: int, case: Case) -> Result:
    """Pass a request to the app like a server does."""
    path, _, query = case.target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": case.method,
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": case.headers,
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    messages = body_messages(case)
    is_answered = asyncio.Event()
    status = 0

    async def receive() -> Message:
        for message in messages:
            return message
        # A client stays connected until the response, unless it has disconnected
        # before.
        if not case.is_cut_off:
            await is_answered.wait()
        return {"type": "http.disconnect"}

    async def note(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif not message.get("more_body", False):
            is_answered.set()

    error, started = "", time.perf_counter()
    try:
        await app(scope, receive, note)
    except Exception as caught:  # noqa: BLE001  # any exception is a bug
        error = repr(caught)
    return Result(number, case, status, time.perf_counter() - started, error)


def body_messages(case: Case) -> Iterator[Message]:
    """Return the server's messages for a request body."""
    for index, chunk in enumerate(case.chunks or [b""]):
        more = case.is_cut_off or index < len(case.chunks) - 1
        yield {"type": "http.request", "body": chunk, "more_body": more}


@pytest.fixture
async def known(concurrent_client: AsyncClient) -> Known:
    """Create a user with posts, who sends the requests."""
    client = concurrent_client
    client.event_hooks = {}
    await sign_up(client, "ada")
    token = await login_user(client)
    headers = auth_header(token)
    posts = [await create_post(client, headers) for _ in range(5)]
    listed = (await client.get("/api/posts?limit=2")).json()
    tag = (await client.get(f"/api/posts/{posts[0]['id']}")).headers["ETag"]
    return Known(
        token=token,
        user_id=await get_user_id(client, headers),
        post_ids=[post["id"] for post in posts],
        cursor=listed["next_cursor"],
        tag=tag,
    )


# After an incomplete form, Starlette's parser leaves its files to the garbage
# collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function SpooledTemporaryFile"
)
async def test_app_handles_malformed_requests(
    concurrent_client: AsyncClient,
    known: Known,
    full: bool,
    figures: Figures,
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = 18_000 if full else 360

    results = [await send(n, make_case(SEED, n, known)) for n in range(number)]

    bad = [result for result in results if result.is_bad]
    slowest = max(results, key=lambda result: result.seconds)
    figures.add(
        f"fuzz: {number:,} requests: errors of the server",
        describe(bad),
        "0",
        not bad,
    )
    figures.add(
        "fuzz: longest response in process",
        f"{slowest.seconds:.2f} s",
        f"{LIMIT_SECONDS} s",
        slowest.seconds < LIMIT_SECONDS,
    )
    assert list(map(str, bad)) == []
    assert [record.message for record in caplog.records if record.exc_info] == []
    await assert_site_is_well(concurrent_client, known, results)


def describe(bad: Sequence[Result | Exchange]) -> str:
    """Return the number of failed cases and the first of them."""
    first = ", ".join(str(each.number) for each in bad[:5])
    return f"{len(bad)} (seed {SEED}, cases {first})" if bad else "0"


async def test_aborted_upload_is_no_error(
    known: Known, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(
        "multipart",
        "PATCH",
        f"/api/users/{known.user_id}/picture".encode(),
        [
            (b"authorization", f"Bearer {known.token}".encode()),
            (b"content-type", b"multipart/form-data; boundary=x"),
        ],
        [b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nG'],
        is_cut_off=True,
    )

    result = await send(0, case)

    assert not result.is_bad, result
    assert [record.message for record in caplog.records if record.exc_info] == []


async def assert_site_is_well(
    client: AsyncClient, known: Known, results: list[Result]
) -> None:
    """Check that stored data matches the responses and the account is unchanged."""
    done = Counter(
        (result.case.method, result.case.target.partition(b"?")[0], result.status)
        for result in results
    )
    health = await client.get("/health")
    me = await client.get("/api/users/me", headers=auth_header(known.token))
    assert health.status_code == me.status_code == 200
    assert await count(User) == 1 + done["POST", b"/api/users", 201]
    assert await count(Post) == 5 + done["POST", b"/api/posts", 201]


def test_cases_are_reproducible() -> None:
    known = Known("token", 1, [1, 2], "cursor", "tag")

    first, second = [
        [(str(make_case(SEED, n, known)), raw_case(SEED, n)) for n in range(100)]
        for _ in range(2)
    ]

    assert first == second


# Raw HTTP


def exchange(site: Site, number: int) -> Exchange:
    """Send a case over a new connection, then check the server's health."""
    sent = raw_case(SEED, number)
    started = time.perf_counter()
    received, seconds = b"", 0.0
    with socket.create_connection(("127.0.0.1", site.port), SILENCE_SECONDS) as wire:
        # The server may disconnect while receiving.
        with suppress(OSError):
            wire.sendall(sent)
        with suppress(OSError):
            while part := wire.recv(65_536):
                received += part
                seconds = time.perf_counter() - started
                # Anything after the first response arrives at once.
                wire.settimeout(0.1)
    statuses = [int(status) for status in STATUS_LINE.findall(received)]
    return Exchange(number, sent, statuses, seconds, is_healthy(site))


def is_healthy(site: Site) -> bool:
    """Return whether a new connection gets a healthy response."""
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as wire:
        wire.sendall(request)
        return wire.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/", "/static/js/main.js", "/api/posts"])
def test_length_of_unread_body_is_no_error(site: Site, path: str) -> None:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 2000000"]

    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as wire:
        wire.sendall("\r\n".join([*lines, "", ""]).encode())
        response = wire.recv(65_536)

    assert response.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 413 "))


def test_server_survives_malformed_requests(
    site: Site, full: bool, figures: Figures
) -> None:
    number = 2_000 if full else 40

    with ThreadPoolExecutor(AT_ONCE) as pool:
        exchanges = list(pool.map(partial(exchange, site), range(number)))

    bad = [each for each in exchanges if each.is_bad]
    slowest = max(exchanges, key=lambda each: each.seconds)
    figures.add(
        f"fuzz: {number:,} connections: errors of the server",
        describe(bad),
        "0",
        not bad,
    )
    figures.add(
        "fuzz: longest response over the wire",
        f"{slowest.seconds:.2f} s",
        f"{LIMIT_SECONDS} s",
        slowest.seconds < LIMIT_SECONDS,
    )
    assert list(map(str, bad)) == []
    assert any(each.statuses for each in exchanges)
    assert "Traceback" not in site.written()
    assert site.process is not None
    assert site.process.poll() is None
