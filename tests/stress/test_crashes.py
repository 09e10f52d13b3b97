"""After a crash, what the server has acknowledged is still there, and only once."""

import itertools
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from typing import Any

import httpx
import pytest

from tests.server import LiveServer, Person
from tests.stress.conftest import Figures
from tests.stress.load import picture
from tests.stress.postgres import Postgres

WRITERS = 6
RECOVERY_TIMEOUT = 60


@dataclass
class Writer:
    """A client that writes, and what the database may contain after its requests.

    A request without a response may have been processed or not.
    """

    server: LiveServer
    person: Person
    titles: dict[int, set[str | None]] = field(default_factory=dict)
    """Possible titles of each post; None if it may be deleted."""
    picture: str | None = None
    acknowledged: int = 0

    def send(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return a successful response, or None."""
        options["headers"] = self.person.headers | options.get("headers", {})
        try:
            response = self.server.client.request(method, path, **options)
        except httpx.TransportError:
            return None
        # 409: the same request from before the crash is still in progress.
        assert response.is_success or response.status_code in {409, 503}, response.text
        self.acknowledged += response.is_success
        return response if response.is_success else None

    def publish(self) -> int:
        """Publish a post, and retry like clients do; return its id."""
        key = str(uuid.uuid4())
        options = {"json": {"content": key}, "headers": {"Idempotency-Key": key}}
        deadline = time.monotonic() + RECOVERY_TIMEOUT
        while not (response := self.send("POST", "/api/posts", **options)):
            assert time.monotonic() < deadline, "the server has not recovered"
            time.sleep(0.2)
        post_id: int = response.json()["id"]
        return post_id

    def write(self, number: int) -> None:
        """Publish and edit a post; sometimes delete it, or change the picture."""
        post_id = self.publish()
        path = f"/api/posts/{post_id}"
        edited = self.send("PATCH", path, json={"title": "Edited"})
        titles: set[str | None] = {"Edited"} if edited else {"", "Edited"}
        self.titles[post_id] = titles
        if number % 3 == 0:
            deleted = self.send("DELETE", path)
            self.titles[post_id] = {None} if deleted else {None, *titles}
        if number % 7 == 0:
            files = {"file": ("me.png", picture())}
            path = f"/api/users/{self.person.id}/picture"
            uploaded = self.send("PATCH", path, files=files)
            self.picture = uploaded.json()["image_file"] if uploaded else None

    def losses(self) -> list[str]:
        """Describe what contradicts the responses."""
        user_id = self.person.id
        rows = self.server.sql(f"SELECT * FROM posts WHERE user_id = {user_id}")
        stored = {row["id"]: row["title"] or "" for row in rows}
        losses = [
            f"post {post_id}: {stored.get(post_id)!r}, not one of {titles}"
            for post_id, titles in self.titles.items()
            if stored.get(post_id) not in titles
        ]
        losses += [f"post {n} published twice" for n in stored.keys() - self.titles]
        [user] = self.server.sql(f"SELECT * FROM users WHERE id = {user_id}")
        name = user["image_file"]
        if self.picture not in {None, name}:
            losses.append(f"picture {name}, not {self.picture}")
        if name and not (self.server.var_dir / f"media/profile_pics/{name}").exists():
            losses.append(f"file {name} is missing")
        return losses


def write_during(crash: Callable[[], None], writers: list[Writer]) -> None:
    """Write until after a crash."""
    is_over = threading.Event()

    def keep_writing(writer: Writer) -> None:
        for number in itertools.count(1):
            writer.write(number)
            if is_over.is_set():
                return

    with ThreadPoolExecutor() as pool:
        writing = [pool.submit(keep_writing, writer) for writer in writers]
        time.sleep(uniform(0.2, 1))
        try:
            crash()
        finally:
            is_over.set()
    for future in writing:
        future.result()


def write_through_crashes(
    server: LiveServer, crash: Callable[[], None], *, number: int
) -> Iterator[Writer]:
    for _ in range(number):
        people = [server.sign_up(uuid.uuid4().hex[:12]) for _ in range(WRITERS)]
        writers = [Writer(server, person) for person in people]
        write_during(crash, writers)
        yield from writers


def restart_app(server: LiveServer, _postgres: Postgres) -> None:
    server.stop(signal.SIGKILL)
    server.start()


def restart_database(_server: LiveServer, postgres: Postgres) -> None:
    postgres.kill()
    time.sleep(uniform(0, 0.3))
    postgres.start()


@pytest.mark.parametrize("restart", [restart_app, restart_database])
def test_crash_loses_no_writes(
    restart: Callable[[LiveServer, Postgres], None],
    server_on_postgres: LiveServer,
    postgres: Postgres,
    figures: Figures,
) -> None:
    crash = partial(restart, server_on_postgres, postgres)
    number = 50 if figures.stress else 2

    writers = [*write_through_crashes(server_on_postgres, crash, number=number)]

    assert [loss for writer in writers for loss in writer.losses()] == []
    acknowledged = sum(writer.acknowledged for writer in writers)
    what = f"writes lost in {number} crashes, {restart.__name__}"
    figures.add(what, f"0 of {acknowledged:,}", "0")
