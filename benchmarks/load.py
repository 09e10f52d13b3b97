"""Send requests with wrk and measure how fast a server responds."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

SCRIPT = Path(__file__).with_name("load.lua")
RESPONSE_TIMEOUT = 30


class LoadError(Exception):
    """A measurement failed. The message says why."""


@dataclass(frozen=True)
class Load:
    """The requests of one measurement."""

    server: str
    path: str
    """`{n}` stands for a random number from 1 to `largest`."""
    connections: int = 1
    largest: int = 0
    method: str = "GET"
    encoding: str = "identity"
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    """Expected status of each response."""

    @property
    def all_headers(self) -> dict[str, str]:
        return {"Accept-Encoding": self.encoding, **dict(self.headers)}

    def on(self, server: str) -> Self:
        """Return the same load for another server."""
        return replace(self, server=server)

    def __str__(self) -> str:
        unit = "connection" if self.connections == 1 else "connections"
        return (
            f"{self.server}: {self.method} {self.path}, {self.encoding}, "
            f"{self.connections} {unit}"
        )


@dataclass(frozen=True)
class Measurement:
    """The result of one measurement."""

    requests_per_second: float
    median_ms: float


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is required: apt-get install wrk")


def measure(load: Load, url: str, *, seconds: float) -> Measurement | None:
    """Send requests for a number of seconds. Return None if no response arrives.

    Raises:
        LoadError: A response was an error, or a connection failed.
    """
    result = json.loads(run_wrk(load, url, seconds=seconds).splitlines()[-1])
    if errors := result["error_responses"]:
        raise LoadError(f"{errors} of {result['requests']} responses were errors")
    if errors := result["other_errors"]:
        raise LoadError(f"{errors} connections failed or timed out")
    if not result["requests"]:
        return None
    return Measurement(result["requests"] / result["seconds"], result["median_ms"])


def run_wrk(load: Load, url: str, *, seconds: float) -> str:
    """Run wrk, and return its output."""
    headers = [f"--header={name}: {value}" for name, value in load.all_headers.items()]
    command = [
        *("wrk", "--threads=1", f"--connections={load.connections}"),
        *("--duration=1h", f"--timeout={RESPONSE_TIMEOUT}s", f"--script={SCRIPT}"),
        *headers,
        *(url, "--", load.method, load.path, str(load.largest)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        # wrk only accepts whole seconds, but also prints its report when interrupted.
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=RESPONSE_TIMEOUT)
    finally:
        process.kill()
    if process.returncode:
        raise LoadError(f"wrk failed with status {process.returncode}")
    return output
