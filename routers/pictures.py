"""From an upload to a stored picture, and what becomes of those nobody needs.

A picture is an object in a store that knows no transactions. So before an object is
made, and in the transaction in which a row stops naming one, a note is written that it
is to be deleted; the transaction in which a row begins to name it takes the note back.
Whatever fails in between, `delete_leftovers` finds the note.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser

from config import settings
from database import AsyncSessionLocal, DatabaseUnavailable
from image_utils import (
    DECODE_TIMEOUT,
    InvalidImage,
    StorageError,
    delete_profile_image,
    process_profile_image,
    upload_profile_image,
)
from models import DiscardedPicture, User
from problems import TOO_BUSY, Problem
from workers import Busy, Workers

logger = logging.getLogger(__name__)

INVALID_IMAGE = Problem(
    400, "Invalid image file. Please upload a valid image (JPEG, PNG, GIF, WebP)."
)
UPLOAD_FAILED = Problem(
    503, "Failed to upload image. Please try again.", {"Retry-After": "5"}
)
MISSING_FILE = {"type": "missing", "loc": ("body", "file"), "msg": "File required"}

# Each is kept in memory until it is decoded, and not on disk, which may be read-only.
MAX_UPLOADS = 20
MAX_UPLOADS_PER_USER = 5
MultiPartParser.spool_max_size = settings.max_upload_size_bytes + 1
uploads: list[int] = []
"""The user ids of the uploads in progress."""

# The client of the store gives up by itself; a queue in front of it can be long.
PUT_SECONDS = 10.0
# Nobody has to wait for a deletion: it is done again later.
DELETE_SECONDS = 3.0

# Longer than it takes from the note that a picture is to go, which is written before it
# is stored, to the row that needs it.
GRACE = timedelta(seconds=60)
HEALING_SECONDS = 15.0
# One can be the picture's fault, so many are the store's.
FAILURES_OF_A_STORE = 3
DELETED_AT_ONCE = 100

# This thread waits for the process that decodes pictures, one at a time.
decoder = Workers("decoder", threads=1, waiting=MAX_UPLOADS)
storage = Workers("storage", threads=16, waiting=48)


async def picture_from(request: Request, user: User) -> tuple[bytes, str]:
    """Return the avatar made from the file in a request, and its filename.

    Raises:
        HTTPException: 400, if the file is invalid; 503, if the server is too busy.
    """
    with upload_slot(user.id):
        content = await read_file(request)
        try:
            async with asyncio.timeout(DECODE_TIMEOUT):
                return await decoder.run(process_profile_image, content)
        except InvalidImage as exc:
            raise INVALID_IMAGE.error() from exc
        except OSError as exc:
            logger.error("Picture not decoded: %r", exc)
            raise UPLOAD_FAILED.error() from exc


@contextmanager
def upload_slot(user_id: int) -> Iterator[None]:
    """Count an upload, and reject it if too many are in progress."""
    if len(uploads) >= MAX_UPLOADS or uploads.count(user_id) >= MAX_UPLOADS_PER_USER:
        # Nothing reads the body, so the connection can't be used again.
        raise TOO_BUSY.error(Connection="close")
    uploads.append(user_id)
    try:
        yield
    finally:
        uploads.remove(user_id)


async def read_file(request: Request) -> bytes:
    """Return the file in a multipart form (RFC 7578).

    Not a parameter of the route, which FastAPI would read before it knows the caller.
    """
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestValidationError([MISSING_FILE])
        if (file.size or 0) > settings.max_upload_size_bytes:
            raise file_too_large().error()
        return await file.read()


def file_too_large() -> Problem:
    """Return the error for a file above the limit, which is a setting."""
    megabytes = round(settings.max_upload_size_bytes / 1024**2, 2)
    return Problem(400, f"File too large. Maximum size is {megabytes:g}MB")


# Storing


async def store(db: AsyncSession, picture: bytes, filename: str) -> None:
    """Put a picture into the store; it goes again unless `keep` follows.

    Raises:
        HTTPException: 503, when it could not be stored, or nobody knows whether it was.
    """
    discard(db, filename)
    await db.commit()
    try:
        async with asyncio.timeout(PUT_SECONDS):
            await storage.run(upload_profile_image, picture, filename)
    except (StorageError, Busy, TimeoutError) as error:
        logger.error("Picture not stored: %s", cause(error))
        raise UPLOAD_FAILED.error() from error


def discard(db: AsyncSession, filename: str) -> None:
    """Note, in the present transaction, that a picture is to be deleted."""
    db.add(DiscardedPicture(filename=filename, delete_after=func.now() + GRACE))


async def keep(db: AsyncSession, filename: str) -> None:
    """Take the note back: from the commit on a row names the picture.

    Raises:
        HTTPException: 503, when it is too late, as the picture has been deleted.
    """
    statement = delete(DiscardedPicture).where(DiscardedPicture.filename == filename)
    result = await db.execute(statement)
    if cast("CursorResult[Any]", result).rowcount == 0:
        raise UPLOAD_FAILED.error()


async def replace_picture(db: AsyncSession, user: User, filename: str | None) -> None:
    """Let a locked row name another picture, or none, from the commit on."""
    if user.image_file is not None:
        discard(db, user.image_file)
    if filename is not None:
        await keep(db, filename)
    user.image_file = filename
    await db.flush()


async def delete_stored(filename: str | None) -> bool:
    """Delete a picture that no row names any more, if the store is there."""
    if filename is None:
        return True
    try:
        async with asyncio.timeout(DELETE_SECONDS):
            await storage.run(delete_profile_image, filename)
    except (StorageError, Busy, TimeoutError) as error:
        logger.warning("Picture %s is left over for now: %s", filename, cause(error))
        return False
    return True


def cause(error: Exception) -> str:
    """What went wrong, for the log; a timeout has no text of its own."""
    return str(error) or type(error).__name__


# Healing


async def keep_healing() -> None:
    """Delete, again and again, what should have gone."""
    while True:
        await asyncio.sleep(HEALING_SECONDS)
        try:
            async with AsyncSessionLocal() as db:
                await delete_leftovers(db)
        except (SQLAlchemyError, DatabaseUnavailable, OSError, TimeoutError) as error:
            logger.warning("No leftover pictures deleted: %s", type(error).__name__)


async def delete_leftovers(db: AsyncSession) -> None:
    """Delete the pictures that are due, and the notes about them."""
    while leftovers := await claim_leftovers(db):
        deleted = []
        left = 0
        for filename in leftovers:
            if await delete_stored(filename):
                deleted.append(filename)
            elif (left := left + 1) == FAILURES_OF_A_STORE:
                break
        gone = DiscardedPicture.filename.in_(deleted)
        await db.execute(delete(DiscardedPicture).where(gone))
        await db.commit()
        if len(deleted) < len(leftovers):
            # The store is away: the claim keeps the rest for the next time.
            return


async def claim_leftovers(db: AsyncSession) -> Sequence[str]:
    """Some pictures that are due; nobody else sees them for a while."""
    due = (
        select(DiscardedPicture.id)
        .where(DiscardedPicture.delete_after < func.now())
        .order_by(DiscardedPicture.delete_after)
        .limit(DELETED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    claimed = await db.scalars(
        update(DiscardedPicture)
        .where(DiscardedPicture.id.in_(due))
        .values(delete_after=func.now() + GRACE)
        .returning(DiscardedPicture.filename)
        .execution_options(synchronize_session=False)
    )
    leftovers = claimed.all()
    await db.commit()
    return leftovers
