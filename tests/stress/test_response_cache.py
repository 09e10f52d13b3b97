"""Two processes send current responses while posts change and listeners fail."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import quantiles

import httpx
import pytest

from middleware.cache_listener import LISTENER_NAME
from tests.conftest import ADMIN_URL, Json
from tests.databases import scratch_database
from tests.server import LiveServer, Person
from tests.stress.hit_counter import HITS_HEADER

HOT, COLD = 200, 2_000
WRITE_SHARE = 0.05
# How long other processes may serve an older version, in seconds.
MAX_STALENESS = 1.5
CLIENTS = 8
SQL = "psql"


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LiveServer]]:
    """Run two processes of the app on one database."""
    with scratch_database(ADMIN_URL) as url:
        servers = [
            LiveServer(tmp_path_factory.mktemp("server"), database_url=url)
            for _ in range(2)
        ]
        for server in servers:
            server.app = "tests.stress.hit_counter:app"
        with servers[0], servers[1]:
            yield servers


@dataclass
class Writes:
    """The latest version of each post, and when each version was acknowledged."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    last: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    in_progress: set[int] = field(default_factory=set)
    acknowledged: dict[int, list[tuple[float, str, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def begin(self, post_id: int) -> int | None:
        """Return the next version of a post, or None while another client writes it."""
        with self.lock:
            if post_id in self.in_progress:
                return None
            self.in_progress.add(post_id)
            self.last[post_id] += 1
            return self.last[post_id]

    def end(self, post_id: int, version: int, process: str) -> None:
        with self.lock:
            self.acknowledged[post_id].append((time.monotonic(), process, version))
            self.in_progress.discard(post_id)

    def required(self, post_id: int, process: str) -> int:
        """Return the oldest version that this process may send now."""
        now = time.monotonic()
        with self.lock:
            return max(
                (
                    version
                    for at, by, version in self.acknowledged[post_id][-20:]
                    if by == process or at < now - MAX_STALENESS
                ),
                default=0,
            )


@dataclass
class Run:
    """The clients of a test, and what they have received."""

    servers: list[LiveServer]
    author: Person
    posts: list[int]
    responses_left: int
    writes: Writes = field(default_factory=Writes)
    seconds: list[float] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def client(self, seed: int) -> None:
        choice = random.Random(seed)
        urls = [server.url for server in self.servers]
        with httpx.Client(timeout=60) as client:
            while self.responses_left > 0:
                self.responses_left -= 1
                hot = self.posts[:HOT]
                post_id = choice.choice(hot if choice.random() < 0.9 else self.posts)
                if choice.random() < WRITE_SHARE:
                    self.write(client, post_id, choice.choice([*urls, SQL]))
                else:
                    self.read(client, post_id, choice.choice(urls))

    def write(self, client: httpx.Client, post_id: int, process: str) -> None:
        version = self.writes.begin(post_id)
        if version is None:
            return
        content = f"version {version} of it"
        if process == SQL:
            self.servers[0].sql(
                f"UPDATE posts SET content = '{content}' WHERE id = {post_id}"
            )
        else:
            url = f"{process}/api/posts/{post_id}"
            change = {"content": content}
            response = client.patch(url, json=change, headers=self.author.headers)
            assert response.status_code == 200
        self.writes.end(post_id, version, process)

    def read(self, client: httpx.Client, post_id: int, process: str) -> None:
        paths = [f"/api/posts/{post_id}"] * 3 + ["/api/posts?limit=20"]
        required = defaultdict(int)
        path = random.choice(paths)
        listed = self.posts[:20] if "?" in path else [post_id]
        for each in listed:
            required[each] = self.writes.required(each, process)
        began = time.monotonic()
        response = client.get(process + path)
        self.seconds.append(time.monotonic() - began)
        for post in posts_of(response.json()):
            version = int(post["content"].split()[1])
            if version < required[post["id"]]:
                self.stale.append(f"{process}{path}: {version}, {dict(required)}")


def posts_of(body: Json) -> list[Json]:
    posts: list[Json] = body.get("posts", [body])
    return posts


class TestMixedLoad:
    def test_responses_are_current(self, servers, stress, figures):
        responses, kills = (100_000, 10) if stress else (2_000, 2)
        author = servers[0].sign_up("ada")
        servers[0].sql(
            "INSERT INTO posts (title, content, user_id, date_posted) "
            f"SELECT n, 'version 0 of it', {author.id}, now() - n * interval '1 hour' "
            f"FROM generate_series(1, {HOT + COLD}) AS n"
        )
        rows = servers[0].sql("SELECT id FROM posts ORDER BY date_posted DESC")
        run = Run(servers, author, [row["id"] for row in rows], responses)

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(run.client, seed) for seed in range(CLIENTS)]
            for kill in range(1, kills + 1):
                while run.responses_left > responses * (1 - kill / (kills + 1)):
                    time.sleep(0.1)
                servers[0].sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    f"WHERE application_name = '{LISTENER_NAME}'"
                )
        [client.result() for client in clients]

        assert run.stale == []
        assert len(run.seconds) > responses * 0.9
        hits = sum(hits_of(server) for server in servers)
        figures.add("hits of the response cache", f"{hits / len(run.seconds):.0%}")
        p50, p99 = quantiles(run.seconds, n=100)[49::49]
        figures.add("mixed load, p50 and p99", f"{p50 * 1e3:.1f}, {p99 * 1e3:.1f} ms")


def hits_of(server: LiveServer) -> int:
    return int(server.client.get("/login").headers[HITS_HEADER])
