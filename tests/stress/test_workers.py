"""Several worker processes: wrong settings, and a worker that is killed."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.server import LiveServer
from tests.stress.load import count_statuses, flood, wait_for

CLIENTS = 8
# A wrong value for each validator in `config.py` and `setting_types.py`.
WRONG = {
    "DATABASE_URL": "mysql://db/blog",
    "DATABASE_POOL_MODE": "statement",
    "DB_POOL_SIZE": "0",
    "SECRET_KEY": "short",
    "SECRET_KEY_PREVIOUS": "short",
    "S3_ACCESS_KEY_ID": "without a secret",
    "ARGON2_PARALLELISM": "2",
    "MAIL_FROM": "Blog",
    "MAIL_USE_TLS": "perhaps",
    # An empty value means that the setting is missing.
    "FRONTEND_URL": "",
    "S3_PUBLIC_URL": "cdn.example",
    "LOG_LEVEL": "loud",
    "CORS_ORIGINS": "https://app.example/path",
    "ALLOWED_HOSTS": "app.example/path",
    "REDIS_URL": "http://cache",
    "RATE_LIMIT_DEFAULT": "0/minute",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_setting(name, tmp_path, figures):
    server = LiveServer(
        tmp_path,
        database_url="postgresql://db/blog",
        WEB_CONCURRENCY="2",
        **{name: WRONG[name]},
    )
    started = time.monotonic()

    server.launch().wait(timeout=60)

    figures.add_seconds(f"end, wrong {name}", time.monotonic() - started, limit=15)
    log = server.log.read_text()
    # Each worker may log the line before the first one to end stops them all.
    [cause] = set(re.findall(r'Configuration error: [^"\n]+', log))
    assert name in cause
    assert "Traceback" not in log
    server.client.close()


def workers(server: LiveServer) -> set[int]:
    """Return the ids of the worker processes."""
    assert server.process
    main = server.process.pid
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    # The parent also starts a process that tracks resources.
    return {
        int(pid)
        for pid in children
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    }


def test_killed_worker(tmp_path, empty_database, figures):
    with LiveServer(
        tmp_path, database_url=empty_database, WEB_CONCURRENCY="2"
    ) as server:
        wait_for(lambda: server.log.read_text().count("startup complete") == 2)
        killed, other = workers(server)
        reads = [server.client.build_request("GET", path) for path in ("/", "/login")]

        with flood(server.client, reads, CLIENTS) as exchanges:
            time.sleep(1)
            os.kill(killed, signal.SIGKILL)
            started = time.monotonic()
            wait_for(lambda: server.log.read_text().count("startup complete") == 3)
            figures.add_seconds("replacement", time.monotonic() - started, limit=10)

        running = workers(server)

    statuses = count_statuses(exchanges)
    figures.add("requests that a killed worker failed", f"{statuses[0]}")
    assert set(statuses) <= {0, 200}
    assert statuses[0] <= CLIENTS
    assert statuses[200] > 100
    assert len(running) == 2
    assert other in running
