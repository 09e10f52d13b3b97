"""Uploads in progress."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from httpx import AsyncClient

import middleware
from config import settings
from image_utils import process_profile_image
from routers import pictures
from tests.conftest import Body, own_id
from tests.test_storage import INVALID, PHOTO, UPLOAD_FAILED, upload
from tests.test_workers import assert_busy
from workers import Workers


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the uploads in progress, of which there are none."""
    none: list[int] = []
    monkeypatch.setattr(pictures, "uploads", none)
    return none


async def silence() -> AsyncIterator[bytes]:
    """Send the beginning of a form, and nothing after it."""
    yield b"--x\r\n"
    await asyncio.Event().wait()


async def trickle() -> AsyncIterator[bytes]:
    """Send a form that never ends."""
    yield b"--x\r\n"
    while True:
        yield b"a"
        await asyncio.sleep(0.01)


class TestUploads:
    async def test_too_many_uploads_in_all_are_rejected(
        self, client: AsyncClient, ada: dict[str, str], uploads: list[int]
    ) -> None:
        uploads += range(-pictures.MAX_UPLOADS, 0)

        response = await upload(client, ada)

        assert_busy(response)
        assert response.headers["connection"] == "close"

    async def test_too_many_uploads_of_one_user_are_rejected(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        bob: dict[str, str],
        uploads: list[int],
    ) -> None:
        uploads += [await own_id(client, ada)] * pictures.MAX_UPLOADS_PER_USER

        assert_busy(await upload(client, ada))
        assert (await upload(client, bob)).status_code == 200

    @pytest.mark.parametrize("content", [PHOTO, b"not a picture"])
    async def test_upload_is_counted_until_it_is_decoded(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        uploads: list[int],
        content: bytes,
    ) -> None:
        counted = []

        def process(content: bytes) -> tuple[bytes, str]:
            counted.extend(uploads)
            return process_profile_image(content)

        monkeypatch.setattr(pictures, "process_profile_image", process)
        await upload(client, ada, content)

        assert counted == [await own_id(client, ada)]
        assert uploads == []

    async def test_rejected_upload_is_not_read(
        self, client: AsyncClient, ada: dict[str, str], uploads: list[int]
    ) -> None:
        uploads += range(-pictures.MAX_UPLOADS, 0)
        body = Body(1_000_000, start=b"--x\r\n")

        response = await client.patch(
            f"/api/users/{await own_id(client, ada)}/picture",
            content=body,
            headers=ada | {"Content-Type": "multipart/form-data; boundary=x"},
        )

        assert_busy(response)
        assert body.read_bytes == 0

    @pytest.mark.parametrize(
        ("content", "limit"),
        [(silence, "SILENCE_SECONDS"), (trickle, "ARRIVAL_SECONDS")],
    )
    async def test_upload_that_does_not_arrive_is_counted_no_more(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        uploads: list[int],
        content: Callable[[], AsyncIterator[bytes]],
        limit: str,
    ) -> None:
        monkeypatch.setattr(middleware, limit, 0.05)

        response = await client.patch(
            f"/api/users/{await own_id(client, ada)}/picture",
            content=content(),
            headers=ada | {"Content-Type": "multipart/form-data; boundary=x"},
        )

        assert response.status_code == 422
        assert response.json()["detail"][0]["msg"] == "The body did not arrive in time"
        assert uploads == []

    async def test_large_file_is_not_written_to_disk(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("tempfile.TemporaryFile", None)

        response = await upload(client, ada, bytes(settings.max_upload_size_bytes))

        assert response.json() == {"detail": INVALID}

    async def test_too_many_pictures_that_wait_are_rejected(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        full = Workers("full", threads=1, waiting=0)
        full._places.acquire()
        monkeypatch.setattr(pictures, "decoder", full)

        assert_busy(await upload(client, ada))

    @pytest.mark.parametrize("error", [TimeoutError("busy"), ChildProcessError("-9")])
    async def test_decoder_that_fails_is_unavailable(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: OSError,
    ) -> None:
        def fail(_content: bytes) -> None:
            raise error

        monkeypatch.setattr(pictures, "process_profile_image", fail)
        response = await upload(client, ada)

        assert response.status_code == 503
        assert response.json() == {"detail": UPLOAD_FAILED}
        assert int(response.headers["retry-after"]) > 0
        assert repr(error) in caplog.text

    async def test_picture_that_waits_too_long_is_unavailable(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(pictures, "DECODE_TIMEOUT", 0.001)

        response = await upload(client, ada)

        assert response.status_code == 503
        assert response.json() == {"detail": UPLOAD_FAILED}
