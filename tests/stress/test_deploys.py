"""Concurrent and blocked migrations, and the older app on the new schema."""

import asyncio
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
import pytest

from config import BASE_DIR
from tests.conftest import ADMIN_URL
from tests.databases import free_port, scratch_database
from tests.server import LiveServer, clean_environment, server_settings


def alembic(database_url: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=BASE_DIR,
        env=clean_environment(DATABASE_URL=database_url, SECRET_KEY="k" * 32),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_concurrent_migrations(stress):
    results = []
    for _ in range(20 if stress else 2):
        with scratch_database(ADMIN_URL) as url:
            commands = [alembic(url, "upgrade", "head") for _ in range(3)]
            results += [
                (command.communicate()[1], command.returncode) for command in commands
            ]

    assert [printed for printed, status in results if status != 0] == []


async def test_locked_table(empty_database, figures):
    alembic(empty_database, "upgrade", "head").communicate()
    dsn = empty_database.replace("+asyncpg", "")
    blocker, reader = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.fetch("SELECT FROM users")

    command = alembic(empty_database, "downgrade", "base")
    slowest = 0.0
    while command.poll() is None:
        started = time.monotonic()
        await reader.fetch("SELECT FROM users")
        slowest = max(slowest, time.monotonic() - started)
        await asyncio.sleep(0.05)

    printed = command.communicate()[1]
    await transaction.rollback()
    await blocker.close()
    await reader.close()
    assert command.returncode != 0
    assert "other transactions have locked a table" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    figures.add_seconds("slowest read behind a migration", slowest, limit=6)


def unpack_older_app(folder: Path) -> None:
    """Unpack the app as it was before the newest migration was added."""
    added = ("--diff-filter=A", "--", "alembic/versions")
    newest = git("log", "-1", "--format=%H", *added).decode().strip()
    archive = git("archive", f"{newest}^")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def git(*arguments: str) -> bytes:
    return subprocess.check_output(["git", *arguments], cwd=BASE_DIR)


def test_older_app_on_new_schema(tmp_path, empty_database):
    unpack_older_app(tmp_path / "older")
    server = LiveServer(tmp_path, database_url=empty_database)
    server.migrate()
    server.directory = tmp_path / "older"
    server.start()

    def use(number: int) -> list[int]:
        person = server.sign_up(f"user{number}")
        statuses = []
        for _ in range(25):
            post = server.write(person)
            paths = ("/", "/api/posts", f"/posts/{post['id']}")
            statuses += [server.client.get(path).status_code for path in paths]
            server.call("DELETE", f"/api/posts/{post['id']}", person)
        return statuses

    with ThreadPoolExecutor(8) as threads:
        statuses = Counter(
            status for found in threads.map(use, range(8)) for status in found
        )
    server.stop()
    server.client.close()

    assert statuses == {200: 600}


NGINX = """
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    # Unlike a load balancer, nginx closes the connections of clients when it reloads.
    keepalive_timeout 0;
    proxy_temp_path {folder}/proxy;
    client_body_temp_path {folder}/body;
    proxy_cache_path {folder}/cache keys_zone=files:1m;
    upstream app {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            # Don't retry failed requests, which the test must see.
            proxy_next_upstream off;
            {options}
        }}
    }}
}}
"""


class LoadBalancer:
    """nginx in front of servers that can be drained, like the targets of an ALB."""

    def __init__(self, folder: Path, *, options: str = "") -> None:
        self.folder, self.options, self.port = folder, options, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def balance(self, *servers: LiveServer, signal: str = "reload") -> None:
        """Send new requests to these servers only."""
        lines = "".join(f"server 127.0.0.1:{each.port};" for each in servers)
        config = NGINX.format(
            # The workers must be able to enter pytest's directory.
            user="user root;" if os.geteuid() == 0 else "",
            folder=self.folder,
            port=self.port,
            servers=lines,
            options=self.options,
        )
        (self.folder / "nginx.conf").write_text(config)
        self.run(*(("-s", signal) if signal else ()))

    def run(self, *arguments: str) -> None:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "apt-get install nginx-light"
        command = [program, "-c", str(self.folder / "nginx.conf"), *arguments]
        subprocess.run(command, check=True)


@pytest.fixture
def two_servers(
    tmp_path: Path, empty_database: str
) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Return two servers with the image's settings. Only the first one is running."""
    first, second = (
        LiveServer(tmp_path / name, database_url=empty_database, **server_settings())
        for name in ("first", "second")
    )
    first.migrate()
    first.start()
    yield first, second
    for server in (first, second):
        server.stop()
        server.client.close()


def test_rolling_restart(tmp_path, two_servers, stress):
    first, second = two_servers
    balancer = LoadBalancer(tmp_path)
    balancer.balance(first, signal="")
    ada = first.sign_up("ada")
    total = 20_000 if stress else 1_000
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def use() -> None:
        with httpx.Client(base_url=balancer.url, timeout=30) as client:
            while not done.is_set():
                post = {"content": "Some text"}
                written = client.post("/api/posts", json=post, headers=ada.headers)
                paths = ("/", "/api/posts", f"/posts/{written.json()['id']}")
                read = [client.get(path).status_code for path in paths]
                statuses.update([written.status_code, *read])

    with ThreadPoolExecutor(4) as threads:
        users = [threads.submit(use) for _ in range(4)]
        old, new = first, second
        while statuses.total() < total and not any(user.done() for user in users):
            new.start()
            balancer.balance(old, new)
            time.sleep(0.5)
            balancer.balance(new)
            # Give nginx time to finish the requests in progress.
            time.sleep(1)
            old.stop()
            old, new = new, old
        done.set()
    balancer.run("-s", "stop")

    assert [user.exception() for user in users] == [None] * 4
    assert set(statuses) == {200, 201}


def test_key_rotation(two_servers):
    first, second = two_servers
    old, new = first.environment["SECRET_KEY"], "n" * 32
    second.start()
    ada = first.sign_up("ada")

    def restart(**keys: str) -> Iterator[list[int]]:
        """Restart the servers one by one, and use an old and a new token on both."""
        for server in two_servers:
            server.stop()
            server.environment |= keys
            server.start()
            tokens = (ada, replace(ada, token=server.log_in(ada.email)))
            yield [
                each.client.get("/api/users/me", headers=token.headers).status_code
                for token in tokens
                for each in two_servers
            ]

    rotated = [
        *restart(SECRET_KEY=old, SECRET_KEY_PREVIOUS=new),
        *restart(SECRET_KEY=new, SECRET_KEY_PREVIOUS=old),
    ]
    ended = [*restart(SECRET_KEY_PREVIOUS="")]

    assert rotated == [[200, 200, 200, 200]] * 4
    assert ended == [[401, 200, 200, 200], [401, 401, 200, 200]]


def test_deactivation_ends_sessions_in_other_processes(two_servers):
    first, second = two_servers
    second.start()
    ada = first.sign_up("ada")

    def use() -> list[int]:
        path = "/api/users/me"
        return [
            server.client.get(path, headers=ada.headers).status_code
            for server in two_servers
        ]

    before = use()
    first.run("manage.py", "deactivate-user", str(ada.id), "--yes")

    assert (before, use()) == ([200, 200], [401, 401])


def test_no_old_files_under_new_paths(tmp_path, two_servers):
    old, new = two_servers
    new.directory = tmp_path / "new"
    shutil.copytree(
        BASE_DIR,
        new.directory,
        ignore=shutil.ignore_patterns(".*", "var", "node_modules", "tests"),
    )
    (new.directory / "static" / "css" / "main.css").write_text("/* new */")
    cached = "proxy_cache files; proxy_cache_valid 404 0s;"
    balancer = LoadBalancer(tmp_path, options=cached)
    new.start()
    page = new.client.get("/login").text
    [path] = re.findall(r"/static/\w+/css/main.css", page)

    balancer.balance(old, new, signal="")
    for _ in range(10):
        httpx.get(balancer.url + path)
    balancer.balance(new)
    old.stop()
    time.sleep(1)

    assert httpx.get(balancer.url + path).text == "/* new */"
    balancer.run("-s", "stop")
