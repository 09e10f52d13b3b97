"""The bucket check, run as an operator runs it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from moto.server import ThreadedMotoServer

from config import BASE_DIR

BUCKET = "check-bucket"
PRIVATE_BUCKET = "private-bucket"


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked S3: starting it would empty the server's buckets."""


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """Run an S3-compatible server with two buckets and return its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    httpx.put(
        f"{url}/{BUCKET}", headers={"x-amz-acl": "public-read"}
    ).raise_for_status()
    httpx.put(f"{url}/{PRIVATE_BUCKET}").raise_for_status()
    yield url
    server.stop()


def check_s3(**variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command with these settings and those of the tests."""
    return subprocess.run(
        [sys.executable, "check_s3.py"],
        cwd=BASE_DIR,
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
        text=True,
    )


def test_every_successful_step_is_printed(s3_server: str) -> None:
    done = check_s3(S3_BUCKET_NAME=BUCKET, S3_ENDPOINT_URL=s3_server)

    steps = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert steps == [
        "ok      credentials",
        "ok      put",
        "ok      public read",
        "ok      delete",
    ]
    assert done.returncode == 0


def test_bucket_is_left_empty(s3_server: str) -> None:
    check_s3(S3_BUCKET_NAME=BUCKET, S3_ENDPOINT_URL=s3_server)

    assert "<Key>" not in httpx.get(f"{s3_server}/{BUCKET}").text


def test_missing_bucket_fails_first_step(s3_server: str) -> None:
    done = check_s3(S3_BUCKET_NAME="no-such-bucket", S3_ENDPOINT_URL=s3_server)

    assert done.stdout.startswith("FAILED  credentials: ")
    assert len(done.stdout.splitlines()) == 1
    assert done.returncode == 1


def test_unreadable_picture_fails_and_is_deleted(
    s3_server: str,
) -> None:
    done = check_s3(S3_BUCKET_NAME=PRIVATE_BUCKET, S3_ENDPOINT_URL=s3_server)

    results = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert results[2:] == ["FAILED  public read", "ok      delete"]
    assert done.returncode == 1


def test_missing_bucket_setting_is_explained() -> None:
    done = check_s3(S3_BUCKET_NAME="")

    assert "S3_BUCKET_NAME is not set" in done.stdout
    assert done.returncode == 1


def test_secret_is_not_printed(s3_server: str) -> None:
    done = check_s3(
        S3_BUCKET_NAME="no-such-bucket",
        S3_ENDPOINT_URL=s3_server,
        S3_SECRET_ACCESS_KEY="marked-secret",
    )

    assert "marked-secret" not in done.stdout + done.stderr
