"""The app in a separate process, for tests that need a real server."""

import asyncio
import email
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url

from config import BASE_DIR, Settings
from tests.databases import execute, free_port

PASSWORD = "correct horse"
# Longer than the 5 seconds in which the server may finish its requests.
STOP_TIMEOUT = 15
CHEAP_HASHES = {
    "ARGON2_TIME_COST": "1",
    "ARGON2_MEMORY_COST": "8",
    "ARGON2_PARALLELISM": "1",
}


@dataclass(frozen=True)
class Person:
    """A user with a valid access token."""

    id: int
    name: str
    email: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class LiveServer:
    """A uvicorn server that runs the app with its own port and data directory."""

    def __init__(
        self, folder: Path, *, database_url: str | None = None, **settings: str
    ) -> None:
        """Choose a port and settings. The default database is embedded PostgreSQL."""
        folder.mkdir(parents=True, exist_ok=True)
        self.var_dir = folder / "var"
        self.log = folder / "server.log"
        self.directory = BASE_DIR
        self.app = "main:app"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database_url = database_url
        self.environment = clean_environment(
            VAR_DIR=str(self.var_dir),
            FRONTEND_URL=self.url,
            # Tests send more requests and hash more passwords than people do.
            RATE_LIMIT_ENABLED="false",
            TRUSTED_PROXY_HOPS="0",
            **CHEAP_HASHES,
        )
        if database_url is not None:
            self.environment |= {
                "DATABASE_URL": database_url,
                "SECRET_KEY": "a key for tests of at least 32 bytes",
            }
        self.environment |= settings
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.process: subprocess.Popen[bytes] | None = None

    # The process

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a Python command with the settings of this server."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )

    def migrate(self) -> None:
        self.run("-m", "alembic", "upgrade", "head")

    def start(self) -> None:
        """Start the server and wait until it is healthy."""
        wait_until_healthy(self.url, self.launch())

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the server without waiting."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", self.app),
                    *("--port", str(self.port), "--timeout-graceful-shutdown", "5"),
                ],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server, and kill it if that takes too long."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(how)
        try:
            process.wait(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.migrate()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()

    # Requests

    def call(
        self, method: str, path: str, person: Person | None = None, **options: Any
    ) -> Any:
        """Call the API, expect success, and return the response's JSON."""
        headers = person.headers if person else {}
        response = self.client.request(method, path, headers=headers, **options)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def sign_up(self, name: str) -> Person:
        """Create a user with an email address derived from the name, and log in."""
        address = f"{re.sub('[^a-z0-9-]', '', name.lower())}@example.com"
        account = {"username": name, "email": address, "password": PASSWORD}
        user = self.call("POST", "/api/users", json=account)
        return Person(user["id"], name, address, self.log_in(address))

    def log_in(self, address: str, password: str = PASSWORD) -> str:
        """Log in and return the access token."""
        form = {"username": address, "password": password}
        token: str = self.call("POST", "/api/users/token", data=form)["access_token"]
        return token

    def write(
        self, author: Person, content: str = "Some text", title: str = "", **fields: str
    ) -> Any:
        """Publish a post and return the response's JSON."""
        post = {"title": title, "content": content, **fields}
        return self.call("POST", "/api/posts", author, json=post)

    # Data

    def sql(self, statement: str) -> list[asyncpg.Record]:
        """Run an SQL statement in the server's database."""
        assert self.database_url is not None
        statement_run = execute(make_url(self.database_url), statement)
        # Use another thread, because this one may be running an event loop.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, statement_run).result()

    def insert_posts(self, author: Person, number: int, *, length: int = 100) -> None:
        """Insert posts into the database, with dates one second apart."""
        self.sql(
            "INSERT INTO posts (title, content, user_id, date_posted) "
            f"SELECT 'Post ' || n, repeat('x', {length}), {author.id}, "
            "now() - n * interval '1 second' "
            f"FROM generate_series(1, {number}) AS n"
        )

    def wait_for_reset_link(self) -> str:
        """Wait for a reset email, and return the latest link."""
        deadline = time.monotonic() + 30
        while not (links := reset_links(self.var_dir)):
            assert time.monotonic() < deadline, "no reset email has arrived"
            time.sleep(0.02)
        return links[-1]


def clean_environment(**settings: str) -> dict[str, str]:
    """Return the environment with these settings instead of the tests' settings."""
    names = {name.upper() for name in Settings.model_fields}
    others = {name: value for name, value in os.environ.items() if name not in names}
    return others | {"ENV_FILE": os.devnull, "PYTHONUNBUFFERED": "1"} | settings


def server_settings() -> dict[str, str]:
    """Return the uvicorn settings in the Dockerfile."""
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    return dict(re.findall(r"(UVICORN_\w+)=(\S+)", dockerfile))


def wait_until_healthy(
    url: str, server: subprocess.Popen[Any], *, seconds: float = 60
) -> None:
    """Wait until a newly started server reports that it is healthy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=30).is_success:
                return
        time.sleep(0.05)
    pytest.fail(f"no healthy server at {url}, exit status {server.poll()}")


def outbox(var_dir: Path) -> list[EmailMessage]:
    """Return the emails in the outbox, oldest first."""
    files = sorted((var_dir / "outbox").glob("*.eml"))
    return [
        email.message_from_bytes(file.read_bytes(), policy=default) for file in files
    ]


def reset_links(var_dir: Path) -> list[str]:
    """Return the links in all reset emails in the outbox, oldest first."""
    found = re.compile(r"http\S+/reset-password\?token=[\w-]+")
    return [link for mail in outbox(var_dir) for link in found.findall(text(mail))]


def text(mail: EmailMessage) -> str:
    """Return the plain text of an email."""
    body = mail.get_body(("plain",))
    return body.get_content() if body is not None else ""
