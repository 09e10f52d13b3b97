"""Storage: an S3 bucket, or local files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import storage
from config import settings
from models import User
from storage import StorageError
from tests.conftest import list_objects
from tests.databases import free_port

KEY = "profile_pics/a.jpg"


def put(content: bytes = b"a picture") -> None:
    storage.put(KEY, content, content_type="image/jpeg")


@pytest.fixture(autouse=True)
def new_client(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retry without delay, and discard the client, because it keeps its endpoint."""
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0
    )
    yield
    storage.s3_client.cache_clear()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(settings, "s3_endpoint_url", url)
    storage.s3_client.cache_clear()


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Store files locally, and return their directory."""
    monkeypatch.setattr(settings, "s3_bucket_name", None)
    monkeypatch.setattr(settings, "var_dir", tmp_path)
    return tmp_path / "media"


class TestBucket:
    def test_put(self, bucket):
        put()

        stored = bucket.get_object(Bucket="test-bucket", Key=KEY)
        assert stored["Body"].read() == b"a picture"
        assert stored["ContentType"] == "image/jpeg"
        assert stored["CacheControl"] == "public, max-age=31536000, immutable"

    def test_delete(self, bucket):
        put()

        storage.delete(KEY)
        storage.delete(KEY)

        assert list_objects(bucket) == []

    def test_missing_bucket(self, bucket):
        bucket.delete_bucket(Bucket="test-bucket")

        with pytest.raises(StorageError, match="NoSuchBucket") as raised:
            put()

        assert "testing" not in str(raised.value)

    @pytest.mark.parametrize("call", [put, lambda: storage.delete(KEY)])
    def test_unreachable(self, monkeypatch, call):
        use_endpoint(monkeypatch, f"http://127.0.0.1:{free_port()}")

        with pytest.raises(StorageError, match="EndpointConnectionError"):
            call()

    def test_short_timeouts(self, bucket):
        config = bucket.meta.config

        assert (config.connect_timeout, config.read_timeout) == (2, 4)
        assert config.retries["total_max_attempts"] == 2

    def test_compatible_service(self, monkeypatch, s3_server):
        use_endpoint(monkeypatch, s3_server)
        monkeypatch.setattr(settings, "s3_bucket_name", "other")
        httpx.put(f"{s3_server}/other", headers={"x-amz-acl": "public-read"})

        put()

        assert httpx.get(f"{s3_server}/other/{KEY}").content == b"a picture"


class TestLocalFiles:
    def test_put(self, media):
        put(b"an old picture")
        put()

        assert list((media / "profile_pics").iterdir()) == [media / KEY]
        assert (media / KEY).read_bytes() == b"a picture"
        # A web server must be able to read the file.
        assert (media / KEY).stat().st_mode & 0o777 == 0o644

    def test_delete(self, media):
        put()

        storage.delete(KEY)
        storage.delete(KEY)

        assert list((media / "profile_pics").iterdir()) == []

    def test_directory_cannot_be_created(self, media):
        media.touch()

        with pytest.raises(StorageError):
            put()

    def test_failed_write_leaves_no_file(self, media):
        (media / KEY).mkdir(parents=True)

        with pytest.raises(StorageError):
            put()

        assert list((media / "profile_pics").iterdir()) == [media / KEY]


class TestImagePath:
    @pytest.mark.parametrize(
        ("values", "base"),
        [
            ({}, "https://test-bucket.s3.us-east-2.amazonaws.com"),
            ({"s3_endpoint_url": "http://a"}, "http://a/test-bucket"),
            ({"s3_endpoint_url": "http://a", "s3_public_url": "http://b"}, "http://b"),
            ({"s3_bucket_name": None}, "/media"),
        ],
    )
    def test_depends_on_settings(self, monkeypatch, values, base):
        changed = settings.model_copy(update=values)
        monkeypatch.setattr("models.settings", changed)

        assert User(image_file="a.jpg").image_path == f"{base}/{KEY}"

    def test_default_picture(self):
        assert User().image_path == "/static/profile_pics/default.jpg"
