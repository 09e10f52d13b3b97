"""Load from floods, crowds and aborted requests hardly affects other clients.

"Quiet" is what the same probe saw in the same run before the load.
"""

import asyncio
import math
import random
import re
import socket
import statistics
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

import pytest

from tests.stress.conftest import FULL, Figures, NewSite
from tests.stress.load import (
    LOADED,
    Call,
    Connection,
    ConnectionLost,
    Probe,
    StatusCounts,
    TimedResponse,
    flood,
    in_random_order,
    probing,
    slowdown,
    wait_for,
    with_form,
    with_json,
    with_picture,
)
from tests.stress.pictures import JPEG_LARGE, WORST, encoded, many_scans, noise
from tests.stress.site import PASSWORD, Person, Site, fill, running

SLOWER = 3.0
SLOWEST_READ = 0.5
KEPT_MB = 30
MEMORY_MB = 512
UPLOAD_BYTES = 5 * 1024 * 1024
# The size of a process's connection pool.
POOL = 20
# SO_LINGER on with 0 seconds, to close with RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(scope="module")
def slow_site(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Run a site with production password hashing."""
    folder = tmp_path_factory.mktemp("site")
    with running(Site(folder, database, real_passwords=True)) as site:
        yield site


# Reads under load


def note_slowdown(figures: Figures, what: str, probe: Probe) -> None:
    """Check the slowdown of reads against the limit."""
    words, ratio = slowdown(probe)
    name = f"p99 of reads during {what}, to quiet"
    figures.add(name, words, f"{SLOWER:.0f}", ratio <= SLOWER)


# Logins


def wrong_logins(*emails: str, **headers: str) -> list[Call]:
    """Return failing logins."""
    return [
        with_form("/api/users/token", headers, username=email, password="wrong horse")
        for email in emails
    ]


def flood_with_logins(
    site: Site,
    figures: Figures,
    full: bool,
    calls: list[Call],
    what: str,
    limit: float = math.inf,
) -> StatusCounts:
    """Flood the site with logins and record the effect on reads."""
    connections, seconds = (20, 30) if full else (8, 1)
    with probing(site.port, quiet_seconds=20 if full else 1) as probe:
        tally = asyncio.run(
            flood(site.port, connections, in_random_order(calls), seconds=seconds)
        )

    assert probe.statuses() == {200}
    words, ratio = slowdown(probe)
    name = f"p99 of reads during {what}, to quiet"
    figures.add(name, words, "-" if limit == math.inf else f"{limit:g}", ratio <= limit)
    rate = f"{tally.statuses.total() / seconds:.0f} a second"
    figures.add(f"responses to {what}", rate, "-", True)
    return tally


def test_login_flood_does_not_slow_down_reads(
    slow_site: Site, figures: Figures, full: bool
) -> None:
    person = slow_site.sign_up("ada")
    calls = wrong_logins(person.email, "nobody@example.com")

    what = "a flood of logins"
    tally = flood_with_logins(slow_site, figures, full, calls, what, limit=SLOWER)

    assert set(tally.statuses) == {401}, tally.statuses


@pytest.mark.skipif(not FULL, reason="starts a site for what is in the other test too")
def test_limited_login_flood_reaches_no_password_check(
    new_site: NewSite, figures: Figures, full: bool
) -> None:
    site = new_site(
        real_passwords=True, RATE_LIMIT_ENABLED="true", TRUSTED_PROXY_HOPS="1"
    )
    # From another IP than the readers', because so many requests exceed the other
    # limits, too.
    calls = wrong_logins(
        *(f"nobody-{number}@example.com" for number in range(1000)),
        **{"X-Forwarded-For": "192.0.2.1"},
    )

    # Reported, but not held to a limit: 429s are sent as fast as they are requested, so
    # that such a flood is a matter for the proxy in front.
    tally = flood_with_logins(site, figures, full, calls, "a limited flood of logins")

    assert set(tally.statuses) == {401, 429}, tally.statuses
    assert tally.statuses[401] == 100


class Comparison:
    """Two requests whose responses must be indistinguishable."""

    def __init__(self) -> None:
        self.responses: tuple[list[TimedResponse], list[TimedResponse]] = ([], [])
        self.followers: tuple[list[TimedResponse], list[TimedResponse]] = ([], [])

    def distinct(self) -> set[tuple[int, bytes]]:
        """Return the distinct responses."""
        return {(response.status, response.body) for response in chain(*self.responses)}

    def note(self, figures: Figures, name: str) -> None:
        """Check the difference in response times against the limit."""
        self._note(figures, f"known or unknown email, {name}", self.responses)

    def note_followers(self, figures: Figures, name: str) -> None:
        """Check the times of the next requests, too."""
        self._note(figures, f"known or unknown email, {name}", self.followers)

    def _note(
        self,
        figures: Figures,
        what: str,
        responses: tuple[list[TimedResponse], list[TimedResponse]],
    ) -> None:
        known, unknown = (
            statistics.median(response.seconds for response in group)
            for group in responses
        )
        measured = f"{known * 1000:.2f} and {unknown * 1000:.2f} ms"
        holds = abs(known - unknown) <= max(0.05 * max(known, unknown), 0.002)
        figures.add(what, measured, "5 % or 2 ms apart", holds)


def compare(site: Site, known: Call, unknown: Call, *, pairs: int) -> Comparison:
    """Send two requests in alternating order."""
    comparison = Comparison()
    chance = random.Random(0)

    async def ask() -> None:
        connection = Connection(site.port)
        for which in (n for _ in range(pairs) for n in chance.sample([0, 1], 2)):
            response = await connection.ask((known, unknown)[which])
            comparison.responses[which].append(response)
            follower = await connection.ask(Call("GET", "/health"))
            comparison.followers[which].append(follower)
            # Work after a response must not slow down the next request.
            await asyncio.sleep(0.03)
        connection.close()

    asyncio.run(ask())
    return comparison


def test_login_timing_reveals_no_account(
    slow_site: Site, figures: Figures, full: bool
) -> None:
    known = slow_site.sign_up("bob").email

    times = compare(
        slow_site,
        *wrong_logins(known, "bobb@example.com"),
        pairs=500 if full else 5,
    )

    assert len(times.distinct()) == 1
    times.note(figures, "login")


def test_forgot_password_timing_reveals_no_account(
    site: Site, figures: Figures, full: bool
) -> None:
    known = site.sign_up("cleo").email

    times = compare(
        site,
        *(
            with_json("POST", "/api/users/forgot-password", {"email": email})
            for email in (known, "cleoo@example.com")
        ),
        pairs=500 if full else 20,
    )

    assert len(times.distinct()) == 1
    times.note(figures, "forgot-password")
    times.note_followers(figures, "the request after forgot-password")


# Pictures


def worst_pictures(full: bool) -> list[bytes]:
    """Return valid pictures that take the most memory or CPU time to decode."""
    wanted = (
        make
        for name, make in WORST.items()
        # Many frames take half a minute to make, and only the first is decoded.
        if ("frames" not in name if full else "CMYK, wide" in name)
    )
    pictures = [make() for make in wanted]
    return [picture for picture in pictures if len(picture) <= UPLOAD_BYTES]


def test_upload_flood_does_not_affect_reads_or_memory(
    site: Site, figures: Figures, full: bool
) -> None:
    uploads = 20 if full else 5
    people = [site.sign_up(f"painter-{number}") for number in range(uploads)]
    pictures = [*worst_pictures(full), many_scans(JPEG_LARGE, 1000)]
    calls = [
        with_picture(f"/api/users/{person.id}/picture", picture, person.headers)
        for person in people
        for picture in pictures
    ]
    idle = site.memory()

    with probing(site.port, quiet_seconds=20 if full else 0.5) as probe:
        tally = asyncio.run(
            flood(
                site.port, uploads, in_random_order(calls), seconds=40 if full else 0.5
            )
        )
    memory = site.memory() - idle

    # A client that is rejected while it still sends may not see the response.
    assert set(tally.statuses) <= {0, 200, 400, 503}, tally.statuses
    assert tally.statuses[200]
    assert probe.statuses() == {200}
    counts = ", ".join(f"{n} x {s or 'cut'}" for s, n in tally.statuses.items())
    figures.add("responses to a flood of pictures", counts, "no 500", True)
    slowest = max(sample.seconds for sample in probe.during(LOADED))
    figures.add(
        f"slowest read during {uploads} uploads at a time",
        f"{slowest * 1000:.0f} ms",
        f"{SLOWEST_READ * 1000:.0f} ms",
        slowest <= SLOWEST_READ,
    )
    figures.add(
        "memory of the server after a flood of pictures",
        f"{memory:+.0f} MiB",
        f"+{KEPT_MB} MiB",
        memory <= KEPT_MB,
    )


# Slow readers


class SlowReaders:
    """Clients that request large responses and read them slowly."""

    def __init__(self, site: Site, calls: Sequence[Call]) -> None:
        self.sockets = [self.connect(site, call) for call in calls]

    def connect(self, site: Site, call: Call) -> socket.socket:
        client = socket.socket()
        # The minimum size; must be set before connecting.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(("127.0.0.1", site.port))
        client.sendall(call.encoded(f"127.0.0.1:{site.port}"))
        client.setblocking(False)
        return client

    def read_a_little(self) -> int:
        """Read a few bytes per connection; return how many connections still send."""
        served = 0
        for client in self.sockets:
            with suppress(BlockingIOError):
                served += bool(client.recv(4))
        return served

    def blocking(self) -> list[socket.socket]:
        """Yield all connections in blocking mode."""
        for client in self.sockets:
            client.settimeout(60)
        return self.sockets

    def close(self) -> None:
        """Close all connections."""
        for client in self.sockets:
            client.close()


def test_slow_readers_hold_no_database_connection(
    site: Site, figures: Figures, full: bool
) -> None:
    number = 500 if full else 50
    author = site.sign_up("dora")
    # Three bytes each in UTF-8: 30 MB in the long form.
    fill(site, author, posts=100, length=100_000 if full else 10_000, letter="\u6f22")
    before = site.memory()
    site.forget_peak()

    readers = SlowReaders(
        site, [Call("GET", f"/api/users/{author.id}/posts?limit=100")] * number
    )
    wait_for(lambda: readers.read_a_little() == number, seconds=60)
    time.sleep(2)
    held = site.held_connections()
    memory = site.memory("VmHWM") - before
    readers.close()
    site.sql(f"DELETE FROM posts WHERE user_id = {author.id}")

    assert held == 0
    figures.add(
        f"memory for {number} slow readers of 100 posts",
        f"{memory:+.0f} MiB",
        f"+{MEMORY_MB} MiB",
        memory <= MEMORY_MB,
    )
    assert memory <= MEMORY_MB


def test_slow_list_readers_are_served_or_rejected(
    site: Site, figures: Figures, full: bool
) -> None:
    author = site.sign_up("dan")
    fill(site, author, posts=200, length=100_000)
    before = site.memory()
    site.forget_peak()
    path = f"/api/users/{author.id}/posts?limit=100&skip="
    calls = [Call("GET", f"{path}{n}") for n in range(100 if full else 30)]

    readers = SlowReaders(site, calls)
    heads = [client.makefile("rb").readline() for client in readers.blocking()]
    memory = site.memory("VmHWM") - before
    readers.close()
    again = site.client.get(calls[0].path)

    statuses = Counter(int(head.split()[1]) for head in heads)
    figures.add(
        f"memory for {len(calls)} slow readers of as many lists of 10 MB",
        f"{memory:+.0f} MiB, {statuses[200]} x 200, {statuses[503]} x 503",
        f"+{MEMORY_MB} MiB",
        memory <= MEMORY_MB,
    )
    assert set(statuses) == {200, 503}
    assert memory <= MEMORY_MB
    assert again.status_code == 200
    site.sql(f"DELETE FROM posts WHERE user_id = {author.id}")


# Slow bodies


async def send_slowly(port: int, seconds: float) -> Counter[int]:
    """Send login forms byte by byte, and come back within 5 s after a response."""
    headers = {"X-Forwarded-For": "192.0.2.1"}
    call = with_form("/api/users/token", headers, username="a" * 1000)
    statuses: Counter[int] = Counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                await asyncio.sleep(random.uniform(0, 5 if FULL else 1))
                statuses[await send_one_slowly(port, call)] += 1
    return statuses


async def send_one_slowly(port: int, call: Call) -> int:
    """Send a byte each second until there is a response; return its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(call.encoded_head(f"127.0.0.1:{port}"))
        response = asyncio.create_task(reader.readline())
        while not (await asyncio.wait({response}, timeout=1))[0]:
            writer.write(b"a")
        return int((await response).split()[1])
    finally:
        writer.transport.abort()


def test_slow_bodies_do_not_affect_other_clients(
    new_site: NewSite, figures: Figures, full: bool
) -> None:
    number, seconds = (960, 40) if full else (150, 2)
    site = new_site(RATE_LIMIT_ENABLED="true", TRUSTED_PROXY_HOPS="1")

    async def send_many() -> Counter[int]:
        clients = (send_slowly(site.port, seconds) for _ in range(number))
        return sum(await asyncio.gather(*clients), Counter())

    with probing(site.port, quiet_seconds=20 if full else 1) as probe:
        statuses = asyncio.run(send_many())

    assert probe.statuses() == {200}
    assert set(statuses) == ({503, 422} if full else {503})
    words, ratio = slowdown(probe)
    what = f"p99 of reads during {number} slow bodies, to quiet"
    figures.add(what, words, "2", ratio <= 2)
    counts = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
    figures.add(f"responses to {number} slow bodies", counts, "-", True)


# Aborted requests


def calls_to_abort(site: Site, person: Person) -> list[Call]:
    """Return one request of each kind."""
    picture = encoded(noise((200, 200)), "PNG")
    post = {"title": "Cut", "content": "off " * 2000}
    return [
        Call("GET", "/"),
        Call("GET", "/login"),
        Call("GET", "/api/posts?limit=100"),
        Call("GET", f"/users/{person.id}/posts"),
        Call("GET", "/health"),
        Call("GET", "/static/js/main.js"),
        Call("GET", "/api/users/me", person.headers),
        with_json("POST", "/api/posts", post, person.headers),
        with_json(
            "POST", "/api/posts", post, person.headers | {"Idempotency-Key": "cut off"}
        ),
        with_form("/api/users/token", username=person.email, password=PASSWORD),
        with_json("POST", "/api/users/forgot-password", {"email": person.email}),
        with_picture(f"/api/users/{person.id}/picture", picture, person.headers),
        with_picture(f"/api/users/{person.id}/picture", b"x" * 400_000, person.headers),
    ]


async def abort(port: int, call: Call, chance: random.Random) -> None:
    """Start a request and disconnect, cleanly or not, at a random time."""
    whole = call.encoded(f"127.0.0.1:{port}")
    head = len(whole) - len(call.body)
    sent = chance.choice(
        [chance.randrange(head), chance.randrange(head, len(whole) + 1), len(whole)]
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if chance.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, RESET
        )
    with suppress(OSError, TimeoutError):
        writer.write(whole[:sent])
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.01]))
        if sent == len(whole) and chance.random() < 0.5:
            async with asyncio.timeout(1):
                await reader.read(10)
    writer.transport.abort()


async def abort_many(site: Site, calls: list[Call], number: int, seed: int) -> None:
    """Abort this many requests, up to 30 at a time."""
    chance = random.Random(seed)
    places = asyncio.Semaphore(30)

    async def one() -> None:
        async with places:
            await abort(site.port, chance.choice(calls), chance)

    await asyncio.gather(*(one() for _ in range(number)))


def use_pool(site: Site) -> Counter[int]:
    """Request as many different lists as the pool has connections, at the same time.

    Returns how often each status occurred.
    """

    async def ask(call: Call) -> int:
        connection = Connection(site.port)
        try:
            return (await connection.ask(call)).status
        except ConnectionLost:
            return 0
        finally:
            connection.close()

    async def ask_all() -> list[int]:
        calls = (Call("GET", f"/api/posts?skip={n}") for n in range(POOL))
        return await asyncio.gather(*map(ask, calls))

    return Counter(asyncio.run(ask_all()))


def test_aborted_requests_leak_no_resources(
    site: Site, figures: Figures, full: bool
) -> None:
    person = site.sign_up("eve")
    fill(site, person, posts=100, length=2000)
    calls = calls_to_abort(site, person)
    number = 10_000 if full else 300
    asyncio.run(abort_many(site, calls, 1000 if full else 100, seed=1))
    use_pool(site)
    time.sleep(2 if full else 0.5)
    descriptors, memory = site.descriptors(), site.memory()
    written = len(site.written())

    start = time.monotonic()
    asyncio.run(abort_many(site, calls, number, seed=2))
    seconds = time.monotonic() - start
    wait_for(lambda: site.descriptors() <= descriptors + 2, seconds=20)
    held = site.held_connections()
    answered = use_pool(site)

    grown = site.memory() - memory
    cut = f"{number:,} requests cut off"
    figures.add(
        f"descriptors after {cut}",
        f"{site.descriptors()}, before {descriptors}",
        "2 more",
        True,
    )
    figures.add(
        f"memory after {cut}",
        f"{grown:+.0f} MiB in {seconds:.0f} s",
        "+30 MiB",
        grown <= 30,
    )
    assert held == 0
    assert answered == {200: POOL}
    # Those responses are never read, but server errors would be logged.
    output = site.written()[written:]
    assert re.findall(r"Traceback|Error [0-9a-f]{32}.*|.* 500 .*", output) == []


# Large deletions


def test_deleting_a_large_account_does_not_block_reads(
    site: Site, figures: Figures, full: bool
) -> None:
    person, other = site.sign_up("finn"), site.sign_up("gail")
    number = 200_000 if full else 12_000
    fill(site, person, posts=number, length=500)
    fill(site, other, posts=30, length=500)
    site.sql("ANALYZE posts")
    site.forget_peak()
    before = site.memory()

    with probing(site.port, quiet_seconds=10 if full else 0.5) as probe:
        start = time.monotonic()
        deleted = site.client.delete(
            f"/api/users/{person.id}", headers=person.headers, timeout=300
        )
        seconds = time.monotonic() - start

    assert deleted.status_code == 204
    assert probe.statuses() == {200}
    left = site.sql(f"SELECT count(*) AS n FROM posts WHERE user_id = {person.id}")
    assert left[0]["n"] == 0
    grown = site.memory("VmHWM") - before
    assert grown <= 50
    deleting = f"deleting an account with {number:,} posts"
    figures.add(deleting, f"{seconds:.1f} s", "60 s", seconds <= 60)
    figures.add(f"memory for {deleting}", f"{grown:+.0f} MiB", "+50 MiB", True)
    note_slowdown(figures, deleting, probe)
