"""What people are answered while the database is stopped, paused, killed and locked."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg
import pytest

from tests.torture.conftest import Figures
from tests.torture.load import (
    Call,
    Seen,
    at_random,
    flood,
    steady,
    with_form,
    with_json,
)
from tests.torture.site import (
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
# So long nothing must fail for all to be well again.
WELL_SECONDS = 0.5
# When to give up on it, if it never is.
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def bucket() -> None:
    """No picture is stored in this process, and making a bucket takes a while."""


@pytest.fixture(scope="module")
def site(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The application on that server."""
    folder = tmp_path_factory.mktemp("site")
    with running(Site(folder, postgres.url)) as site:
        yield site


@pytest.fixture(scope="module")
def ada(site: Site) -> Person:
    """Somebody who reads and writes."""
    return site.sign_up("ada")


def what_people_do(site: Site, person: Person) -> list[Call]:
    """Reading mostly, and a bit of everything."""
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
    """Something that befalls the database while people use the site."""

    happen: Callable[[], None]
    began: float = 0.0
    ended: float = 0.0
    seen: list[Seen] = field(default_factory=list)

    def under(self, site: Site, calls: Sequence[Call]) -> "Incident":
        """Let it happen under load, until all is well again."""
        befalling = threading.Thread(target=self._befall)

        async def use() -> list[Seen]:
            befalling.start()
            return await steady(
                site.port,
                at_random(calls),
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

    # What came of it

    @property
    def statuses(self) -> Counter[int]:
        """How often which status came."""
        return Counter(one.status for one in self.seen)

    @property
    def slowest(self) -> Seen:
        """What took longest."""
        return max(self.seen, key=lambda one: one.seconds)

    @property
    def back_after(self) -> float:
        """When the last request began that failed, after the end of the incident."""
        failed = [one.begun for one in self.seen if one.status == 503]
        return max([0.0, *(begun - self.ended for begun in failed)])

    def check(self, figures: Figures, what: str) -> None:
        """Hold it to the limits."""
        counts = ", ".join(f"{n} x {s}" for s, n in sorted(self.statuses.items()))
        figures.add(f"answers, {what}", counts, "no 500", True)
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
            f"slowest answer, {what}",
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


def test_restart_gives_no_error(
    site: Site, postgres: Postgres, ada: Person, figures: Figures
) -> None:
    def restart() -> None:
        postgres.stop()
        postgres.start()

    incident = Incident(restart).under(site, what_people_do(site, ada))

    incident.check(figures, "database restarted")


def test_restarts_give_a_crowd_no_error(
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
    tally = asyncio.run(flood(site.port, 20, at_random(calls), seconds=seconds))
    restarting.join()

    counts = ", ".join(f"{n} x {s}" for s, n in sorted(tally.statuses.items()))
    figures.add("answers, database restarted on and on", counts, "no 500", True)
    assert set(tally.statuses) == {200, 503}


def test_stopped_database_gives_503s(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def stop() -> None:
        postgres.stop()
        time.sleep(20 if full else 2)
        postgres.start()

    incident = Incident(stop).under(site, what_people_do(site, ada))

    assert incident.statuses[503]
    incident.check(figures, "database stopped")


def test_paused_database_gives_503s(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def pause() -> None:
        postgres.pause()
        time.sleep(60 if full else 6)
        postgres.resume()

    incident = Incident(pause).under(site, what_people_do(site, ada))

    assert incident.statuses[503]
    incident.check(figures, "database paused")


async def kill_backends(url: str, seconds: float) -> None:
    """End the site's connections, again and again."""
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
    """Keep everybody from the posts, as a migration does."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(seconds)
    await connection.close()


def test_connections_that_are_killed_give_no_error(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def kill() -> None:
        asyncio.run(kill_backends(postgres.url, 20 if full else 2))

    incident = Incident(kill).under(site, what_people_do(site, ada))

    incident.check(figures, "connections killed every 100 ms")


def test_locked_table_gives_503s(
    site: Site, postgres: Postgres, ada: Person, figures: Figures, full: bool
) -> None:
    def lock() -> None:
        asyncio.run(lock_posts(postgres.url, 12 if full else 4))

    incident = Incident(lock).under(site, what_people_do(site, ada))

    assert incident.statuses[503]
    incident.check(figures, "table locked")


# The last one: it leaves no site to the others.
def test_process_ends_in_time_while_the_database_hangs(
    site: Site, postgres: Postgres, ada: Person, figures: Figures
) -> None:
    calls = what_people_do(site, ada)
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
                at_random(calls),
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
    """Begin some work in a thread; gives what tells whether it is done."""
    thread = threading.Thread(target=work)
    thread.start()
    return lambda _seen: not thread.is_alive()
