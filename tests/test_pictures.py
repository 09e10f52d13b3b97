"""Uploads in progress, and the cleanup of orphaned pictures."""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

import orphaned_pictures
from database import AsyncSessionLocal, DatabaseUnavailable
from image_utils import process_profile_image, upload_profile_image
from models import OrphanedPicture, utcnow
from routers import pictures
from storage import StorageError
from tests.conftest import get_user_id, list_objects, sign_up
from tests.test_storage import UPLOAD_FAILED, me, upload

DAY = timedelta(days=1)


async def send_start_only() -> AsyncIterator[bytes]:
    """Send the beginning of a form, and nothing after it."""
    yield b"--x\r\n"
    await asyncio.Event().wait()


async def trickle() -> AsyncIterator[bytes]:
    """Send a form that never ends."""
    yield b"--x\r\n"
    while True:
        yield b"a"
        await asyncio.sleep(0.01)


async def scheduled(db: AsyncSession) -> list[str]:
    """Return the pictures whose deletion is scheduled."""
    return list((await db.scalars(select(OrphanedPicture.filename))).all())


async def clean_up(db: AsyncSession) -> None:
    """Delete orphaned pictures as if the grace period were over."""
    await db.execute(update(OrphanedPicture).values(delete_after=utcnow() - DAY))
    await db.commit()
    await orphaned_pictures.delete_orphans(db)


@pytest.fixture
def unavailable_storage(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make the storage unavailable until the patch is undone."""

    def fail(*_: object) -> None:
        raise StorageError("nobody answers")

    monkeypatch.setattr(orphaned_pictures, "delete_profile_image", fail)
    monkeypatch.setattr(pictures, "upload_profile_image", fail)
    return monkeypatch


async def test_current_picture_is_not_scheduled_for_deletion(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    await upload(client, ada)

    assert await scheduled(db) == []


async def test_replaced_picture_is_deleted_after_outage(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = (await upload(client, ada)).json()["image_file"]

    def fail(_filename: str) -> None:
        raise StorageError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(orphaned_pictures, "delete_profile_image", fail)
        response = await upload(client, ada)
        await clean_up(db)
    left = list_objects(bucket)
    await clean_up(db)

    new = response.json()["image_file"]
    assert response.status_code == 200
    assert sorted(left) == sorted([f"profile_pics/{old}", f"profile_pics/{new}"])
    assert list_objects(bucket) == [f"profile_pics/{new}"]
    assert await scheduled(db) == []


async def test_deleted_users_picture_is_deleted_after_outage(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    unavailable_storage: pytest.MonkeyPatch,
) -> None:
    with unavailable_storage.context() as patch:
        patch.setattr(pictures, "upload_profile_image", upload_profile_image)
        user = (await upload(client, ada)).json()
    response = await client.delete(f"/api/users/{user['id']}", headers=ada)
    unavailable_storage.undo()
    await clean_up(db)

    assert response.status_code == 204
    assert list_objects(bucket) == []
    assert await scheduled(db) == []


async def test_picture_of_failed_upload_is_deleted(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def store_and_fail(content: bytes, filename: str) -> None:
        upload_profile_image(content, filename)
        raise StorageError("the answer was lost")

    monkeypatch.setattr(pictures, "upload_profile_image", store_and_fail)
    response = await upload(client, ada)
    left = list_objects(bucket)
    await clean_up(db)

    assert (response.status_code, len(left)) == (503, 1)
    assert response.json() == {"detail": UPLOAD_FAILED}
    assert (await me(client, ada))["image_file"] is None
    assert list_objects(bucket) == []


async def test_stored_picture_survives_lost_commit_result(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = AsyncSession.commit
    commits: list[None] = []

    async def lose_third_commit_result(session: AsyncSession) -> None:
        await commit(session)
        commits.append(None)
        if len(commits) == 3:
            raise DatabaseUnavailable("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", lose_third_commit_result)
        response = await upload(client, ada)
    await clean_up(db)

    image_file = (await me(client, ada))["image_file"]
    assert response.status_code == 503
    assert list_objects(bucket) == [f"profile_pics/{image_file}"]


async def test_hanging_storage_times_out(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(pictures, "UPLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(pictures, "upload_profile_image", lambda *_: let_go.wait())

    response = await upload(client, ada)
    let_go.set()

    assert response.status_code == 503
    assert response.json() == {"detail": UPLOAD_FAILED}


async def test_deletion_does_not_wait_for_hanging_storage(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = (await upload(client, ada)).json()
    let_go = threading.Event()
    monkeypatch.setattr(orphaned_pictures, "DELETE_TIMEOUT", 0.05)
    monkeypatch.setattr(
        orphaned_pictures, "delete_profile_image", lambda _: let_go.wait()
    )

    response = await client.delete(f"/api/users/{user['id']}/picture", headers=ada)
    let_go.set()

    assert response.status_code == 200
    assert response.json()["image_file"] is None


async def test_upload_after_timeout_changes_nothing(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()

    def store_for_too_long(content: bytes, filename: str) -> None:
        upload_profile_image(content, filename)
        asyncio.run_coroutine_threadsafe(clean_up(db), loop).result()

    monkeypatch.setattr(pictures, "upload_profile_image", store_for_too_long)
    response = await upload(client, ada)

    assert response.status_code == 503
    assert (await me(client, ada))["image_file"] is None
    assert list_objects(bucket) == []


class TestDeleteOrphans:
    async def test_two_processes_never_delete_the_same_picture(
        self, concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()
        deleted = []

        def delete_while_another_cleans_up(filename: str) -> None:
            deleted.append(filename)
            asyncio.run_coroutine_threadsafe(other_process(), loop).result()

        async def other_process() -> None:
            async with AsyncSessionLocal() as other:
                await orphaned_pictures.delete_orphans(other)

        monkeypatch.setattr(
            orphaned_pictures, "delete_profile_image", delete_while_another_cleans_up
        )
        async with AsyncSessionLocal() as db:
            db.add(OrphanedPicture(filename="a.jpg", delete_after=utcnow() - DAY))
            await db.commit()

            await orphaned_pictures.delete_orphans(db)

        assert deleted == ["a.jpg"]

    async def test_unavailable_storage_is_tried_once(
        self, db: AsyncSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = []

        def fail(filename: str) -> None:
            tried.append(filename)
            raise StorageError("connection refused")

        monkeypatch.setattr(orphaned_pictures, "delete_profile_image", fail)
        for filename in ("a.jpg", "b.jpg"):
            db.add(OrphanedPicture(filename=filename, delete_after=utcnow() - DAY))
        await db.commit()

        await orphaned_pictures.delete_orphans(db)

        assert len(tried) == 1
        assert sorted(await scheduled(db)) == ["a.jpg", "b.jpg"]

    async def test_undeletable_picture_does_not_block_others(
        self, db: AsyncSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail_for_a(filename: str) -> None:
            if filename == "a.jpg":
                raise StorageError("access denied")

        monkeypatch.setattr(orphaned_pictures, "delete_profile_image", fail_for_a)
        for days, filename in ((2, "a.jpg"), (1, "b.jpg")):
            db.add(
                OrphanedPicture(filename=filename, delete_after=utcnow() - days * DAY)
            )
        await db.commit()

        await orphaned_pictures.delete_orphans(db)
        await orphaned_pictures.delete_orphans(db)

        assert await scheduled(db) == ["a.jpg"]

    async def test_picture_within_grace_period_is_kept(
        self, client: AsyncClient, ada: dict[str, str], db: AsyncSession, bucket: Any
    ) -> None:
        await pictures.store_avatar(db, b"a picture", "a.jpg")

        await orphaned_pictures.delete_orphans(db)

        assert list_objects(bucket) == ["profile_pics/a.jpg"]
        assert await scheduled(db) == ["a.jpg"]


async def test_cleanup_continues_after_an_error(
    concurrent_client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    second = asyncio.Event()
    rounds: list[None] = []

    async def fail_once(_db: AsyncSession) -> None:
        rounds.append(None)
        if len(rounds) == 1:
            raise DatabaseUnavailable
        second.set()

    monkeypatch.setattr(orphaned_pictures, "CLEANUP_INTERVAL", 0.01)
    monkeypatch.setattr(orphaned_pictures, "delete_orphans", fail_once)
    cleanup = asyncio.create_task(orphaned_pictures.run_cleanup())
    async with asyncio.timeout(10):
        await second.wait()
    cleanup.cancel()

    assert "DatabaseUnavailable" in caplog.text


class TestUploads:
    async def test_slow_upload_does_not_block_others(
        self, concurrent_client: AsyncClient
    ) -> None:
        ada, bob = [await sign_up(concurrent_client, name) for name in ("ada", "bob")]
        slow = asyncio.create_task(
            concurrent_client.patch(
                f"/api/users/{await get_user_id(concurrent_client, ada)}/picture",
                content=send_start_only(),
                headers=ada | {"Content-Type": "multipart/form-data; boundary=x"},
            )
        )

        response = await upload(concurrent_client, bob)

        assert response.status_code == 200
        slow.cancel()
        with suppress(asyncio.CancelledError):
            await slow

    async def test_file_is_read_when_its_turn_comes(
        self, client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_while_waiting = []

        def process(content: bytes) -> tuple[bytes, str]:
            read_while_waiting.append(waiting_for_decoder)
            return process_profile_image(content)

        monkeypatch.setattr(pictures, "process_profile_image", process)
        waiting_for_decoder = True
        pictures.decoder.acquire_on_behalf_of_nowait("another upload")
        waiting = asyncio.create_task(upload(client, ada))
        while not pictures.decoder.statistics().tasks_waiting:  # noqa: ASYNC110 -- it has no event
            await asyncio.sleep(0.01)
        waiting_for_decoder = False
        pictures.decoder.release_on_behalf_of("another upload")

        assert (await waiting).status_code == 200
        assert read_while_waiting == [False]

    @pytest.mark.parametrize("content", [send_start_only, trickle])
    async def test_upload_that_does_not_arrive_ends(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        content: Callable[[], AsyncIterator[bytes]],
    ) -> None:
        monkeypatch.setattr("middleware.body_limit.BODY_TIMEOUT_PER_MIB", 0.01)

        response = await client.patch(
            f"/api/users/{await get_user_id(client, ada)}/picture",
            content=content(),
            headers=ada | {"Content-Type": "multipart/form-data; boundary=x"},
        )

        assert response.status_code == 422
        assert (
            response.json()["detail"][0]["msg"] == "Timed out reading the request body"
        )

    @pytest.mark.parametrize("error", [TimeoutError("busy"), ChildProcessError("-9")])
    async def test_failing_decoder_is_unavailable(
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

        pictures.decoder.acquire_on_behalf_of_nowait("another upload")
        async with asyncio.timeout(10):
            response = await upload(client, ada)
        pictures.decoder.release_on_behalf_of("another upload")

        assert response.status_code == 503
        assert response.json() == {"detail": UPLOAD_FAILED}

    async def test_pictures_are_decoded_one_at_a_time(
        self, concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = await sign_up(concurrent_client, "ada")
        lock = threading.Lock()

        def process(content: bytes) -> tuple[bytes, str]:
            assert lock.acquire(blocking=False)
            made = process_profile_image(content)
            lock.release()
            return made

        monkeypatch.setattr(pictures, "process_profile_image", process)
        responses = await asyncio.gather(
            *(upload(concurrent_client, ada) for _ in range(3))
        )

        assert [response.status_code for response in responses] == [200] * 3

    async def test_rejected_file_does_not_wait_for_the_garbage_collector(
        self, client: AsyncClient, ada: dict[str, str]
    ) -> None:
        content = bytes(5_000_000)
        gc.disable()
        tracemalloc.start()

        await upload(client, ada, content)
        kept_bytes, _peak = tracemalloc.get_traced_memory()

        tracemalloc.stop()
        gc.enable()
        assert kept_bytes < len(content)
