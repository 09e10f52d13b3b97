"""A client generated from the OpenAPI document: type checks, and a user journey."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config import BASE_DIR
from tests.server import LiveServer

JOURNEY = Path(__file__).with_name("generated_client_journey.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("client")) as server:
        yield server


@pytest.fixture(scope="module")
def generated(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the package `blog_client` and return its folder."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_text(httpx.get(f"{server.url}/openapi.json").text)
    config = folder / "config.json"
    # By default the generator formats its output, which needs ruff on the PATH.
    config.write_text(json.dumps({"post_hooks": []}))
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--path", str(document), "--config", str(config), "--meta", "none"),
            *("--output-path", str(folder / "blog_client"), "--fail-on-warning"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    # A warning means that the generator did not understand part of the document.
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return folder


def test_generated_client_passes_type_check(generated: Path, tmp_path: Path) -> None:
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
            *("--cache-dir", str(tmp_path), "--explicit-package-bases"),
            *(str(generated / "blog_client"), str(JOURNEY)),
        ],
        cwd=BASE_DIR,
        env=os.environ | {"MYPYPATH": str(generated)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stdout


def test_account_journey(
    server: LiveServer, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(generated)
    module = importlib.import_module("tests.generated_client_journey")
    photo = Path(__file__).with_name("test_image.jpg").read_bytes()

    def mailed_token() -> str:
        return server.wait_for_reset_link().partition("token=")[2]

    module.journey(server.url, photo=photo, mailed_token=mailed_token)
