"""A client generated from the OpenAPI document: type checking and real requests."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer

JOURNEY = Path(__file__).with_name("generated_client_journey.py")
PHOTO = Path(__file__).with_name("test_image.jpg")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(folder, database_url=url) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def folder(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the package `blog_client` and return its folder."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_text(httpx.get(f"{server.url}/openapi.json", timeout=30).text)
    config = folder / "config.json"
    # Don't format the output, which would require ruff on the PATH.
    config.write_text(json.dumps({"post_hooks": []}))
    # A warning means that the generator didn't understand a part of the document.
    run(
        *("-m", "openapi_python_client", "generate", "--meta", "none"),
        *("--path", str(document), "--config", str(config)),
        *("--output-path", str(folder / "blog_client"), "--fail-on-warning"),
    )
    return folder


def run(*arguments: str, **environment: str) -> None:
    completed = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


class TestGeneratedClient:
    def test_passes_type_check(self, folder, tmp_path):
        run(
            *("-m", "mypy", "--strict", "--config-file", os.devnull),
            *("--cache-dir", str(tmp_path), "--explicit-package-bases"),
            *(str(folder / "blog_client"), str(JOURNEY)),
            MYPYPATH=str(folder),
        )

    def test_journey(self, server, folder, monkeypatch):
        monkeypatch.syspath_prepend(folder)
        module = importlib.import_module("tests.generated_client_journey")

        module.journey(server.url, PHOTO.read_bytes())

        assert server.sql("SELECT FROM users") == []
