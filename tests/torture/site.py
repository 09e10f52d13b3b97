"""The application as it runs in production: processes, neighbours, what they write."""

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
from tests.test_container import server_settings

# Every secret has it in it, and nothing else does: no output may have it either.
MARK = "marked-secret"
PASSWORD = f"{MARK}-password"
DATABASE_PASSWORD = f"{MARK}-database"
SECRET_KEY = f"{MARK}-key-0123456789-0123456789-0123456789"
S3_SECRET = f"{MARK}-s3"
SMTP_PASSWORD = f"{MARK}-smtp"
# How the header of every access token begins (RFC 7519), and every hash of a password.
TELL_TALES = (MARK, "eyJhbGciOi", "$argon2")

# What the server's settings allow for the end of a process, and some time to get there.
SHUTDOWN_SECONDS = 15
# The cheapest there are: for tests that are not about how slow they are.
CHEAP_PASSWORDS = {
    "ARGON2_TIME_COST": "1",
    "ARGON2_MEMORY_COST": "8",
    "ARGON2_PARALLELISM": "1",
}


@dataclass(frozen=True)
class Person:
    """Somebody with an account."""

    id: int
    name: str
    email: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """Those of a request of theirs."""
        return auth_header(self.token)


class Site:
    """A process of the application; several may share a database."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        real_passwords: bool = False,
        **environment: str,
    ) -> None:
        """Choose a port and the settings; nothing runs before `start`.

        Args:
            folder: For its data and its output.
            database_url: A database that has the tables: see `migrated_database`.
            real_passwords: Hash them as slowly as in production.
            environment: Settings that differ, by their names in the environment.
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
        """Start the process, and wait until it serves."""
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
        """End the process, by force when it takes too long."""
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
        """The number of the running process."""
        assert self.process is not None
        return self.process.pid

    def memory(self, what: str = "VmRSS") -> float:
        """How much memory it has (`VmRSS`) or had at most (`VmHWM`), in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        """Let `VmHWM` begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def written(self) -> str:
        """All it has written to its output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def leaks(self, *secrets: str) -> list[str]:
        """The lines of its output that have a secret in them."""
        wanted = (*TELL_TALES, *secrets)
        return [
            line
            for line in self.written().splitlines()
            if any(secret in line for secret in wanted)
        ]

    # Those who use it

    def sign_up(self, name: str, password: str = PASSWORD) -> Person:
        """Make an account and log in."""
        email = f"{name}@example.com"
        account = {"username": name, "email": email, "password": password}
        made = self.client.post("/api/users", json=account)
        assert made.status_code == 201, made.text
        return Person(made.json()["id"], name, email, self.log_in(email, password))

    def log_in(self, email: str, password: str = PASSWORD) -> str:
        """A new access token."""
        form = {"username": email, "password": password}
        answer = self.client.post("/api/users/token", data=form)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def held_connections(self) -> int:
        """How many connections to the database requests keep without using them.

        Nothing that the probes and a request of one's own do takes as long.
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
        """Run a statement in the site's database; not where an event loop runs."""
        return asyncio.run(execute(self.database_url, statement))


def fill(
    site: Site, author: Person, posts: int, length: int, letter: str = "x"
) -> None:
    """Give the site posts, past the API, which is not what is tested."""
    site.sql(
        "INSERT INTO posts (title, content, user_id, date_posted) "
        f"SELECT 'Post ' || n, repeat('{letter}', {length}), {author.id}, "
        "now() - n * interval '1 second' "
        f"FROM generate_series(1, {posts}) AS n"
    )


def production(*layers: dict[str, str]) -> dict[str, str]:
    """An environment in which nothing is left of the tests' own settings."""
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
    """A site that runs as long as the context lasts, and gives no secret away."""
    try:
        site.start()
        yield site
    finally:
        site.stop()
        site.client.close()
    leaks = site.leaks()
    assert leaks == [], leaks


# Databases


def with_password(url: URL) -> URL:
    """The same database, with a password that it does not ask for, to be kept."""
    return url if url.password else url.set(password=DATABASE_PASSWORD)


def migrate(url: str) -> None:
    """Bring a database to the newest revision."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=BASE_DIR,
        env=production({"DATABASE_URL": url}),
        check=True,
        capture_output=True,
    )


@contextmanager
def migrated_database(admin: URL = ADMIN_URL) -> Iterator[str]:
    """A new database with the tables, on the server that the tests share; its URL."""
    with scratch_database(admin) as plain:
        url = with_password(make_url(plain)).render_as_string(hide_password=False)
        migrate(url)
        yield url


class Postgres:
    """A PostgreSQL that may be stopped, paused and killed: nobody else has it."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Name it; nothing runs before `start`. What it commits is on the disk."""
        self.server = EmbeddedPostgres(folder / "postgres", options=options)
        self.folder = self.server.data_dir

    def start(self) -> None:
        """Start it."""
        self.server.start()

    @property
    def url(self) -> str:
        """Its database, for the application and for the driver."""
        return URL.create(
            "postgresql",
            username=self.server.user,
            password=DATABASE_PASSWORD,
            database=self.server.database,
            query={"host": str(self.server.start())},
        ).render_as_string(hide_password=False)

    @property
    def pid(self) -> int:
        """The number of its first process."""
        return int((self.folder / "postmaster.pid").read_text().splitlines()[0])

    def processes(self) -> list[int]:
        """All its processes, the first one first."""
        children = [
            child
            for task in Path(f"/proc/{self.pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        return [self.pid, *map(int, children)]

    def signal(self, how: signal.Signals) -> None:
        """Send a signal to all its processes."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    def pause(self) -> None:
        """Let it hang: it keeps its connections and does nothing any more."""
        # The first one before the others are counted, so that it starts no more.
        os.kill(self.pid, signal.SIGSTOP)
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Shut it down, connections or not."""
        self.server.release()

    def kill(self) -> None:
        """End it at once, as a crash of the machine does."""
        self.pause()
        pids = self.processes()
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.server.release()


def is_alive(pid: int) -> bool:
    """Whether a process still does something; one that nobody has buried does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def own_postgres(folder: Path, *options: str) -> Iterator[Postgres]:
    """A PostgreSQL of one's own with the tables in it, gone at the end."""
    postgres = Postgres(folder, *options)
    try:
        postgres.start()
        migrate(postgres.url)
        yield postgres
    finally:
        # Paused it would not hear that it is to stop.
        with suppress(OSError):
            postgres.resume()
        postgres.stop()


# Neighbours


@contextmanager
def child(command: list[str], output: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process, as long as the context lasts."""
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
    """The settings of a site whose pictures are kept at a port of this machine."""
    return {
        "S3_BUCKET_NAME": bucket,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "S3_ACCESS_KEY_ID": "torture",
        "S3_SECRET_ACCESS_KEY": S3_SECRET,
    }


def mail_settings(port: int) -> dict[str, Any]:
    """The settings of a site whose mails go to a port of this machine."""
    return {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(port)}
