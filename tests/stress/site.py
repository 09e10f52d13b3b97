"""The app in production mode: processes, external services, and their output."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import asyncpg
import httpx
from sqlalchemy import URL, make_url

from config import BASE_DIR, Settings
from embedded_postgres import EmbeddedPostgres
from tests.conftest import ADMIN_URL, auth_header, wait_until_healthy
from tests.databases import execute, free_port, scratch_database
from tests.server import server_settings

# Part of every secret and of nothing else, so that it must not occur in any output.
MARK = "marked-secret"
PASSWORD = f"{MARK}-password"
DATABASE_PASSWORD = f"{MARK}-database"
SECRET_KEY = f"{MARK}-key-0123456789-0123456789-0123456789"
S3_SECRET = f"{MARK}-s3"
SMTP_PASSWORD = f"{MARK}-smtp"
# Prefixes of access token headers (RFC 7519) and of password hashes.
TELL_TALES = (MARK, "eyJhbGciOi", "$argon2")

# The server's shutdown timeout, with a margin.
SHUTDOWN_SECONDS = 15
# The cheapest parameters, for tests that do not need slow hashes.
CHEAP_PASSWORDS = {
    "ARGON2_TIME_COST": "1",
    "ARGON2_MEMORY_COST": "8",
    "ARGON2_PARALLELISM": "1",
}


@dataclass(frozen=True)
class Person:
    """A user."""

    id: int
    name: str
    email: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """Return the user's request headers."""
        return auth_header(self.token)


class Site:
    """An app process; several can share a database."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        real_passwords: bool = False,
        **environment: str,
    ) -> None:
        """Choose a port and settings; `start` starts the process.

        Args:
            folder: For data and output.
            database_url: A database with tables: see `migrated_database`.
            real_passwords: Hash passwords as slowly as in production.
            environment: Other environment variables.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.var_dir = folder / "var"
        self.output = folder / "output.txt"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database_url = make_url(database_url)
        self.environment = production(
            server_settings(),
            {} if real_passwords else CHEAP_PASSWORDS,
            {
                "DATABASE_URL": database_url,
                "FRONTEND_URL": self.url,
                "VAR_DIR": str(self.var_dir),
            },
            environment,
        )
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.process: subprocess.Popen[bytes] | None = None

    # The process

    def start(self, *, seconds: float = 30) -> None:
        """Start the process and wait until it is healthy."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", "main:app"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                ],
                cwd=BASE_DIR,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until_healthy(self.url, self.process, seconds=seconds)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the process; kill it if it takes too long."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(how)
        try:
            process.wait(timeout=SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self.process is not None
        return self.process.pid

    def memory(self, what: str = "VmRSS") -> float:
        """Return the current (`VmRSS`) or peak (`VmHWM`) memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        """Reset `VmHWM`."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        """Return the number of open files and sockets."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def written(self) -> str:
        """Return the output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def leaks(self, *secrets: str) -> list[str]:
        """Return the output lines that contain a secret."""
        wanted = (*TELL_TALES, *secrets)
        return [
            line
            for line in self.written().splitlines()
            if any(secret in line for secret in wanted)
        ]

    # Users

    def sign_up(self, name: str, password: str = PASSWORD) -> Person:
        """Create an account and log in."""
        email = f"{name}@example.com"
        account = {"username": name, "email": email, "password": password}
        made = self.client.post("/api/users", json=account)
        assert made.status_code == 201, made.text
        return Person(made.json()["id"], name, email, self.log_in(email, password))

    def log_in(self, email: str, password: str = PASSWORD) -> str:
        """Log in and return the access token."""
        form = {"username": email, "password": password}
        response = self.client.post("/api/users/token", data=form)
        assert response.status_code == 200, response.text
        token: str = response.json()["access_token"]
        return token

    def held_connections(self) -> int:
        """Count database connections that requests hold but do not use.

        Health checks and this method's own request never hold one that long.
        """
        held = self.sql(
            "SELECT count(*) AS number FROM pg_stat_activity "
            "WHERE application_name = 'fastapi-blog' "
            "AND datname = current_database() AND state <> 'idle' "
            "AND clock_timestamp() - state_change > interval '0.5 seconds'"
        )
        number: int = held[0]["number"]
        return number

    def sql(self, statement: str) -> list[asyncpg.Record]:
        """Run SQL in the site's database; not while an event loop runs."""
        return asyncio.run(execute(self.database_url, statement))


def fill(
    site: Site, author: Person, posts: int, length: int, letter: str = "x"
) -> None:
    """Insert posts directly into the database."""
    site.sql(
        "INSERT INTO posts (title, content, user_id, date_posted) "
        f"SELECT 'Post ' || n, repeat('{letter}', {length}), {author.id}, "
        "now() - n * interval '1 second' "
        f"FROM generate_series(1, {posts}) AS n"
    )


def production(*layers: dict[str, str]) -> dict[str, str]:
    """Return an environment without the tests' own settings."""
    known = {name.upper() for name in Settings.model_fields}
    environment = {k: v for k, v in os.environ.items() if k not in known}
    environment |= {
        "ENV_FILE": os.devnull,
        "PYTHONUNBUFFERED": "1",
        "SECRET_KEY": SECRET_KEY,
        "RATE_LIMIT_ENABLED": "false",
        "TRUSTED_PROXY_HOPS": "0",
    }
    for layer in layers:
        environment |= layer
    return environment


@contextmanager
def running(site: Site) -> Iterator[Site]:
    """Run a site until the context ends; check that its output has no secrets."""
    try:
        site.start()
        yield site
    finally:
        site.stop()
        site.client.close()
    leaks = site.leaks()
    assert leaks == [], leaks


# Databases


def add_password(url: URL) -> URL:
    """Add an unneeded password to a URL, which must stay secret."""
    return url if url.password else url.set(password=DATABASE_PASSWORD)


def migrate(url: str) -> None:
    """Migrate a database to the latest revision."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=BASE_DIR,
        env=production({"DATABASE_URL": url}),
        check=True,
        capture_output=True,
    )


@contextmanager
def migrated_database(admin: URL = ADMIN_URL) -> Iterator[str]:
    """Create a migrated database on the shared server and return its URL."""
    with scratch_database(admin) as plain:
        url = add_password(make_url(plain)).render_as_string(hide_password=False)
        migrate(url)
        yield url


class Postgres:
    """A separate PostgreSQL server that can be stopped, paused and killed."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Set the folder; `start` starts the server. Commits are written to disk."""
        self.server = EmbeddedPostgres(folder / "postgres", options=options)
        self.folder = self.server.data_dir

    def start(self) -> None:
        """Start the server."""
        self.server.start()

    @property
    def url(self) -> str:
        """Return the database URL, for the app and the driver."""
        return URL.create(
            "postgresql",
            username=self.server.user,
            password=DATABASE_PASSWORD,
            database=self.server.database,
            query={"host": str(self.server.start())},
        ).render_as_string(hide_password=False)

    @property
    def pid(self) -> int:
        """Return the id of the main process."""
        return int((self.folder / "postmaster.pid").read_text().splitlines()[0])

    def processes(self) -> list[int]:
        """Return all processes, the main process first."""
        children = [
            child
            for task in Path(f"/proc/{self.pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        return [self.pid, *map(int, children)]

    def signal(self, how: signal.Signals) -> None:
        """Send a signal to all processes."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    def pause(self) -> None:
        """Pause all processes; connections stay open."""
        # The main process first, so that it starts no more children.
        os.kill(self.pid, signal.SIGSTOP)
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume all processes."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Shut down the server despite open connections."""
        self.server.release()

    def kill(self) -> None:
        """Kill the server, like a machine crash."""
        self.pause()
        pids = self.processes()
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.server.release()


def is_alive(pid: int) -> bool:
    """Return whether a process is running and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def running_postgres(folder: Path, *options: str) -> Iterator[Postgres]:
    """Run a PostgreSQL server with migrated tables until the context ends."""
    postgres = Postgres(folder, *options)
    try:
        postgres.start()
        migrate(postgres.url)
        yield postgres
    finally:
        # A paused server would not receive the shutdown signal.
        with suppress(OSError):
            postgres.resume()
        postgres.stop()


# External services


@contextmanager
def child(command: list[str], output: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run another process until the context ends."""
    process = subprocess.Popen(
        command,
        cwd=BASE_DIR,
        env=production(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def s3_settings(port: int, bucket: str = "pictures") -> dict[str, Any]:
    """Return settings for pictures in a bucket at a local port."""
    return {
        "S3_BUCKET_NAME": bucket,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "S3_ACCESS_KEY_ID": "torture",
        "S3_SECRET_ACCESS_KEY": S3_SECRET,
    }


def mail_settings(port: int) -> dict[str, Any]:
    """Return settings for emails to a local port."""
    return {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(port)}
