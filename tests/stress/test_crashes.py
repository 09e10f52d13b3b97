"""Crashes lose no acknowledged writes, and retries have no second effect."""

import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.stress.conftest import Figures
from tests.stress.site import (
    Person,
    Postgres,
    Site,
    running,
)

WRITERS = 6
ROUNDS = 50
SHORT_ROUNDS = 2

# The shortest and longest time to write before a crash, in seconds.
WRITING = (0.2, 1.0)
# Maximum time to recover, in seconds.
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(scope="module")
def site(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Run the app with that server."""
    with running(Site(tmp_path_factory.mktemp("site"), postgres.url)) as site:
        yield site


@dataclass
class Written:
    """What a client knows about a post after a crash."""

    content: str
    key: str
    body: dict[str, str]
    post_id: int | None = None
    titles: set[str] = field(default_factory=set)
    """Possible values: more than one after a missing response."""
    may_be_there: bool = True
    may_be_gone: bool = False


class Writer:
    """A client that creates, updates and deletes posts, and remembers the responses."""

    def __init__(self, site: Site, person: Person) -> None:
        self.person = person
        self.posts: list[Written] = []
        self.names = {person.name}
        self.pictures: set[str | None] = {None}
        self.acknowledged = self.repeated = 0
        self._client = httpx.Client(
            base_url=site.url, headers=person.headers, timeout=15
        )

    def ask(self, method: str, path: str, success: int, **options: Any) -> Any:
        """Return the JSON of a successful response, or None."""
        try:
            response = self._client.request(method, path, **options)
        except httpx.TransportError:
            return None
        if response.status_code != success:
            # 409: the request from before the crash is still in progress.
            assert response.status_code in {409, 503}, response.text
            return None
        self.acknowledged += 1
        return response.json() if response.content else {}

    def write(self, number: int) -> None:
        """Do one of each."""
        post = self.publish(number)
        self.retitle(post, number)
        if number % 3 == 0:
            self.remove(post)
        if number % 5 == 0:
            self.rename(number)
        if number % 7 == 0:
            self.change_picture()

    def publish(self, number: int) -> Written:
        """Publish a post; without a response, retry like clients do."""
        content = f"{self.person.name}, number {number}, {uuid.uuid4()}"
        body = {"title": "First", "content": content}
        post = Written(content, key=str(uuid.uuid4()), body=body, titles={"First"})
        self.posts.append(post)
        deadline = time.monotonic() + PATIENCE
        while not self.publish_once(post):
            assert time.monotonic() < deadline, "it cannot be published"
            self.repeated += 1
            time.sleep(0.2)
        return post

    def publish_once(self, post: Written) -> bool:
        """Request to publish; return whether it is acknowledged."""
        made = self.ask(
            "POST",
            "/api/posts",
            201,
            json=post.body,
            headers={"Idempotency-Key": post.key},
        )
        if made is not None:
            post.post_id = made["id"]
        return made is not None

    def retitle(self, post: Written, number: int) -> None:
        """Change a post's title."""
        title = f"Title {number}"
        post.titles.add(title)
        path = f"/api/posts/{post.post_id}"
        if self.ask("PATCH", path, 200, json={"title": title}) is not None:
            post.titles = {title}

    def remove(self, post: Written) -> None:
        """Delete a post."""
        post.may_be_gone = True
        deleted = self.ask("DELETE", f"/api/posts/{post.post_id}", 204)
        post.may_be_there = deleted is None

    def rename(self, number: int) -> None:
        """Rename the account."""
        name = f"{self.person.name}-{number}"
        self.names.add(name)
        path = f"/api/users/{self.person.id}"
        if self.ask("PATCH", path, 200, json={"username": name}) is not None:
            self.names = {name}

    def change_picture(self) -> None:
        """Upload a picture."""
        picture = BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        changed = self.ask(
            "PATCH",
            f"/api/users/{self.person.id}/picture",
            200,
            files={"file": ("me.png", picture.getvalue())},
        )
        # Without a response, the picture's name is unknown.
        if changed is None:
            self.pictures.clear()
        else:
            self.pictures = {changed["image_file"]}

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def write_until(crash: Callable[[], None], writers: list[Writer]) -> None:
    """Run the writers until shortly after the crash."""
    crashed = threading.Event()
    faults: list[BaseException] = []

    def go_on(writer: Writer) -> None:
        number = 0
        try:
            while not crashed.is_set():
                number += 1
                writer.write(number)
        except BaseException as fault:  # noqa: BLE001 -- raised below
            faults.append(fault)

    threads = [threading.Thread(target=go_on, args=[writer]) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        crash()
    finally:
        crashed.set()
        for thread in threads:
            thread.join()
    if faults:
        raise faults[0]


def find_losses(site: Site, writers: list[Writer]) -> list[str]:
    """Return differences between responses and stored data."""
    rows = site.sql("SELECT id, title, content, user_id FROM posts")
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["content"], []).append(row)
    wrong = [
        f"{post} is stored as {found.get(post.content, [])}"
        for writer in writers
        for post in writer.posts
        if not matches_responses(post, found.get(post.content, []))
    ]
    users = {row["id"]: row for row in site.sql("SELECT * FROM users")}
    for writer in writers:
        user = users[writer.person.id]
        if user["username"] not in writer.names:
            wrong.append(f"{user['username']} should be one of {writer.names}")
        if writer.pictures and user["image_file"] not in writer.pictures:
            wrong.append(f"{user['image_file']} should be one of {writer.pictures}")
        folder = site.var_dir / "media" / "profile_pics"
        if user["image_file"] and not (folder / user["image_file"]).exists():
            wrong.append(f"the picture {user['image_file']} is lost")
    return wrong


def matches_responses(post: Written, rows: list[Any]) -> bool:
    """Return whether a stored post matches its responses."""
    if not rows:
        return post.may_be_gone
    return (
        len(rows) == 1
        and post.may_be_there
        and rows[0]["title"] in post.titles
        and post.post_id in {None, rows[0]["id"]}
    )


def test_database_crash_loses_no_acknowledged_writes(
    site: Site, postgres: Postgres, figures: Figures, full: bool
) -> None:
    def crash_and_recover() -> None:
        time.sleep(random.uniform(*WRITING))
        postgres.kill()
        time.sleep(random.uniform(0, 0.3))
        postgres.start()

    crash_again_and_again(
        site,
        crash_and_recover,
        figures,
        "the database",
        ROUNDS if full else SHORT_ROUNDS,
    )


def test_app_crash_loses_no_acknowledged_writes(
    site: Site, figures: Figures, full: bool
) -> None:
    def crash_and_recover() -> None:
        time.sleep(random.uniform(*WRITING))
        site.stop(signal.SIGKILL)
        site.start()

    crash_again_and_again(
        site,
        crash_and_recover,
        figures,
        "the application",
        ROUNDS if full else SHORT_ROUNDS,
    )


def crash_again_and_again(
    site: Site,
    crash_and_recover: Callable[[], None],
    figures: Figures,
    what: str,
    rounds: int,
) -> None:
    """Crash a process repeatedly under writes, and check for losses each time."""
    acknowledged = repeated = 0
    for _ in range(rounds):
        with ExitStack() as clients:
            writers = [
                clients.enter_context(closing(Writer(site, sign_up_new_user(site))))
                for _ in range(WRITERS)
            ]
            write_until(crash_and_recover, writers)

        assert find_losses(site, writers) == []

        acknowledged += sum(writer.acknowledged for writer in writers)
        repeated += sum(writer.repeated for writer in writers)
    figures.add(
        f"writes lost in {rounds} crashes of {what}",
        f"0 of {acknowledged:,}, {repeated} repeated",
        "0",
        True,
    )


def sign_up_new_user(site: Site) -> Person:
    """Sign up another user."""
    return site.sign_up(uuid.uuid4().hex[:12])
