"""Run a site with demo content, for Lighthouse and screenshots."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from config import BASE_DIR, Settings
from tests.databases import free_port
from tools.seed import PASSWORD

EMAIL = "demo1@example.com"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_TIMEOUT = 60


def chromium() -> str:
    """Return the path of Chromium, or exit if it isn't installed."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("Chromium is required: apt-get install chromium")
    return path


@contextmanager
def demo_site() -> Iterator[str]:
    """Serve demo content from a temporary directory and yield the URL of the site."""
    url = f"http://127.0.0.1:{free_port()}"
    with TemporaryDirectory() as folder:
        environment = _environment(Path(folder), url)
        for command in (["-m", "alembic", "upgrade", "head"], ["-m", "tools.seed"]):
            subprocess.run(
                [sys.executable, *command],
                cwd=BASE_DIR,
                env=environment,
                check=True,
                capture_output=True,
            )
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--port", url.split(":")[-1]],
            cwd=BASE_DIR,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_healthy(url, server)
            yield url
        finally:
            server.terminate()
            server.wait()


def _environment(folder: Path, url: str) -> dict[str, str]:
    """Return an environment with default settings, except for the data directory."""
    names = {name.upper() for name in Settings.model_fields}
    others = {name: value for name, value in os.environ.items() if name not in names}
    return others | {
        "ENV_FILE": os.devnull,
        "VAR_DIR": str(folder),
        "FRONTEND_URL": url,
    }


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").is_success:
                return
        time.sleep(0.1)
    raise SystemExit("The site did not start.")


def access_token(url: str) -> str:
    """Log in as an author of demo content and return the access token."""
    form = {"username": EMAIL, "password": PASSWORD}
    response = httpx.post(f"{url}/api/users/token", data=form)
    token: str = response.raise_for_status().json()["access_token"]
    return token
