"""Responses while the database is stopped, paused, killed, or locked."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg
import pytest

from tests.stress.conftest import Figures
from tests.stress.load import (
    Call,
    Seen,
    flood,
    in_random_order,
    steady,
    with_form,
    with_json,
)
from tests.stress.site import (
    PASSWORD,
    SHUTDOWN_SECONDS,
    Person,
    Postgres,
    Site,
    running,
)

PER_SECOND = 50
ANSWER_SECONDS = 5.0
BACK_SECONDS = 2.0
# The app has recovered after this long without errors.
WELL_SECONDS = 0.5
# Maximum time to recover.
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(scope="module")
def site(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Run the app with that server."""
    folder = tmp_path_factory.mktemp("site")
    with running(Site(folder, postgres.url)) as site:
        yield site


@pytest.fixture(scope="module")
def ada(site: Site) -> Person:
    """Sign up a user who reads and writes."""
    return site.sign_up("ada")


def typical_calls(site: Site, person: Person) -> list[Call]:
    """Return requests, mostly reads."""
    post = {"title": "A title", "content": "Some content"}
    published = site.client.post("/api/posts", json=post, headers=person.headers)
    path = f"/api/posts/{published.json()['id']}"
    return [
        *[Call("GET", "/"), Call("GET", "/api/posts"), Call("GET", path)] * 2,
        Call("GET", "/health"),
        Call("GET", "/api/users"),
        Call("GET", "/feed.atom"),
        Call("GET", "/sitemap.xml"),
        Call("GET", "/api/users/me", person.headers),
        with_json("POST", "/api/posts", post, person.headers),
        with_json("PATCH", path, {"title": "Another"}, person.headers),
        with_form("/api/users/token", username=person.email, password=PASSWORD),
    ]


@dataclass
class Incident:
    """A database failure while the site is in use."""

    happen: Callable[[], None]
    began: float = 0.0
    ended: float = 0.0
    seen: list[Seen] = field(default_factory=list)

    def under(self, site: Site, calls: Sequence[Call]) -> "Incident":
        """Cause the failure under load and wait for recovery."""
        befalling = threading.Thread(target=self._befall)

        async def use() -> list[Seen]:
            befalling.start()
            return await steady(
                site.port,
                in_random_order(calls),
                per_second=PER_SECOND,
                until=self._is_over,
            )

        self.seen = asyncio.run(use())
        befalling.join()
        return self

    def _befall(self) -> None:
        time.sleep(0.5)
        self.began = time.monotonic()
        try:
            self.happen()
        finally:
            self.ended = time.monotonic()

    def _is_over(self, seen: Sequence[Seen]) -> bool:
        now = time.monotonic()
        if not self.ended or now < self.ended + WELL_SECONDS:
            return False
        latest = [one for one in seen if one.begun > now - WELL_SECONDS]
        is_well = len(latest) > 10 and all(one.status < 500 for one in latest)
        return is_well or now > self.ended + PATIENCE

    # Results

    @property
    def statuses(self) -> Counter[int]:
        """Count the responses by status."""
        return Counter(one.status for one in self.seen)

    @property
    def slowest(self) -> Seen:
        """Return the longest response time."""
        return max(self.seen, key=lambda one: one.seconds)

    @property
    def back_after(self) -> float:
        """Return when the last failed request started, after the failure ended."""
        failed = [one.begun for one in self.seen if one.status == 503]
        return max([0.0, *(begun - self.ended for begun in failed)])

    def check(self, figures: Figures, what: str) -> None:
        """Check the limits."""
        counts = ", ".join(f"{n} x {s}" for s, n in sorted(self.statuses.items()))
        figures.add(f"responses, {what}", counts, "no 500", True)
        allowed = {200, 201, 503}
        wrong = Counter(
            f"{one.status} {one.call.method} {one.call.path}"
            for one in self.seen
            if one.status not in allowed
        )
        assert wrong == {}
        assert all(
            int(one.headers.get("retry-after", 0)) > 0
            for one in self.seen
            if one.status == 503
        )
        slowest = self.slowest
        figures.add(
            f"slowest response, {what}",
            f"{slowest.seconds:.1f} s ({slowest.call.method} {slowest.call.path})",
            f"{ANSWER_SECONDS:g} s",
            slowest.seconds <= ANSWER_SECONDS,
        )
        figures.add(
            f"all well again, {what}",
            f"after {self.back_after:.1f} s",
            f"{BACK_SECONDS:g} s",
            self.back_after <= BACK_SECONDS,
        )


def test_restart_causes_no_error(
    site: Site, postgres: Postgres, ada: Person, figures: Figures
) -> None:
    def restart() -> None:
        postgres.stop()
        postgres.start()

    incident = Incident(restart).under(site, typical_calls(site, ada))

    incident.check(figures, "database restarted")


def test_repeated_restarts_under_load_cause_no_error(
    site: Site, postgres: Postgres, figures: Figures, full: bool
) -> None:
    seconds = 60 if full else 4
    deadline = time.monotonic() + seconds
    calls = [Call("GET", "/"), Call("GET", "/api/posts")]

    def restart_often() -> None:
        while time.monotonic() < deadline:
            postgres.stop()
            postgres.start()
            time.sleep(0.15)

    restarting = threading.Thread(target=restart_often)
    restarting.start()
    tally = asyncio.run(flood(site.port, 20, in_random_order(calls), seconds=seconds))
    restarting.join()

    counts = ", ".join(f"{n} x {s}" for s, n in sorted(tally.statuses.items()))
    figures.add("responses, database restarted on and on", counts, "no 500", True)
    assert set(tally.statuses) == {200, 503}


def test_stopped_database_causes_503s(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def stop() -> None:
        postgres.stop()
        time.sleep(20 if full else 2)
        postgres.start()

    incident = Incident(stop).under(site, typical_calls(site, ada))

    assert incident.statuses[503]
    incident.check(figures, "database stopped")


def test_paused_database_causes_503s(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def pause() -> None:
        postgres.pause()
        time.sleep(60 if full else 6)
        postgres.resume()

    incident = Incident(pause).under(site, typical_calls(site, ada))

    assert incident.statuses[503]
    incident.check(figures, "database paused")


async def kill_backends(url: str, seconds: float) -> None:
    """Terminate the site's connections repeatedly."""
    connection = await asyncpg.connect(url)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'fastapi-blog'"
        )
        await asyncio.sleep(0.1)
    await connection.close()


async def lock_posts(url: str, seconds: float) -> None:
    """Lock the posts table, like a migration."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(seconds)
    await connection.close()


def test_terminated_connections_cause_no_error(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def kill() -> None:
        asyncio.run(kill_backends(postgres.url, 20 if full else 2))

    incident = Incident(kill).under(site, typical_calls(site, ada))

    incident.check(figures, "connections killed every 100 ms")


def test_locked_table_causes_503s(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def lock() -> None:
        asyncio.run(lock_posts(postgres.url, 12 if full else 4))

    incident = Incident(lock).under(site, typical_calls(site, ada))

    assert incident.statuses[503]
    incident.check(figures, "table locked")


# Last, because it stops the shared site.
def test_process_exits_in_time_while_database_hangs(
    site: Site, postgres: Postgres, ada: Person, figures: Figures
) -> None:
    calls = typical_calls(site, ada)
    process = site.process
    assert process is not None
    ended: list[float] = []

    def end_while_paused() -> None:
        postgres.pause()
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        ended.append(time.monotonic() - start)

    try:
        asyncio.run(
            steady(
                site.port,
                in_random_order(calls),
                per_second=PER_SECOND,
                until=until_done(end_while_paused),
            )
        )
    finally:
        postgres.resume()

    assert process.returncode in {0, -signal.SIGTERM}
    figures.add(
        "end of the process while the database hangs",
        f"{ended[0]:.1f} s",
        f"{SHUTDOWN_SECONDS} s",
        ended[0] <= SHUTDOWN_SECONDS,
    )


def until_done(work: Callable[[], None]) -> Callable[[Sequence[Seen]], bool]:
    """Start work in a thread; return a function that says whether it is done."""
    thread = threading.Thread(target=work)
    thread.start()
    return lambda _seen: not thread.is_alive()
