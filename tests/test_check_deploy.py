"""The deployment check, run as operators run it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from pydantic import SecretStr

from check_deploy import check_tls, client_ip_problem
from config import BASE_DIR, settings
from tests.conftest import ADMIN_URL
from tests.databases import free_port, scratch_database
from tests.server import LiveServer

SECRET = "marked-secret-of-at-least-32-bytes"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(folder, database_url=url, SECRET_KEY=SECRET) as server,
    ):
        yield server


def run(
    server: LiveServer, *options: str, **settings: str
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "check_deploy.py", *options],
        cwd=BASE_DIR,
        env=server.environment | settings,
        capture_output=True,
        text=True,
    )
    assert "marked-secret" not in done.stdout + done.stderr
    return done


def check(
    server: LiveServer, **settings: str
) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit status, and the status and message of each check."""
    done = run(server, "--json", **settings)
    checks = {
        each.pop("name"): tuple(each.values()) for each in json.loads(done.stdout)
    }
    return done.returncode, checks


def test_working_deployment(server):
    _status, checks = check(server)

    statuses = {name: status for name, (status, _message) in checks.items()}
    assert statuses == {
        "SECRET_KEY": "ok",
        "database": "ok",
        "database TLS": "warning",
        "database connections": "ok",
        "S3": "warning",
        "email": "warning",
        "Redis": "ok",
        "FRONTEND_URL": "warning",
        "site": "ok",
        # The client has a local IP in this test.
        "client IP": "error",
    }


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[Controller]:
    """Run an SMTP server that stores emails."""
    mailbox = Mailbox(tmp_path / "mailbox")
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller
    controller.stop()


def test_storage_and_email(server, s3_server, smtp):
    httpx.put(f"{s3_server}/pictures", headers={"x-amz-acl": "public-read"})

    done = run(
        server,
        "--email=ada@example.com",
        S3_BUCKET_NAME="pictures",
        S3_ENDPOINT_URL=s3_server,
        S3_ACCESS_KEY_ID=SECRET,
        S3_SECRET_ACCESS_KEY=SECRET,
        MAIL_SERVER="127.0.0.1",
        MAIL_PORT=str(smtp.port),
        SECRET_KEY="k" * 32,
    )

    results = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert results[0] == "warning  SECRET_KEY"
    assert results[4:9] == [
        "ok       S3 credentials",
        "ok       S3 put",
        "ok       S3 public read",
        "ok       S3 delete",
        "ok       email",
    ]
    assert len(smtp.handler.mailbox) == 1


def test_unmigrated_database(server):
    with scratch_database(ADMIN_URL) as url:
        status, checks = check(server, DATABASE_URL=url)

    assert status == 1
    assert checks["database"][0] == "error"
    assert "alembic upgrade head" in checks["database"][1]


def test_unreachable_services(server):
    host = f"127.0.0.1:{free_port()}"

    status, checks = check(
        server,
        DATABASE_URL=f"postgresql://ada:{SECRET}@{host}/blog",
        S3_BUCKET_NAME="pictures",
        S3_ENDPOINT_URL=f"http://{host}",
        S3_ACCESS_KEY_ID=SECRET,
        S3_SECRET_ACCESS_KEY=SECRET,
        MAIL_SERVER="127.0.0.1",
        MAIL_PORT=host.rpartition(":")[2],
        MAIL_USERNAME="ada",
        MAIL_PASSWORD=SECRET,
        REDIS_URL=f"redis://:{SECRET}@{host}/0",
        FRONTEND_URL=f"http://{host}",
    )

    errors = {name for name, (result, _message) in checks.items() if result == "error"}
    assert status == 1
    assert errors == {"database", "S3 credentials", "email", "Redis", "site"}


@pytest.mark.parametrize(
    ("mode", "status"), [("require", "warning"), ("verify-full", "ok")]
)
def test_tls(monkeypatch, mode, status):
    url = f"postgresql://db.example.com/blog?sslmode={mode}"
    monkeypatch.setattr(settings, "database_url", SecretStr(url))

    assert check_tls().status == status


@pytest.mark.parametrize(
    ("client_ip", "problem"),
    [
        ("9.9.9.9", None),
        ("2620:fe::fe", None),
        ("10.0.0.7", "too low"),
        ("", "too low"),
        ("203.0.113.99", "too high"),
    ],
)
def test_client_ip(client_ip, problem):
    found = client_ip_problem(client_ip)

    assert (found is None) is (problem is None)
    assert problem is None or problem in str(found)
