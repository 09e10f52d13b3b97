"""Picture storage: a bucket or local files."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from httpx import AsyncClient, Response
from moto.server import ThreadedMotoServer
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

import image_utils
import storage
from config import BASE_DIR, settings
from database import DatabaseUnavailable, engine
from models import User
from tests.conftest import (
    ADMIN_URL,
    auth_header,
    create_test_user,
    get_user_id,
    list_objects,
    login_user,
    sign_up,
)
from tests.databases import scratch_database

PHOTO = Path(__file__).with_name("test_image.jpg").read_bytes()
BUCKET = "test-bucket"
INVALID = "Invalid image file. Please upload a valid image (JPEG, PNG, GIF, WebP)."
UPLOAD_FAILED = "Failed to upload image. Please try again."


async def upload(
    client: AsyncClient,
    headers: dict[str, str],
    content: bytes = PHOTO,
    name: str = "photo.jpg",
    media_type: str = "image/jpeg",
) -> Response:
    """Upload a profile picture."""
    return await client.patch(
        f"/api/users/{await get_user_id(client, headers)}/picture",
        files={"file": (name, content, media_type)},
        headers=headers,
    )


async def me(client: AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    """Return the current user."""
    user: dict[str, Any] = (await client.get("/api/users/me", headers=headers)).json()
    return user


def files(folder: Path) -> list[str]:
    """Return all files in a folder by relative path."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)


def make_fail(bucket: Any, operation: str) -> None:
    """Make an S3 operation fail as if the bucket could not be reached."""

    def fail(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://bucket.example")

    bucket.meta.events.register(f"before-call.s3.{operation}", fail)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry S3 requests without delays."""
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0
    )


@pytest.fixture(autouse=True)
def bucket(bucket: Any) -> Iterator[Any]:
    """Create a bucket; close its client at the end, in case a test made it fail."""
    yield bucket
    storage.s3_client.cache_clear()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Configure the app to use an S3-compatible service."""
    monkeypatch.setattr(settings, "s3_endpoint_url", url)
    storage.s3_client.cache_clear()


@pytest.fixture
def closed_port() -> int:
    """Return a local port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the picture folder of an app without a bucket."""
    monkeypatch.setattr(settings, "s3_bucket_name", None)
    monkeypatch.setattr(settings, "var_dir", tmp_path)
    return tmp_path / "media"


@pytest.fixture
def blocked_media(media: Path) -> None:
    """Create a file in place of the picture folder."""
    media.touch()


# Bucket


async def test_picture_is_stored_with_its_headers(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    user = (await upload(client, ada)).json()

    stored = bucket.head_object(Bucket=BUCKET, Key=f"profile_pics/{user['image_file']}")

    assert stored["ContentType"] == "image/jpeg"
    assert stored["CacheControl"] == "public, max-age=31536000, immutable"


async def test_upload_returns_picture_path(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    response = await upload(client, ada)

    user = response.json()
    assert response.status_code == 200
    assert user == await me(client, ada)
    assert user["image_path"] == (
        "https://test-bucket.s3.us-east-2.amazonaws.com/profile_pics/"
        + user["image_file"]
    )


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("photo.png", "image/png"),
        ("photo.txt", "text/plain"),
        ("../../etc/passwd", "application/x-sh"),
        ("photo", ""),
    ],
)
async def test_file_type_is_detected_by_content(
    client: AsyncClient, ada: dict[str, str], name: str, media_type: str
) -> None:
    response = await upload(client, ada, PHOTO, name, media_type)

    assert response.status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<svg/>", id="another kind"),
        pytest.param(PHOTO[:-2000], id="cut off"),
    ],
)
async def test_invalid_picture_is_rejected(
    client: AsyncClient, ada: dict[str, str], bucket: Any, content: bytes
) -> None:
    response = await upload(client, ada, content)

    assert response.status_code == 400
    assert response.json() == {"detail": INVALID}
    assert list_objects(bucket) == []


async def test_new_picture_replaces_old_one(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    old = (await upload(client, ada)).json()["image_file"]

    new = (await upload(client, ada)).json()["image_file"]

    assert new != old
    assert list_objects(bucket) == [f"profile_pics/{new}"]


@pytest.fixture
def steps(bucket: Any) -> Iterator[list[str]]:
    """Record bucket operations and user updates in order."""
    happened: list[str] = []

    def note_call(model: Any, **_: Any) -> None:
        happened.append(model.name)

    def note_statement(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        happened.append(statement.partition(" ")[0])

    def note_commit(*_: Any) -> None:
        happened.append("commit")

    bucket.meta.events.register("before-call.s3", note_call)
    event.listen(engine.sync_engine, "before_cursor_execute", note_statement)
    event.listen(engine.sync_engine, "release_savepoint", note_commit)
    yield happened
    event.remove(engine.sync_engine, "before_cursor_execute", note_statement)
    event.remove(engine.sync_engine, "release_savepoint", note_commit)


async def test_old_picture_is_deleted_after_commit(
    client: AsyncClient, ada: dict[str, str], steps: list[str]
) -> None:
    await upload(client, ada)
    steps.clear()

    await upload(client, ada)

    put, update = steps.index("PutObject"), steps.index("UPDATE")
    commit, delete = steps.index("commit", update), steps.index("DeleteObject")
    assert put < update < commit < delete


async def test_new_picture_is_deleted_if_update_fails(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    old = (await upload(client, ada)).json()["image_file"]

    def reject_updates(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE"):
            raise DatabaseUnavailable

    event.listen(engine.sync_engine, "before_cursor_execute", reject_updates)
    response = await upload(client, ada)
    event.remove(engine.sync_engine, "before_cursor_execute", reject_updates)

    assert response.status_code == 503
    assert list_objects(bucket) == [f"profile_pics/{old}"]


async def test_failed_deletion_of_old_picture_is_logged(
    client: AsyncClient,
    ada: dict[str, str],
    bucket: Any,
    caplog: pytest.LogCaptureFixture,
    no_pauses: None,
) -> None:
    old = (await upload(client, ada)).json()["image_file"]
    make_fail(bucket, "DeleteObject")

    response = await upload(client, ada)

    assert response.status_code == 200
    assert response.json()["image_file"] != old
    assert old in caplog.text


async def test_access_denied_changes_nothing(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    before = (await upload(client, ada)).json()

    def deny(**_: Any) -> tuple[Any, dict[str, Any]]:
        class Denied:
            status_code = 403

        return Denied(), {"Error": {"Code": "AccessDenied", "Message": "no"}}

    bucket.meta.events.register("before-call.s3.PutObject", deny)
    response = await upload(client, ada)

    assert response.status_code == 503
    assert response.json() == {"detail": UPLOAD_FAILED}
    assert await me(client, ada) == before
    assert list_objects(bucket) == [f"profile_pics/{before['image_file']}"]


async def test_missing_bucket_changes_nothing(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    bucket.delete_bucket(Bucket=BUCKET)

    response = await upload(client, ada)

    assert response.status_code == 503
    assert response.json() == {"detail": UPLOAD_FAILED}
    assert (await me(client, ada))["image_file"] is None


async def test_unreachable_bucket_changes_nothing(
    client: AsyncClient,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    closed_port: int,
    no_pauses: None,
) -> None:
    use_endpoint(monkeypatch, f"http://127.0.0.1:{closed_port}")

    response = await upload(client, ada)

    assert response.status_code == 503
    assert response.json() == {"detail": UPLOAD_FAILED}
    assert (await me(client, ada))["image_file"] is None


async def test_failed_upload_log_omits_secrets(
    client: AsyncClient,
    ada: dict[str, str],
    bucket: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bucket.delete_bucket(Bucket=BUCKET)

    with caplog.at_level(logging.INFO):
        await upload(client, ada)

    assert "NoSuchBucket" in caplog.text
    assert "testing" not in caplog.text


def test_bucket_requests_have_short_timeouts(bucket: Any) -> None:
    config = bucket.meta.config

    assert (config.connect_timeout, config.read_timeout) <= (5, 5)
    assert config.retries["total_max_attempts"] <= 3


async def test_deleted_picture_is_removed_from_bucket(
    client: AsyncClient, ada: dict[str, str], bucket: Any
) -> None:
    user_id = (await upload(client, ada)).json()["id"]

    response = await client.delete(f"/api/users/{user_id}/picture", headers=ada)

    assert response.status_code == 200
    assert response.json()["image_file"] is None
    assert response.json()["image_path"] == "/static/profile_pics/default.jpg"
    assert list_objects(bucket) == []


async def test_picture_is_removed_if_bucket_deletion_fails(
    client: AsyncClient,
    ada: dict[str, str],
    bucket: Any,
    caplog: pytest.LogCaptureFixture,
    no_pauses: None,
) -> None:
    user = (await upload(client, ada)).json()
    make_fail(bucket, "DeleteObject")

    response = await client.delete(f"/api/users/{user['id']}/picture", headers=ada)

    assert response.status_code == 200
    assert response.json()["image_file"] is None
    assert user["image_file"] in caplog.text


async def test_account_deletion_deletes_picture(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], bucket: Any
) -> None:
    user_id = (await upload(client, ada)).json()["id"]
    kept = (await upload(client, bob)).json()["image_file"]

    response = await client.delete(f"/api/users/{user_id}", headers=ada)

    assert response.status_code == 204
    assert list_objects(bucket) == [f"profile_pics/{kept}"]


async def test_account_is_deleted_if_bucket_deletion_fails(
    client: AsyncClient,
    ada: dict[str, str],
    bucket: Any,
    caplog: pytest.LogCaptureFixture,
    no_pauses: None,
) -> None:
    user = (await upload(client, ada)).json()
    make_fail(bucket, "DeleteObject")

    response = await client.delete(f"/api/users/{user['id']}", headers=ada)

    assert response.status_code == 204
    assert user["image_file"] in caplog.text


async def test_concurrent_uploads_leave_one_referenced_picture(
    concurrent_client: AsyncClient, bucket: Any
) -> None:
    ada = await sign_up(concurrent_client, "ada")

    responses = await asyncio.gather(
        *(upload(concurrent_client, ada) for _ in range(4))
    )

    assert [response.status_code for response in responses] == [200] * 4
    user = await me(concurrent_client, ada)
    assert list_objects(bucket) == [f"profile_pics/{user['image_file']}"]


async def test_upload_during_account_deletion_leaves_nothing(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user_id = await get_user_id(client, ada)
    process = image_utils.process_profile_image
    loop = asyncio.get_running_loop()

    def process_while_the_account_goes(content: bytes) -> tuple[bytes, str]:
        leave = client.delete(f"/api/users/{user_id}", headers=ada)
        asyncio.run_coroutine_threadsafe(leave, loop).result()
        return process(content)

    monkeypatch.setattr(
        "routers.pictures.process_profile_image", process_while_the_account_goes
    )
    response = await client.patch(
        f"/api/users/{user_id}/picture", files={"file": PHOTO}, headers=ada
    )

    assert response.status_code == 401
    assert list_objects(bucket) == []


# S3-compatible service over HTTP


@pytest.fixture
def s3_server() -> Iterator[str]:
    """Run an S3-compatible server and return its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def other_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a bucket on that server and configure the app to use it."""
    monkeypatch.setattr(settings, "s3_bucket_name", "other-bucket")
    use_endpoint(monkeypatch, s3_server)
    storage.s3_client().create_bucket(
        Bucket="other-bucket",
        ACL="public-read",
        CreateBucketConfiguration={"LocationConstraint": "us-east-2"},
    )
    return f"{s3_server}/other-bucket"


async def test_picture_can_be_read_over_http(
    client: AsyncClient, ada: dict[str, str], other_bucket: str
) -> None:
    user = (await upload(client, ada)).json()

    async with AsyncClient() as browser:
        picture = await browser.get(user["image_path"])

    assert user["image_path"] == f"{other_bucket}/profile_pics/{user['image_file']}"
    assert picture.content.startswith(b"\xff\xd8\xff")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_deleted_picture_is_gone_over_http(
    client: AsyncClient, ada: dict[str, str], other_bucket: str
) -> None:
    user = (await upload(client, ada)).json()
    await client.delete(f"/api/users/{user['id']}/picture", headers=ada)

    async with AsyncClient() as browser:
        picture = await browser.get(user["image_path"])

    assert picture.status_code == 404


# Picture URLs


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        pytest.param(
            {}, "https://test-bucket.s3.us-east-2.amazonaws.com/profile_pics/a.jpg"
        ),
        pytest.param(
            {"s3_endpoint_url": "http://minio:9000"},
            "http://minio:9000/test-bucket/profile_pics/a.jpg",
        ),
        pytest.param(
            {"s3_public_url": "https://cdn.example"},
            "https://cdn.example/profile_pics/a.jpg",
        ),
        pytest.param(
            {
                "s3_public_url": "https://cdn.example/blog",
                "s3_endpoint_url": "http://minio:9000",
            },
            "https://cdn.example/blog/profile_pics/a.jpg",
        ),
        pytest.param({"s3_bucket_name": None}, "/media/profile_pics/a.jpg"),
    ],
    ids=["AWS", "endpoint", "CDN", "CDN before an endpoint", "local"],
)
def test_picture_url_depends_on_settings(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], path: str
) -> None:
    user = User(username="ada", image_file="a.jpg")

    for name, value in changes.items():
        monkeypatch.setattr(settings, name, value)

    assert user.image_path == path


def test_path_without_picture_is_default_picture() -> None:
    user = User(username="ada")

    assert user.image_path == "/static/profile_pics/default.jpg"


# Local files


async def test_picture_is_stored_as_file_without_bucket(
    client: AsyncClient, ada: dict[str, str], media: Path
) -> None:
    user = (await upload(client, ada)).json()

    assert user["image_path"] == f"/media/profile_pics/{user['image_file']}"
    assert files(media) == [f"profile_pics/{user['image_file']}"]


async def test_new_file_replaces_old_one(
    client: AsyncClient, ada: dict[str, str], media: Path
) -> None:
    await upload(client, ada)

    new = (await upload(client, ada)).json()["image_file"]

    assert files(media) == [f"profile_pics/{new}"]


async def test_deleted_picture_leaves_no_file(
    client: AsyncClient, ada: dict[str, str], media: Path
) -> None:
    user_id = (await upload(client, ada)).json()["id"]

    response = await client.delete(f"/api/users/{user_id}/picture", headers=ada)

    assert response.status_code == 200
    assert files(media) == []


def test_stored_file_is_readable_by_web_server(media: Path) -> None:
    image_utils.upload_profile_image(b"a picture", "a.jpg")

    path = media / "profile_pics" / "a.jpg"
    assert path.read_bytes() == b"a picture"
    assert path.stat().st_mode & 0o777 == 0o644


def test_deleting_missing_file_is_no_error(media: Path) -> None:
    image_utils.delete_profile_image("a.jpg")

    assert files(media) == []


async def test_uncreatable_folder_changes_nothing(
    client: AsyncClient, ada: dict[str, str], blocked_media: None
) -> None:
    response = await upload(client, ada)

    assert response.status_code == 503
    assert response.json() == {"detail": UPLOAD_FAILED}
    assert (await me(client, ada))["image_file"] is None


def test_failed_write_leaves_no_temporary_file(media: Path) -> None:
    # A folder with the file's name is in the way.
    (media / "profile_pics" / "a.jpg").mkdir(parents=True)

    with pytest.raises(storage.StorageError):
        image_utils.upload_profile_image(b"a picture", "a.jpg")

    assert files(media) == []


# Serving local files


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the app in another process without a bucket and return its URL."""
    with (
        scratch_database(ADMIN_URL) as database_url,
        # Clients can connect at once: the system queues connections until the server is
        # up.
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "S3_BUCKET_NAME": "",
            "VAR_DIR": str(tmp_path_factory.mktemp("var")),
        }
        subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=BASE_DIR,
            env=environment,
            check=True,
            capture_output=True,
        )
        descriptor = str(listener.fileno())
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--fd", descriptor],
            cwd=BASE_DIR,
            env=environment,
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.fixture
async def live_client(live_server: str) -> AsyncIterator[AsyncClient]:
    """Return a client of that process."""
    async with AsyncClient(base_url=live_server, timeout=30) as client:
        yield client


@pytest.fixture
async def live_picture(live_client: AsyncClient) -> AsyncIterator[dict[str, Any]]:
    """Create a user with a picture for the duration of the test."""
    await create_test_user(live_client)
    headers = auth_header(await login_user(live_client))
    user = (await upload(live_client, headers)).json()
    yield user
    await live_client.delete(f"/api/users/{user['id']}", headers=headers)


async def test_local_picture_has_type_and_long_caching(
    live_client: AsyncClient, live_picture: dict[str, Any]
) -> None:
    response = await live_client.get(live_picture["image_path"])

    assert response.content.startswith(b"\xff\xd8\xff")
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_unchanged_local_picture_is_not_sent_again(
    live_client: AsyncClient, live_picture: dict[str, Any]
) -> None:
    path = live_picture["image_path"]
    etag = (await live_client.get(path)).headers["etag"]

    response = await live_client.get(path, headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "/media/profile_pics/missing.jpg",
        "/media/profile_pics/",
        "/media/",
        "/media/..%2fsecret_key",
        "/media/profile_pics/%2e%2e/%2e%2e/secret_key",
        "/media/profile_pics/a%00.jpg",
        "/media/" + "a" * 300,
    ],
)
async def test_only_pictures_are_served(live_client: AsyncClient, path: str) -> None:
    response = await live_client.get(path, follow_redirects=True)

    assert response.status_code == 404
    assert "max-age" not in response.headers.get("cache-control", "")


async def test_deleted_local_picture_is_not_served(
    live_client: AsyncClient,
) -> None:
    await create_test_user(live_client, "bob", "bob@example.com")
    headers = auth_header(await login_user(live_client, "bob@example.com"))
    user = (await upload(live_client, headers)).json()
    await live_client.delete(f"/api/users/{user['id']}", headers=headers)

    response = await live_client.get(user["image_path"])

    assert response.status_code == 404
