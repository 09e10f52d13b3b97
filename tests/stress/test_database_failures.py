"""While the database is stopped, paused or locked, the server responds with 503."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from tests.server import PASSWORD, LiveServer
from tests.stress.conftest import Figures
from tests.stress.load import Exchange, count_statuses, flood, login, send_together
from tests.stress.postgres import Postgres

CLIENTS = 10
# The failure is over when as many requests in a row have succeeded.
ENOUGH = 3 * CLIENTS
RECOVERY_TIMEOUT = 60


@pytest.fixture
def requests(server_on_postgres: LiveServer) -> list[httpx.Request]:
    """Return requests, most of them reads."""
    build = server_on_postgres.client.build_request
    ada = server_on_postgres.sign_up(f"ada-{time.monotonic_ns()}")
    path = f"/api/posts/{server_on_postgres.write(ada)['id']}"
    reads = ("/", "/api/posts", path, "/health", "/api/users", "/feed.atom")
    return [
        *(build("GET", read) for read in reads * 2),
        build("GET", "/api/users/me", headers=ada.headers),
        build("POST", "/api/posts", json={"content": "New"}, headers=ada.headers),
        build("PATCH", path, json={"title": "Edited"}, headers=ada.headers),
        login(server_on_postgres, ada.email, PASSWORD),
    ]


def stop(_server: LiveServer, postgres: Postgres, seconds: float) -> None:
    postgres.stop()
    time.sleep(seconds)
    postgres.start()


def restart(server: LiveServer, postgres: Postgres, seconds: float) -> None:
    """Restart the database again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stop(server, postgres, 0)
        time.sleep(0.15)


def pause(_server: LiveServer, postgres: Postgres, seconds: float) -> None:
    postgres.pause()
    time.sleep(seconds)
    postgres.resume()


def end_connections(server: LiveServer, _postgres: Postgres, seconds: float) -> None:
    """End the app's connections again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'fastapi-blog'"
        )
        time.sleep(0.1)


def lock_table(server: LiveServer, _postgres: Postgres, seconds: float) -> None:
    """Lock a table as a migration does."""
    server.sql(
        "DO $$ BEGIN LOCK TABLE posts IN ACCESS EXCLUSIVE MODE; "
        f"PERFORM pg_sleep({seconds}); END $$"
    )


def send_during(
    failure: Callable[[], None], server: LiveServer, requests: list[httpx.Request]
) -> tuple[list[Exchange], float]:
    """Send requests until a failure is over; return when it ended, too."""
    ended = 0.0

    def fail() -> None:
        nonlocal ended
        failure()
        ended = time.monotonic()

    def is_over(exchanges: list[Exchange]) -> bool:
        latest = [each for each in exchanges[-ENOUGH:] if each.started > ended > 0]
        has_recovered = len([each for each in latest if each.status < 500]) == ENOUGH
        return has_recovered or 0 < ended < time.monotonic() - RECOVERY_TIMEOUT

    with ThreadPoolExecutor() as pool:
        failing = pool.submit(fail)
        exchanges = flood(server, requests, CLIENTS, is_over)
    failing.result()
    return exchanges, ended


class TestDatabaseFailure:
    @pytest.mark.parametrize(
        ("failure", "seconds", "must_fail"),
        [
            # Seconds without and with `--stress`.
            (restart, (1, 60), False),
            (stop, (1, 20), True),
            (pause, (4, 60), True),
            (end_connections, (1, 20), False),
            (lock_table, (4, 12), True),
        ],
    )
    def test_causes_503(
        self,
        failure: Callable[[LiveServer, Postgres, float], None],
        seconds: tuple[float, float],
        must_fail: bool,
        server_on_postgres: LiveServer,
        postgres: Postgres,
        requests: list[httpx.Request],
        figures: Figures,
    ) -> None:
        fail = partial(failure, server_on_postgres, postgres, seconds[figures.stress])

        exchanges, ended = send_during(fail, server_on_postgres, requests)

        statuses = count_statuses(exchanges)
        assert set(statuses) <= {200, 201, 503}
        assert 503 in statuses or not must_fail
        figures.add(f"responses, {failure.__name__}", str(dict(statuses)))
        slowest = max(each.seconds for each in exchanges)
        failed = [each.started for each in exchanges if each.status == 503]
        recovery = max(failed, default=ended) - ended
        figures.add_seconds(f"slowest response, {failure.__name__}", slowest, limit=5)
        figures.add_seconds(f"recovery, {failure.__name__}", recovery, limit=2)

    def test_does_not_prevent_exit(
        self,
        server_on_postgres: LiveServer,
        postgres: Postgres,
        requests: list[httpx.Request],
    ) -> None:
        process = server_on_postgres.process
        assert process
        postgres.pause()

        with ThreadPoolExecutor() as pool:
            exchanges = pool.submit(send_together, server_on_postgres, requests)
            # Kills the server after 15 seconds.
            server_on_postgres.stop()

        postgres.resume()
        server_on_postgres.start()
        assert process.returncode in {0, -signal.SIGTERM}
        assert set(count_statuses(exchanges.result())) <= {0, 200, 503}
