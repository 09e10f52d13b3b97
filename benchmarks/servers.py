"""The servers of the benchmark: uvicorn processes that share a core."""

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
from sqlalchemy import URL

from benchmarks.databases import is_idle
from benchmarks.load import RESPONSE_TIMEOUT
from benchmarks.progress import say
from config import BASE_DIR
from tests.databases import free_port
from tests.server import clean_environment

APP = "app"
APP_UNCACHED = "app without cache"
APP_LARGE = "app without cache, 1,000,000 posts"
APP_WRITES = "app, new posts"
CONVENTIONAL = "conventional"
CONVENTIONAL_LARGE = "conventional, 1,000,000 posts"
MEMORY_CEILING = "memory ceiling"
DATABASE_CEILING = "database ceiling"
INSERT_CEILING = "bare inserts"

# Read the cores before this process is pinned to one of them.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
IS_PINNED = len(CORES) > 1
SERVER_CORE = 0
LOAD_CORE = 1

START_TIMEOUT = 60
STOP_TIMEOUT = 10
IDLE_TIMEOUT = 60
IDLE_INTERVAL = 0.05
LOG_LINES = 15


class ServerError(Exception):
    """A server doesn't start, or responds with an error. The message says why."""


def pin(process_id: int, core: int) -> None:
    """Pin a process (0 is this one) and its future children to one core."""
    if IS_PINNED:
        os.sched_setaffinity(process_id, {CORES[core]})


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time of a server's event loop, in seconds (0 if not on Linux)."""
    schedstat = Path(f"/proc/{process_id}/schedstat")
    return int(schedstat.read_text().split()[0]) / 1e9 if schedstat.exists() else 0


class Servers:
    """All running servers by name. They stop at the end of the `with` block."""

    def __init__(self, folder: Path, database: URL) -> None:
        self.folder = folder
        self.database = database
        # Creating a client for each request would take tens of milliseconds.
        self.client = httpx.Client(timeout=RESPONSE_TIMEOUT)
        self.urls: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, app: str, database: URL, **settings: str) -> None:
        """Run an app in production mode, and wait until it accepts connections."""
        say(f"Starting {name}")
        port = free_port()
        self.urls[name] = f"http://127.0.0.1:{port}"
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", app, "--port", str(port)),
                    *("--no-server-header", "--timeout-graceful-shutdown", "3"),
                ],
                cwd=BASE_DIR,
                env=self.environment(database, self.urls[name]) | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[name] = process
        pin(process.pid, SERVER_CORE)
        self.wait_until_started(name, port, process)

    def environment(self, database: URL, url: str) -> dict[str, str]:
        unlimited = "1000000000/minute"
        return clean_environment(
            DATABASE_URL=database.render_as_string(hide_password=False),
            SECRET_KEY=secrets.token_hex(),
            FRONTEND_URL=url,
            TRUSTED_PROXY_HOPS="0",
            RATE_LIMIT_DEFAULT=unlimited,
            RATE_LIMIT_POSTS_PER_USER=unlimited,
            VAR_DIR=str(self.folder / "var"),
        )

    def migrate(self, database: URL) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=BASE_DIR,
            env=self.environment(database, "http://127.0.0.1"),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"The migrations failed:\n{done.stderr}")

    def wait_until_started(
        self, name: str, port: int, process: "subprocess.Popen[bytes]"
    ) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise ServerError(f"{name} doesn't start:\n{self.log_end(name)}")

    def wait_until_idle(self, name: str) -> None:
        """Wait until a server has finished the requests that wrk has abandoned.

        Such requests would slow down the next measurement.

        Raises:
            ServerError: The server is still busy after `IDLE_TIMEOUT`.
        """
        process_id = self.processes[name].pid
        deadline = time.monotonic() + IDLE_TIMEOUT
        while time.monotonic() < deadline:
            before = cpu_seconds(process_id)
            time.sleep(IDLE_INTERVAL)
            used = cpu_seconds(process_id) - before
            if used < IDLE_INTERVAL / 20 and is_idle(self.database):
                return
        raise ServerError(f"{name} is busy without requests:\n{self.log_end(name)}")

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log_end(self, name: str) -> str:
        """Return the last lines of a server's log."""
        lines = self.log(name).read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def request(
        self,
        name: str,
        path: str,
        *,
        method: str = "GET",
        status: int = 200,
        **options: Any,  # passed to httpx.Client.request
    ) -> httpx.Response:
        """Return a server's response, or raise ServerError if it has another status."""
        response = self.client.request(method, self.urls[name] + path, **options)
        if response.status_code != status:
            raise ServerError(
                f"{name}: {method} {path} returned {response.status_code} instead of "
                f"{status}: {response.text[:300]}\n{self.log_end(name)}"
            )
        return response
