"""Floods, slow clients and aborted requests have little effect on other clients."""

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import httpx
import pytest

from tests.server import CHEAP_HASHES, LiveServer, Person
from tests.stress.conftest import Figures
from tests.stress.load import (
    count_statuses,
    encoded,
    flood,
    forgotten,
    held_connections,
    login,
    memory,
    memory_limit,
    open_files,
    open_slow_reader,
    picture,
    reads_during,
    send_together,
    upload,
    wait_for,
)

POOL_SIZE = 20


@pytest.fixture(scope="module")
def limited_server(
    server: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Run the app with the rate limits and the slow hashes of production."""
    folder, url = tmp_path_factory.mktemp("server"), server.database_url
    limited_server = LiveServer(
        folder,
        database_url=url,
        TRUSTED_PROXY_HOPS="1",
        UVICORN_TIMEOUT_KEEP_ALIVE="75",
    )
    for name in ("RATE_LIMIT_ENABLED", *CHEAP_HASHES):
        del limited_server.environment[name]
    with limited_server:
        yield limited_server


@pytest.fixture
def person(server: LiveServer) -> Person:
    return server.sign_up(f"person-{time.monotonic_ns()}")


class TestFlood:
    def test_logins(self, limited_server, figures):
        requests = [
            login(limited_server, f"user-{n}@example.com", ip=f"192.0.2.{n % 256}")
            for n in range(10_000)
        ]

        statuses = send_flood(limited_server, figures, "logins", requests)

        assert statuses == {401}

    def test_pictures(self, server, person, figures):
        large = picture(7000 if figures.stress else 1000, "CMYK", "JPEG")
        requests = [upload(server, person, file) for file in (large, picture())]

        statuses = send_flood(server, figures, "pictures", requests)

        assert 200 in statuses
        assert statuses <= {200, 503}


def send_flood(
    server: LiveServer, figures: Figures, what: str, requests: list[httpx.Request]
) -> set[int]:
    """Flood a server, and return the statuses of the responses."""
    clients, seconds = (20, 30) if figures.stress else (5, 1)
    idle = memory(server)
    with (
        reads_during(figures, server.url, f"flood of {what}"),
        flood(server.client, requests, clients) as exchanges,
    ):
        time.sleep(seconds)
    kept = memory(server) - idle
    statuses = count_statuses(exchanges)
    figures.add(f"memory after {what}", f"{kept:+.0f} MiB", "+30 MiB", kept <= 30)
    return set(statuses)


class TestSlowReaders:
    def test_hold_little_memory(self, server, person, figures):
        number = 100 if figures.stress else 30
        server.insert_posts(person, 200, length=100_000)
        build, path = server.client.build_request, f"/api/users/{person.id}/posts"
        requests = [build("GET", f"{path}?limit=100&skip={n}") for n in range(number)]

        with (
            memory_limit(figures, server, f"{number} lists of 10 MB", mib=512),
            ExitStack() as stack,
        ):
            clients = [
                open_slow_reader(server.port, encoded(each)) for each in requests
            ]
            readers = [stack.enter_context(client) for client in clients]
            statuses = {reader.recv(12)[9:] for reader in readers}
            wait_for(lambda: held_connections(server) == 0)

        assert statuses == {b"200", b"503"}
        assert server.client.send(requests[0]).status_code == 200


class TestAbortedRequests:
    def test_leak_nothing(self, server, person, figures):
        number = 10_000 if figures.stress else 200
        requests = requests_to_abort(server, person)
        abort_many(server, requests, 1000 if figures.stress else 50)
        use_whole_pool(server)
        files, log_size = open_files(server), server.log.stat().st_size

        with memory_limit(figures, server, f"{number:,} aborted requests", mib=50):
            abort_many(server, requests, number)

        wait_for(lambda: open_files(server) <= files + 2)
        assert held_connections(server) == 0
        assert use_whole_pool(server) == {200: POOL_SIZE}
        # The clients didn't read the responses, so look for errors in the log.
        log = server.log.read_bytes()[log_size:]
        assert b"Traceback" not in log
        assert b'" 500 ' not in log


def requests_to_abort(server: LiveServer, person: Person) -> list[bytes]:
    build = partial(server.client.build_request, headers=person.headers)
    post, key = {"content": "aborted " * 2000}, {"Idempotency-Key": "1"}
    paths = ("/", "/health", "/static/js/main.js", "/api/posts", "/api/users/me")
    requests = [
        *(build("GET", path) for path in paths),
        build("POST", "/api/posts", json=post),
        build("POST", "/api/posts", json=post, headers=person.headers | key),
        forgotten(server, person.email),
        login(server, person.email),
        upload(server, person, picture()),
        upload(server, person, b"x" * 400_000),
    ]
    return [encoded(request) for request in requests]


def abort_many(server: LiveServer, requests: list[bytes], number: int) -> None:
    """Send complete or partial requests, and disconnect at random times."""

    def abort(request: bytes) -> None:
        size = random.choice([random.randrange(len(request)), len(request)])
        with (
            socket.create_connection(("127.0.0.1", server.port), 60) as client,
            suppress(OSError),
        ):
            # With a linger time of 0 seconds, closing sends RST instead of FIN.
            linger = struct.pack("ii", random.choice([True, False]), 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.sendall(request[:size])
            time.sleep(random.choice([0, 0.002, 0.02]))

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(abort, random.choices(requests, k=number)))


def use_whole_pool(server: LiveServer) -> Counter[int]:
    """Send as many concurrent requests as the pool has connections."""
    paths = (f"/api/posts?skip={number}" for number in range(POOL_SIZE))
    requests = [server.client.build_request("GET", path) for path in paths]
    return count_statuses(send_together(server, requests))


class TestLargeAccount:
    def test_deletion_does_not_affect_other_clients(self, server, person, figures):
        number = 200_000 if figures.stress else 5_000
        what = f"deletion of {number:,} posts"
        server.insert_posts(person, number, length=500)

        with (
            memory_limit(figures, server, what, mib=50),
            reads_during(figures, server.url, what),
        ):
            path = f"/api/users/{person.id}"
            response = server.client.delete(path, headers=person.headers, timeout=300)

        assert response.status_code == 204
        assert server.sql(f"SELECT FROM posts WHERE user_id = {person.id}") == []
        figures.add_seconds(what, response.elapsed.total_seconds(), limit=60)
