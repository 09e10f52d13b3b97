"""Deletion of profile pictures that no longer belong to a user.

Unlike a database, storage has no transactions. Therefore, the deletion of a picture is
scheduled before it is uploaded, and canceled in the transaction that assigns it to a
user. It is scheduled again in the transaction that removes it from the user. If a step
fails, the cleanup deletes the picture later.
"""

import asyncio
import logging
from datetime import timedelta
from itertools import islice

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

import storage
from database import DATABASE_ERRORS, AsyncSessionLocal
from image_utils import FOLDER, delete_profile_image
from models import OrphanedPicture, User, utcnow

logger = logging.getLogger(__name__)

DELETE_TIMEOUT = 3.0
# Must be longer than an upload takes.
GRACE_PERIOD = timedelta(seconds=60)
CLEANUP_INTERVAL = 15.0
# Uploads in progress store their pictures before they assign them to users.
MIN_AGE = timedelta(hours=1)

NEXT_ORPHAN = (
    select(OrphanedPicture)
    .where(OrphanedPicture.delete_after < func.now())
    .order_by(OrphanedPicture.delete_after)
    .limit(1)
    # Other processes may be cleaning up at the same time.
    .with_for_update(skip_locked=True)
)


def schedule_deletion(db: AsyncSession, filename: str) -> None:
    """Schedule the deletion of a picture after the grace period of 60 seconds."""
    db.add(OrphanedPicture(filename=filename, delete_after=func.now() + GRACE_PERIOD))


async def cancel_deletion(db: AsyncSession, filename: str) -> bool:
    """Cancel a scheduled deletion, and return whether that was still possible."""
    scheduled = delete(OrphanedPicture).where(OrphanedPicture.filename == filename)
    return await db.scalar(scheduled.returning(OrphanedPicture.id)) is not None


async def delete_now(filename: str) -> bool:
    """Delete a picture from storage. If that fails, log a warning and return False."""
    try:
        await storage.run_within(DELETE_TIMEOUT, delete_profile_image, filename)
    except (storage.StorageError, TimeoutError) as exc:
        logger.warning("Picture %s not deleted yet: %r", filename, exc)
        return False
    return True


async def run_cleanup() -> None:
    while True:
        await asyncio.sleep(CLEANUP_INTERVAL)
        try:
            async with AsyncSessionLocal() as db:
                await delete_orphans(db)
        except (*DATABASE_ERRORS, OSError) as exc:
            logger.warning("Orphaned pictures not deleted: %s", type(exc).__name__)


async def delete_orphans(db: AsyncSession) -> None:
    """Delete orphaned pictures whose grace period has ended, until a deletion fails.

    A row stays locked while its picture is deleted, so that no upload can cancel the
    deletion halfway.
    """
    is_deleted = True
    while is_deleted and (orphan := await db.scalar(NEXT_ORPHAN)) is not None:
        is_deleted = await delete_now(orphan.filename)
        if is_deleted:
            await db.delete(orphan)
        else:
            # Only this picture may be affected, so try the others first next time.
            orphan.delete_after = func.now() + GRACE_PERIOD
        await db.commit()


async def find_unused(db: AsyncSession) -> tuple[list[str], int]:
    """Return old pictures that belong to no user, and how many are stored in total.

    For example, restoring a database backup can leave such pictures behind.
    """
    newest = utcnow() - MIN_AGE
    files = storage.list_files(FOLDER)
    unused: list[str] = []
    total = 0
    while batch := list(islice(files, 1000)):
        total += len(batch)
        names = {name for name, modified in batch if modified < newest}
        used = select(User.image_file).where(User.image_file.in_(names))
        unused += names.difference(await db.scalars(used))
        # Don't block migrations while the next batch is listed.
        await db.commit()
    return unused, total
