"""Uploaded pictures: decode and store them, and delete orphaned ones.

Storage has no transactions. So before a picture is stored, and in the transaction in
which a row stops referring to one, its deletion is scheduled; the transaction in which
a row begins to refer to it cancels that. Whatever fails, `delete_orphans` comes later.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import UploadFile

from config import settings
from database import AsyncSessionLocal, DatabaseUnavailable
from exceptions import TOO_BUSY, APIError
from executors import BoundedExecutor, QueueFull
from image_utils import (
    DECODE_TIMEOUT,
    InvalidImage,
    StorageError,
    delete_profile_image,
    process_profile_image,
    upload_profile_image,
)
from models import OrphanedPicture, User

logger = logging.getLogger(__name__)

INVALID_IMAGE = APIError(
    400, "Invalid image file. Please upload a valid image (JPEG, PNG, GIF, WebP)."
)
UPLOAD_FAILED = APIError(
    503, "Failed to upload image. Please try again.", {"Retry-After": "5"}
)
MISSING_FILE = {"type": "missing", "loc": ("body", "file"), "msg": "File required"}

# How many files may be in memory at the same time. While they arrive, Starlette writes
# all beyond their first megabyte to a temporary file.
MAX_UPLOADS = 20
upload_slots = asyncio.Semaphore(MAX_UPLOADS)

# The client of the storage has timeouts too, but not for the queue in front of it.
PUT_TIMEOUT = 10.0
DELETE_TIMEOUT = 3.0
# Longer than it takes from before a picture is stored until a row refers to it.
GRACE_PERIOD = timedelta(seconds=60)
CLEANUP_INTERVAL = 15.0

# Pictures are decoded one at a time.
decoder = CapacityLimiter(1)
storage = BoundedExecutor("storage", max_workers=16, max_queue=48)

NEXT_ORPHAN = (
    select(OrphanedPicture)
    .where(OrphanedPicture.delete_after < func.now())
    .order_by(OrphanedPicture.delete_after)
    .limit(1)
    # Other processes clean up at the same time.
    .with_for_update(skip_locked=True)
)


async def picture_from(request: Request) -> tuple[bytes, str]:
    """Return the avatar made from the file in a multipart form, and its filename.

    The file is not a parameter of the route, because FastAPI would read it before it
    knows the caller.

    Raises:
        HTTPException: 400 if the file is invalid; 503 if the server is too busy.
        RequestValidationError: The form has no file.
    """
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestValidationError([MISSING_FILE])
        if (file.size or 0) > settings.max_upload_size_bytes:
            raise file_too_large().exception()
        async with upload_slot():
            return await decode(await file.read())


@asynccontextmanager
async def upload_slot() -> AsyncIterator[None]:
    """Wait until few enough files are in memory; raise 503 if that takes long."""
    try:
        async with asyncio.timeout(DECODE_TIMEOUT):
            await upload_slots.acquire()
    except TimeoutError as exc:
        raise TOO_BUSY.exception() from exc
    try:
        yield
    finally:
        upload_slots.release()


async def decode(content: bytes) -> tuple[bytes, str]:
    """Return the avatar made from a file; raise 400 or 503 as `picture_from`."""
    try:
        # Once decoding has started, it may finish.
        with fail_after(DECODE_TIMEOUT):
            return await run_sync(process_profile_image, content, limiter=decoder)
    # Without tracebacks, whose cycles would keep the file in memory for a while.
    except InvalidImage as exc:
        raise INVALID_IMAGE.exception() from exc.with_traceback(None)
    except OSError as exc:
        logger.error("Picture not decoded: %r", exc)
        raise UPLOAD_FAILED.exception() from exc.with_traceback(None)


def file_too_large() -> APIError:
    megabytes = round(settings.max_upload_size_bytes / 1024**2, 2)
    return APIError(400, f"File too large. Maximum size is {megabytes:g}MB")


async def upload(db: AsyncSession, picture: bytes, filename: str) -> None:
    """Store a picture; it is deleted again unless `cancel_deletion` follows."""
    schedule_deletion(db, filename)
    await db.commit()
    try:
        async with asyncio.timeout(PUT_TIMEOUT):
            await storage.run(upload_profile_image, picture, filename)
    except (StorageError, QueueFull, TimeoutError) as exc:
        logger.error("Picture not stored: %r", exc)
        raise UPLOAD_FAILED.exception() from exc


def schedule_deletion(db: AsyncSession, filename: str) -> None:
    """Have a picture deleted some time after the current transaction."""
    db.add(OrphanedPicture(filename=filename, delete_after=func.now() + GRACE_PERIOD))


async def cancel_deletion(db: AsyncSession, filename: str) -> None:
    """Keep a picture, as a row refers to it; raise 503 if it is deleted already."""
    canceled = delete(OrphanedPicture).where(OrphanedPicture.filename == filename)
    if await db.scalar(canceled.returning(OrphanedPicture.id)) is None:
        raise UPLOAD_FAILED.exception()


async def replace_picture(db: AsyncSession, user: User, filename: str | None) -> None:
    """Let a locked row refer to another picture, or none, from the commit on."""
    if user.image_file is not None:
        schedule_deletion(db, user.image_file)
    if filename is not None:
        await cancel_deletion(db, filename)
    user.image_file = filename
    await db.flush()


async def delete_stored(filename: str | None) -> bool:
    """Delete a picture to which no row refers; return whether it is gone."""
    if filename is None:
        return True
    try:
        async with asyncio.timeout(DELETE_TIMEOUT):
            await storage.run(delete_profile_image, filename)
    except (StorageError, QueueFull, TimeoutError) as exc:
        logger.warning("Picture %s not deleted yet: %r", filename, exc)
        return False
    return True


# Orphan cleanup


async def run_cleanup() -> None:
    while True:
        await asyncio.sleep(CLEANUP_INTERVAL)
        try:
            async with AsyncSessionLocal() as db:
                await delete_orphans(db)
        except (SQLAlchemyError, DatabaseUnavailable, OSError, TimeoutError) as exc:
            logger.warning("Orphaned pictures not deleted: %s", type(exc).__name__)


async def delete_orphans(db: AsyncSession) -> None:
    """Delete the orphaned pictures that are due, up to the first that can't be.

    Each row stays locked until then, so that no upload cancels the deletion.
    """
    is_deleted = True
    while is_deleted and (orphan := await db.scalar(NEXT_ORPHAN)) is not None:
        is_deleted = await delete_stored(orphan.filename)
        if is_deleted:
            await db.delete(orphan)
        else:
            # The storage may be unavailable, or only this picture: others come first.
            orphan.delete_after = func.now() + GRACE_PERIOD
        await db.commit()
