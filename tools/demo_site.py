"""Run a site with demo content, for Lighthouse and screenshots."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.server import LiveServer

EMAIL = "demo1@example.com"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """Return the path to Chromium, or exit if it isn't installed."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("Chromium is required: apt-get install chromium")
    return path


@contextmanager
def demo_site() -> Iterator[LiveServer]:
    """Serve demo content from a temporary directory."""
    with TemporaryDirectory() as folder, LiveServer(Path(folder)) as site:
        site.run("-m", "tools.seed")
        yield site
