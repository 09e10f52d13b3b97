"""Upload and deletion of profile pictures. test_image_utils.py tests the conversion."""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from io import BytesIO
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from fastapi import HTTPException
from httpx import AsyncClient, Response
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

import orphaned_pictures
from config import settings
from database import DatabaseUnavailable, engine
from image_utils import process_profile_image
from models import OrphanedPicture
from routers import pictures
from storage import StorageError
from tests.conftest import (
    PHOTO,
    REQUEST_ID,
    CountingBody,
    Headers,
    get_current_user,
    get_user_id,
    list_objects,
    sign_up,
    upload_picture,
)

UPLOAD_FAILED = {
    "detail": "Failed to upload image. Please try again.",
    "request_id": REQUEST_ID,
}
MULTIPART = "multipart/form-data; boundary=x"
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
TEXT = FILE.replace(b"; filename", b"; other") + b"\r\n--x--"
MAX_OVERHEAD = 64 * 1024
Upload = Callable[..., Awaitable[Response]]


@pytest.fixture
def upload(client: AsyncClient, ada: Headers) -> Upload:
    """Return a function that uploads a picture for ada."""
    return partial(upload_picture, client, ada)


@pytest.fixture
async def old(upload: Upload) -> str:
    """Return the filename of ada's current picture."""
    image_file: str = (await upload()).json()["image_file"]
    return image_file


@pytest.fixture
def picture_path(user_path: str) -> str:
    return f"{user_path}/picture"


@pytest.fixture
def body() -> CountingBody:
    return CountingBody(10_000_000, start=FILE)


@pytest.fixture
def hanging_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    finished = threading.Event()
    monkeypatch.setattr("storage.put", lambda *_, **__: finished.wait())
    monkeypatch.setattr("storage.delete", lambda *_: finished.wait())
    monkeypatch.setattr(pictures, "UPLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(orphaned_pictures, "DELETE_TIMEOUT", 0.05)
    yield
    finished.set()


class TestUpload:
    async def test_picture_is_stored(self, upload, bucket):
        response = await upload()

        assert response.status_code == 200
        image_file = response.json()["image_file"]
        assert list_objects(bucket) == [f"profile_pics/{image_file}"]

    @pytest.mark.parametrize("content", [b"", PHOTO[:-2000]], ids=["empty", "damaged"])
    async def test_invalid_picture(self, upload, bucket, content):
        response = await upload(content)

        assert response.status_code == 400
        assert response.json() == {
            "detail": "Invalid image file. Please upload a valid image "
            "(JPEG, PNG, GIF, WebP)."
        }
        assert list_objects(bucket) == []

    async def test_old_picture_is_deleted(self, upload, old, bucket):
        new = (await upload()).json()["image_file"]

        assert new != old
        assert list_objects(bucket) == [f"profile_pics/{new}"]

    async def test_storage_fails(self, upload, monkeypatch, caplog):
        error = StorageError("connection refused")
        monkeypatch.setattr("storage.put", Mock(side_effect=error))

        response = await upload()

        assert (response.status_code, response.json()) == (503, UPLOAD_FAILED)
        assert "connection refused" in caplog.text

    async def test_storage_hangs(self, upload, hanging_storage):
        response = await upload()

        assert (response.status_code, response.json()) == (503, UPLOAD_FAILED)

    async def test_update_fails(self, upload, old, bucket, monkeypatch):
        failing = AsyncMock(side_effect=DatabaseUnavailable)
        monkeypatch.setattr(pictures, "replace_picture", failing)

        response = await upload()

        assert response.status_code == 503
        assert list_objects(bucket) == [f"profile_pics/{old}"]

    async def test_commit_fails(self, upload, old, bucket, monkeypatch):
        replace_picture = pictures.replace_picture

        async def replace(db: AsyncSession, *rest: Any) -> str | None:
            failing = AsyncMock(side_effect=DatabaseUnavailable)
            monkeypatch.setattr(db, "commit", failing)
            return await replace_picture(db, *rest)

        monkeypatch.setattr(pictures, "replace_picture", replace)

        response = await upload()

        # The commit may have taken effect, so both pictures are kept for now.
        assert response.status_code == 503
        assert f"profile_pics/{old}" in list_objects(bucket)
        assert len(list_objects(bucket)) == 2

    async def test_cleanup_during_upload(self, upload, bucket, monkeypatch):
        store_avatar = pictures.store_avatar

        async def store_and_clean_up(db: AsyncSession, *rest: Any) -> None:
            await store_avatar(db, *rest)
            await db.execute(delete(OrphanedPicture))

        monkeypatch.setattr(pictures, "store_avatar", store_and_clean_up)

        response = await upload()

        assert (response.status_code, response.json()) == (503, UPLOAD_FAILED)
        assert list_objects(bucket) == []

    async def test_account_is_deleted_during_upload(
        self, client, ada, picture_path, bucket, monkeypatch
    ):
        read_avatar = pictures.read_avatar

        async def read_and_delete_account(request: Any) -> tuple[bytes, str]:
            await client.delete(picture_path.removesuffix("/picture"), headers=ada)
            return await read_avatar(request)

        monkeypatch.setattr(pictures, "read_avatar", read_and_delete_account)

        response = await client.patch(picture_path, files={"file": PHOTO}, headers=ada)

        assert response.status_code == 401
        assert list_objects(bucket) == []

    async def test_slow_upload_holds_no_resources(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        user_id = await get_user_id(concurrent_client, ada)
        is_waiting = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            is_waiting.set()
            await asyncio.Event().wait()

        upload = concurrent_client.patch(
            f"/api/users/{user_id}/picture",
            content=body(),
            headers=ada | {"Content-Type": "multipart/form-data; boundary=x"},
        )
        task = asyncio.create_task(upload)
        await is_waiting.wait()

        assert "Current Checked out connections: 0" in engine.pool.status()
        assert pictures.decoder_limiter.borrowed_tokens == 0
        task.cancel()
        await asyncio.wait({task})


class TestSize:
    @pytest.mark.parametrize(
        ("limit", "shown"), [(5 * 1024**2, "5MB"), (1024**2 // 2, "0.5MB")]
    )
    async def test_file_is_too_large(self, client, ada, monkeypatch, limit, shown):
        monkeypatch.setattr(settings, "max_upload_size_bytes", limit)

        response = await upload_picture(client, ada, bytes(limit + 1))

        assert response.status_code == 400
        assert response.json() == {"detail": f"File too large. Maximum size is {shown}"}

    async def test_largest_file(self, client, ada, monkeypatch):
        monkeypatch.setattr(settings, "max_upload_size_bytes", len(PHOTO))

        response = await upload_picture(client, ada, PHOTO)

        assert response.status_code == 200

    async def test_body_is_too_large(
        self, client, ada, picture_path, body, monkeypatch
    ):
        monkeypatch.setattr(settings, "max_upload_size_bytes", 10_000)

        response = await client.patch(
            picture_path, content=body, headers={**ada, "Content-Type": MULTIPART}
        )

        assert response.status_code == 413
        assert response.json() == {"detail": "Request body too large"}
        assert body.read_bytes <= 10_000 + MAX_OVERHEAD + 4096

    async def test_declared_size_is_too_large(self, client, ada, picture_path, body):
        size = str(settings.max_upload_size_bytes + MAX_OVERHEAD + 1)
        headers = {**ada, "Content-Type": MULTIPART, "Content-Length": size}

        response = await client.patch(picture_path, content=body, headers=headers)

        assert (response.status_code, body.read_bytes) == (413, 0)


class TestUnreadBody:
    async def test_anonymous(self, client, body):
        response = await client.patch(
            "/api/users/1/picture", content=body, headers={"Content-Type": MULTIPART}
        )

        assert (response.status_code, body.read_bytes) == (401, 0)

    async def test_another_user(self, client, ada, body):
        headers = {**ada, "Content-Type": MULTIPART, "Content-Length": "100000000"}

        response = await client.patch(
            "/api/users/0/picture", content=body, headers=headers
        )

        assert (response.status_code, body.read_bytes) == (403, 0)


@pytest.mark.parametrize(
    ("content_type", "body", "location"),
    [
        (MULTIPART, TEXT, ["body", "file"]),
        ("image/jpeg", PHOTO, ["body", "file"]),
        ("multipart/form-data", b"--x--", ["body"]),
        (MULTIPART, b"--x\r\n\r\n\r\n--x--", ["body"]),
        ("application/x-www-form-urlencoded", b"file=1&" * 20, ["body"]),
    ],
    ids=["text", "no form", "no boundary", "part without a name", "too many fields"],
)
async def test_invalid_form(client, ada, picture_path, content_type, body, location):
    headers = {**ada, "Content-Type": content_type}

    response = await client.patch(picture_path, content=body, headers=headers)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == location


class TestDecode:
    async def test_one_picture_at_a_time(self, concurrent_client, bucket, monkeypatch):
        ada = await sign_up(concurrent_client, "ada")
        lock = threading.Lock()

        def process(content: bytes) -> tuple[bytes, str]:
            assert lock.acquire(blocking=False)
            avatar = process_profile_image(content)
            lock.release()
            return avatar

        monkeypatch.setattr(pictures, "process_profile_image", process)

        responses = await asyncio.gather(
            *(upload_picture(concurrent_client, ada) for _ in range(3))
        )

        user = await get_current_user(concurrent_client, ada)
        assert [response.status_code for response in responses] == [200] * 3
        assert list_objects(bucket) == [f"profile_pics/{user['image_file']}"]

    async def test_busy_decoder(self, monkeypatch):
        monkeypatch.setattr(pictures, "DECODE_TIMEOUT", 0.01)
        file = BytesIO(PHOTO)

        async with pictures.decoder_limiter:
            with pytest.raises(HTTPException) as raised:
                await asyncio.create_task(pictures.decode(file))

        assert raised.value.status_code == 503
        # A file that waits for the decoder must not be read into memory.
        assert file.tell() == 0

    @pytest.mark.parametrize("error", [TimeoutError("busy"), ChildProcessError("-9")])
    async def test_decoder_fails(self, upload, monkeypatch, caplog, error):
        monkeypatch.setattr(pictures, "process_profile_image", Mock(side_effect=error))

        response = await upload()

        assert (response.status_code, response.json()) == (503, UPLOAD_FAILED)
        assert int(response.headers["retry-after"]) > 0
        assert repr(error) in caplog.text

    async def test_rejected_file_is_freed_at_once(self, upload):
        content = bytes(5_000_000)
        gc.disable()
        tracemalloc.start()

        await upload(content)
        kept_bytes, _peak = tracemalloc.get_traced_memory()

        tracemalloc.stop()
        gc.enable()
        assert kept_bytes < len(content)


class TestDelete:
    @pytest.mark.usefixtures("old")
    async def test_default_picture_is_shown(self, client, ada, picture_path, bucket):
        response = await client.delete(picture_path, headers=ada)

        assert response.status_code == 200
        assert response.json() == await get_current_user(client, ada)
        assert response.json()["image_path"] == "/static/profile_pics/default.jpg"
        assert list_objects(bucket) == []

    async def test_no_picture(self, client, ada, picture_path):
        response = await client.delete(picture_path, headers=ada)

        assert response.status_code == 400
        assert response.json() == {"detail": "No profile picture to delete"}

    async def test_storage_hangs(
        self, client, ada, old, picture_path, hanging_storage, caplog
    ):
        response = await client.delete(picture_path, headers=ada)

        assert response.status_code == 200
        assert response.json()["image_file"] is None
        assert old in caplog.text
