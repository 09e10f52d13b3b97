"""The bucket check, run as operators run it."""

import os
import subprocess
import sys
import urllib.request
from io import BytesIO
from subprocess import PIPE, STDOUT
from unittest.mock import Mock

import httpx
import pytest

from check_s3 import CheckFailed, check_delete, check_public_read, check_put
from config import BASE_DIR
from storage import StorageError


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked S3, which would share its buckets with the server."""


def check_s3(**settings: str) -> tuple[int, str]:
    """Run the command, and return its exit status and output."""
    command = [sys.executable, str(BASE_DIR / "check_s3.py")]
    done = subprocess.run(
        command, env=os.environ | settings, stdout=PIPE, stderr=STDOUT, text=True
    )
    return done.returncode, done.stdout


def steps(output: str) -> list[str]:
    return [line.split(":")[0] for line in output.splitlines()]


def test_success(s3_server):
    bucket = f"{s3_server}/public"
    httpx.put(bucket, headers={"x-amz-acl": "public-read"}).raise_for_status()

    status, output = check_s3(S3_BUCKET_NAME="public", S3_ENDPOINT_URL=s3_server)

    assert status == 0
    assert steps(output) == [
        *("ok      credentials", "ok      put", "ok      public read", "ok      delete")
    ]
    assert "<Key>" not in httpx.get(bucket).text


def test_missing_bucket(s3_server):
    status, output = check_s3(
        S3_BUCKET_NAME="missing",
        S3_ENDPOINT_URL=s3_server,
        S3_SECRET_ACCESS_KEY="marked-secret",
    )

    assert (status, steps(output)) == (1, ["FAILED  credentials"])
    assert "marked-secret" not in output


def test_private_bucket(s3_server):
    httpx.put(f"{s3_server}/private").raise_for_status()

    status, output = check_s3(S3_BUCKET_NAME="private", S3_ENDPOINT_URL=s3_server)

    assert (status, steps(output)[2:]) == (1, ["FAILED  public read", "ok      delete"])


def test_error_page_of_cdn(monkeypatch):
    page = BytesIO(b"Not found, but with status 200")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: page)

    with pytest.raises(CheckFailed, match="doesn't return the content"):
        check_public_read("check.txt")


@pytest.mark.parametrize(
    ("check", "function", "action"),
    [
        (check_put, "upload_profile_image", "PutObject"),
        (check_delete, "delete_profile_image", "DeleteObject"),
    ],
)
def test_missing_permission(monkeypatch, check, function, action):
    denied = Mock(side_effect=StorageError("AccessDenied"))
    monkeypatch.setattr(f"check_s3.{function}", denied)

    with pytest.raises(CheckFailed, match=f"AccessDenied.*must allow s3:{action}"):
        check("check.txt")


def test_no_bucket_is_configured():
    status, output = check_s3(S3_BUCKET_NAME="")

    assert (status, "S3_BUCKET_NAME is not set" in output) == (1, True)
