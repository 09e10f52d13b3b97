"""After a crash, every acknowledged post exists exactly once."""

import signal
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from random import uniform

import httpx
import pytest

from tests.server import LiveServer, Person
from tests.stress.postgres import Postgres

WRITERS = 6
RECOVERY_TIMEOUT = 60


def publish(server: LiveServer, author: Person) -> str:
    """Publish a post, retrying after errors, and return its content."""
    key = str(uuid.uuid4())
    headers = author.headers | {"Idempotency-Key": key}
    deadline = time.monotonic() + RECOVERY_TIMEOUT
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            response = server.client.post(
                "/api/posts", json={"content": key}, headers=headers
            )
            # A 409 means that the attempt before the crash is still in progress.
            assert response.status_code in {201, 409, 503}
            if response.is_success:
                return key
        time.sleep(0.2)
    pytest.fail("the server has not recovered")


def publish_during(crash: Callable[[], None], server: LiveServer) -> list[str]:
    """Publish posts before, during and after a crash, and return their contents."""
    contents: list[str] = []
    is_over = threading.Event()

    def keep_publishing(author: Person) -> None:
        while not is_over.is_set():
            contents.append(publish(server, author))

    people = [server.sign_up(uuid.uuid4().hex[:12]) for _ in range(WRITERS)]
    with ThreadPoolExecutor() as pool:
        publishing = [pool.submit(keep_publishing, person) for person in people]
        time.sleep(uniform(0.2, 1))
        try:
            crash()
        finally:
            is_over.set()
    for future in publishing:
        future.result()
    return contents


def restart_app(server: LiveServer, _postgres: Postgres) -> None:
    server.stop(signal.SIGKILL)
    server.start()


def restart_database(_server: LiveServer, postgres: Postgres) -> None:
    postgres.crash()
    time.sleep(uniform(0, 0.3))
    postgres.start()


@pytest.mark.parametrize("restart", [restart_app, restart_database])
def test_crash_loses_no_posts(restart, server_on_postgres, postgres, figures):
    crash = partial(restart, server_on_postgres, postgres)
    number = 50 if figures.stress else 2
    server_on_postgres.sql("TRUNCATE users CASCADE")

    contents = [
        content
        for _ in range(number)
        for content in publish_during(crash, server_on_postgres)
    ]

    rows = server_on_postgres.sql("SELECT content FROM posts")
    assert sorted(row["content"] for row in rows) == sorted(contents)
    what = f"posts lost in {number} crashes, {restart.__name__}"
    figures.add(what, f"0 of {len(contents):,}")
