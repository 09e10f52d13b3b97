"""While the database is stopped, paused or locked, the app responds with 503."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from database import CONNECT_TIMEOUT, POOL_TIMEOUT, STATEMENT_TIMEOUT
from tests.server import PASSWORD, LiveServer
from tests.stress.load import (
    Exchange,
    count_statuses,
    flood,
    login,
    send_together,
    wait_for,
)
from tests.stress.postgres import Postgres

CLIENTS = 10
# The app has recovered once this many requests in a row have succeeded.
ENOUGH = 3 * CLIENTS


@pytest.fixture
def requests(server_on_postgres: LiveServer) -> list[httpx.Request]:
    """Return a mix of requests, most of which are reads."""
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


def pause(_server: LiveServer, postgres: Postgres, seconds: float) -> None:
    postgres.pause()
    time.sleep(seconds)
    postgres.resume()


def lock_table(server: LiveServer, _postgres: Postgres, seconds: float) -> None:
    """Lock a table, as a migration does."""
    server.sql(
        "DO $$ BEGIN LOCK TABLE posts IN ACCESS EXCLUSIVE MODE; "
        f"PERFORM pg_sleep({seconds}); END $$"
    )


def has_recovered(exchanges: list[Exchange], ended: float) -> bool:
    """Return whether the latest requests were sent after the failure and succeeded."""
    latest = exchanges[-ENOUGH:]
    successful = [each for each in latest if each.started > ended and each.status < 500]
    return len(successful) == ENOUGH


class TestDatabaseFailure:
    @pytest.mark.parametrize(
        ("failure", "seconds"),
        [
            # The durations in seconds, without and with `--stress`.
            (stop, (1, 20)),
            (pause, (4, 60)),
            (lock_table, (4, 12)),
        ],
    )
    def test_causes_503(
        self, failure, seconds, server_on_postgres, postgres, requests, figures
    ):
        fail = partial(failure, server_on_postgres, postgres, seconds[figures.stress])

        with flood(server_on_postgres.client, requests, CLIENTS) as exchanges:
            fail()
            ended = time.monotonic()
            wait_for(lambda: has_recovered(exchanges, ended))

        statuses = count_statuses(exchanges)
        assert set(statuses) <= {200, 201, 503}
        assert 503 in statuses
        slowest = max(each.seconds for each in exchanges)
        failed = [each.started for each in exchanges if each.status == 503]
        recovery = max(failed, default=ended) - ended
        # A request may wait for the pool, then for a new connection, then for a query.
        limit = POOL_TIMEOUT + CONNECT_TIMEOUT + STATEMENT_TIMEOUT + 1
        name = failure.__name__
        figures.add_seconds(f"slowest response, {name}", slowest, limit=limit)
        figures.add_seconds(f"recovery, {name}", recovery, limit=2)

    def test_does_not_prevent_exit(self, server_on_postgres, postgres, requests):
        process = server_on_postgres.process
        assert process
        postgres.pause()

        with ThreadPoolExecutor() as pool:
            exchanges = pool.submit(send_together, server_on_postgres, requests)
            # This kills the server if it hasn't exited after 15 seconds.
            server_on_postgres.stop()

        postgres.resume()
        server_on_postgres.start()
        assert process.returncode in {0, -signal.SIGTERM}
        assert set(count_statuses(exchanges.result())) <= {0, 200, 503}


def test_read_only_server(server_on_postgres, figures):
    """The app may stay connected to the old server after a failover."""
    server = server_on_postgres
    ada = server.sign_up("read-only")
    build = server.client.build_request
    write = build("POST", "/api/posts", json={"content": "x"}, headers=ada.headers)
    health, alive = build("GET", "/health"), build("GET", "/health/live")
    logged = len(server.log.read_text())

    set_read_only(server, "on")
    statuses = [server.client.send(write).status_code for _ in range(20)]
    probes = [server.client.send(probe).status_code for probe in (health, alive)]
    set_read_only(server, "off")
    started = time.monotonic()
    wait_for(lambda: server.client.send(health).status_code == 200)
    wait_for(lambda: server.client.send(write).status_code == 201)

    assert set(statuses) == {503}
    assert probes == [503, 200]
    assert server.log.read_text()[logged:].count("Database unavailable") == 1
    figures.add_seconds("recovery, read-only", time.monotonic() - started, limit=2)


def set_read_only(server: LiveServer, value: str) -> None:
    server.sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.sql("SELECT pg_reload_conf()")
    shown = "SHOW default_transaction_read_only"
    wait_for(lambda: server.sql(shown)[0][0] == value)
