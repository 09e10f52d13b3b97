"""The container image, tested without a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from config import BASE_DIR
from tests.conftest import ADMIN_URL
from tests.databases import free_port, scratch_database
from tests.server import server_settings, wait_until_healthy

FOLDERS = ("alembic", "certificates", "middleware", "routers", "static", "templates")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with the code and the packages of the image."""
    root = tmp_path_factory.mktemp("image")
    for folder in FOLDERS:
        shutil.copytree(BASE_DIR / folder, root / folder)
    for file in [*BASE_DIR.glob("*.py"), BASE_DIR / "alembic.ini"]:
        shutil.copy(file, root)
    venv.create(root / "venv")
    for line in (BASE_DIR / "requirements-otel.txt").read_text().splitlines():
        requirement = Requirement(line.rstrip(" \\")) if "==" in line else None
        if requirement and (not requirement.marker or requirement.marker.evaluate()):
            copy_package(distribution(requirement.name), root / "venv")
    return root


def copy_package(package: Distribution, target: Path) -> None:
    """Copy an installed package to another environment, faster than pip installs it."""
    for file in package.files or []:
        source = Path(os.path.normpath(file.locate()))
        copy = target / source.relative_to(sys.prefix)
        if file.suffix != ".pyc":
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
        if copy.parent.name == "bin" and copy.exists():
            script = copy.read_bytes()
            copy.write_bytes(script.replace(sys.prefix.encode(), str(target).encode()))


def pip(image: Path, *arguments: str) -> str:
    python = str(image / "venv/bin/python")
    command = [sys.executable, "-m", "pip", "--python", python, *arguments]
    return subprocess.check_output(command, text=True)


def test_command_needs_only_requirements(image):
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    command = json.loads(re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)[-1])
    with scratch_database(ADMIN_URL) as database_url:
        environment = server_settings() | {
            "PATH": f"{image / 'venv/bin'}:{os.environ['PATH']}",
            "DATABASE_URL": database_url,
            "SECRET_KEY": "a key that is only used in this test",
            "FRONTEND_URL": "https://blog.example.com",
            "PORT": str(free_port()),
        }
        migrate = ["alembic", "upgrade", "head"]
        subprocess.run(migrate, cwd=image, env=environment, check=True)
        server = subprocess.Popen(command, cwd=image, env=environment)
        url = f"http://127.0.0.1:{environment['PORT']}"
        try:
            wait_until_healthy(url, server)
            response = httpx.get(f"{url}/login", timeout=30)
        finally:
            server.terminate()
        status = server.wait(timeout=30)

    # SIGTERM reaches the server directly, because exec has replaced the shell.
    assert status in {0, -15}
    assert response.status_code == 200
    assert "server" not in response.headers


def test_server_settings():
    assert server_settings() == {
        # Longer than the load balancer's timeout of 60 seconds.
        "UVICORN_TIMEOUT_KEEP_ALIVE": "75",
        "UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN": "10",
        "UVICORN_SERVER_HEADER": "false",
    }


def test_no_embedded_database_or_test_tools(image):
    packages = pip(image, "list", "--format=freeze")

    assert "fastapi==" in packages
    assert not re.search(r"^(pytest|moto|ruff|mypy|pixeltable)", packages, re.MULTILINE)


def test_dockerfile_passes_linter():
    hadolint = Path(sys.executable).with_name("hadolint")

    assert subprocess.run([hadolint, BASE_DIR / "Dockerfile"]).returncode == 0
