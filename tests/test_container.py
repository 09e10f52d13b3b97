"""The container image, tested without a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config import BASE_DIR
from tests.conftest import ADMIN_URL, wait_until_healthy
from tests.databases import free_port, scratch_database


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with the code and the packages of requirements.txt."""
    root = tmp_path_factory.mktemp("image")
    for folder in ("alembic", "middleware", "routers", "static", "templates"):
        shutil.copytree(BASE_DIR / folder, root / folder)
    for file in [*BASE_DIR.glob("*.py"), BASE_DIR / "alembic.ini"]:
        shutil.copy(file, root)
    venv.create(root / "venv", with_pip=True)
    requirements = BASE_DIR / "requirements.txt"
    subprocess.run(
        [root / "venv/bin/python", "-m", "pip", "install", "-q", "-r", requirements],
        check=True,
    )
    return root


@pytest.fixture
def environment(image: Path) -> Iterator[dict[str, str]]:
    """Return the variables that an operator sets, with an empty database."""
    with scratch_database(ADMIN_URL) as url:
        yield {
            "PATH": f"{image / 'venv/bin'}:{os.environ['PATH']}",
            "DATABASE_URL": url,
            "SECRET_KEY": "a key that is only used in this test",
            "FRONTEND_URL": "https://blog.example.com",
            "PORT": str(free_port()),
            **server_settings(),
        }


def server_settings() -> dict[str, str]:
    """Return the uvicorn settings in the Dockerfile."""
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    return dict(re.findall(r"(UVICORN_\w+)=(\S+)", dockerfile))


def image_command() -> list[str]:
    """Return the command of the Dockerfile."""
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    command: list[str] = json.loads(
        re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)[-1]
    )
    return command


def test_image_command_needs_only_requirements(
    image: Path, environment: dict[str, str]
) -> None:
    subprocess.run(
        ["alembic", "upgrade", "head"], cwd=image, env=environment, check=True
    )
    server = subprocess.Popen(image_command(), cwd=image, env=environment)

    url = f"http://127.0.0.1:{environment['PORT']}"
    try:
        wait_until_healthy(url, server)
        response = httpx.get(f"{url}/login")
    finally:
        server.terminate()

    # SIGTERM reaches the server directly, because exec has replaced the shell.
    assert server.wait(timeout=10) in {0, -15}
    assert response.status_code == 200
    assert "server" not in response.headers


def test_keep_alive_exceeds_load_balancer_timeout() -> None:
    assert server_settings() == {
        "UVICORN_TIMEOUT_KEEP_ALIVE": "75",
        "UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN": "10",
        "UVICORN_SERVER_HEADER": "false",
    }


def test_image_has_no_embedded_database_or_test_tools(image: Path) -> None:
    listed = subprocess.run(
        [image / "venv/bin/python", "-m", "pip", "list", "--format=freeze"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert "fastapi==" in listed
    assert not re.search(r"^(pytest|moto|ruff|mypy|pixeltable)", listed, re.MULTILINE)


def test_dockerfile_passes_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run([hadolint, BASE_DIR / "Dockerfile"], check=False)

    assert done.returncode == 0
