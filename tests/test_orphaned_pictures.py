"""Deletion of pictures that no longer belong to a user."""

import asyncio
import os
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

import orphaned_pictures
from config import settings
from database import AsyncSessionLocal, DatabaseUnavailable
from image_utils import upload_profile_image
from models import OrphanedPicture, utcnow
from orphaned_pictures import delete_orphans, find_unused
from routers import pictures
from storage import StorageError
from tests.conftest import list_objects, upload_picture

DAY = timedelta(days=1)


async def scheduled(db: AsyncSession) -> list[str]:
    """Return the pictures whose deletion is scheduled."""
    return list((await db.scalars(select(OrphanedPicture.filename))).all())


async def add_orphans(db: AsyncSession, *filenames: str) -> None:
    """Schedule deletions that are already due, in this order."""
    db.add_all(
        OrphanedPicture(filename=name, delete_after=utcnow() - DAY / number)
        for number, name in enumerate(filenames, 1)
    )
    await db.commit()


async def clean_up(db: AsyncSession) -> None:
    """Delete orphaned pictures as if the grace period were over."""
    await db.execute(update(OrphanedPicture).values(delete_after=utcnow() - DAY))
    await db.commit()
    await delete_orphans(db)


@pytest.fixture
def failing_deletion(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make all deletions except that of `b.jpg` fail, and return the attempts."""
    attempts = []

    def fail(filename: str) -> None:
        attempts.append(filename)
        if filename != "b.jpg":
            raise StorageError("access denied")

    monkeypatch.setattr(orphaned_pictures, "delete_profile_image", fail)
    return attempts


class TestDeleteOrphans:
    async def test_pictures_are_deleted(self, db, bucket):
        upload_profile_image(b"a picture", "a.jpg")
        await add_orphans(db, "a.jpg", "missing.jpg")

        await delete_orphans(db)

        assert list_objects(bucket) == []
        assert await scheduled(db) == []

    async def test_grace_period(self, db, bucket):
        await pictures.store_avatar(db, b"a picture", "a.jpg")

        await delete_orphans(db)

        assert list_objects(bucket) == ["profile_pics/a.jpg"]
        assert await scheduled(db) == ["a.jpg"]

    async def test_failure_ends_the_round(self, db, failing_deletion):
        await add_orphans(db, "a.jpg", "b.jpg")

        await delete_orphans(db)

        assert failing_deletion == ["a.jpg"]
        assert sorted(await scheduled(db)) == ["a.jpg", "b.jpg"]

    async def test_failure_does_not_block_others(self, db, failing_deletion):
        await add_orphans(db, "a.jpg", "b.jpg")

        await delete_orphans(db)
        await delete_orphans(db)

        assert await scheduled(db) == ["a.jpg"]

    async def test_processes_skip_each_others_pictures(
        self, concurrent_client, monkeypatch
    ):
        loop = asyncio.get_running_loop()
        deleted = []

        async def clean_up_elsewhere() -> None:
            async with AsyncSessionLocal() as other:
                await delete_orphans(other)

        def delete(filename: str) -> None:
            deleted.append(filename)
            asyncio.run_coroutine_threadsafe(clean_up_elsewhere(), loop).result()

        monkeypatch.setattr(orphaned_pictures, "delete_profile_image", delete)
        async with AsyncSessionLocal() as db:
            await add_orphans(db, "a.jpg")

            await delete_orphans(db)

        assert deleted == ["a.jpg"]


class TestOutage:
    async def test_pictures_are_deleted_later(
        self, client, ada, db, bucket, failing_deletion, monkeypatch
    ):
        await upload_picture(client, ada)
        user = (await upload_picture(client, ada)).json()
        response = await client.delete(f"/api/users/{user['id']}", headers=ada)
        stored = list_objects(bucket)
        monkeypatch.undo()

        await clean_up(db)

        assert (response.status_code, len(stored)) == (204, 2)
        assert list_objects(bucket) == []
        assert await scheduled(db) == []

    async def test_picture_of_failed_upload_is_deleted_later(
        self, client, ada, db, bucket, monkeypatch
    ):
        def store_and_fail(content: bytes, filename: str) -> None:
            upload_profile_image(content, filename)
            raise StorageError("no response")

        monkeypatch.setattr(pictures, "upload_profile_image", store_and_fail)
        response = await upload_picture(client, ada)
        stored = list_objects(bucket)

        await clean_up(db)

        assert (response.status_code, len(stored)) == (503, 1)
        assert list_objects(bucket) == []


class TestFindUnused:
    async def test_bucket(self, client, ada, db, bucket, monkeypatch):
        await upload_picture(client, ada)
        for name in ("", "a.jpg"):
            upload_profile_image(b"a picture", name)

        new = await find_unused(db)
        monkeypatch.setattr(orphaned_pictures, "MIN_AGE", timedelta(0))
        old = await find_unused(db)

        assert (new, old) == (([], 2), (["a.jpg"], 2))

    async def test_files(self, db, monkeypatch, tmp_path):
        monkeypatch.setattr(settings, "s3_bucket_name", None)
        monkeypatch.setattr(settings, "var_dir", tmp_path)
        missing = await find_unused(db)
        for number in range(1001):
            upload_profile_image(b"", f"{number}.jpg")
        os.utime(tmp_path / "media" / "profile_pics" / "7.jpg", (0, 0))

        assert missing == ([], 0)
        assert await find_unused(db) == (["7.jpg"], 1001)


class TestRunCleanup:
    async def test_continues_after_an_error(self, monkeypatch, caplog):
        second_round = asyncio.Event()
        errors = [DatabaseUnavailable()]

        async def fail_once(_db: AsyncSession) -> None:
            if errors:
                raise errors.pop()
            second_round.set()

        monkeypatch.setattr(orphaned_pictures, "CLEANUP_INTERVAL", 0.01)
        monkeypatch.setattr(orphaned_pictures, "delete_orphans", fail_once)
        cleanup = asyncio.create_task(orphaned_pictures.run_cleanup())

        async with asyncio.timeout(30):
            await second_round.wait()

        cleanup.cancel()
        assert "DatabaseUnavailable" in caplog.text
