"""From an upload to a stored picture, and what becomes of those nobody needs.

A picture is an object in a store that knows no transactions. So before an object is
made, and in the transaction in which a row stops naming one, a note is written that it
is to be deleted; the transaction in which a row begins to name it takes the note back.
Whatever fails in between, `delete_leftovers` finds the note.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, Self, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from python_multipart.exceptions import FormParserError
from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

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

# What arrives at the same time is kept in memory up to here; more has to come again.
# One user takes a quarter of the room and no more, and one picture always fits.
MOST_BUFFERED_BYTES_OF_ONE = max(24 * 1024 * 1024, 2 * settings.max_upload_size_bytes)
MOST_BUFFERED_BYTES = 4 * MOST_BUFFERED_BYTES_OF_ONE

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
decoders = Workers("pictures", threads=1, waiting=63)
storage = Workers("storage", threads=16, waiting=48)


def file_too_large() -> Problem:
    """What is said about a file above the limit, which is a setting."""
    megabytes = round(settings.max_upload_size_bytes / 1024**2, 2)
    return Problem(400, f"File too large. Maximum size is {megabytes:g}MB")


# Uploads


class Buffer:
    """What one upload keeps in memory, as part of what all of them do."""

    used_bytes: ClassVar[Counter[int]] = Counter()
    """How much the uploads of each user keep, by the user's id."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.own_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.used_bytes[self.user_id] -= self.own_bytes
        if not self.used_bytes[self.user_id]:
            del self.used_bytes[self.user_id]

    async def fill(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass on what arrives.

        Raises:
            HTTPException: 503, when all uploads together, or those of one user, are too
                much.
        """
        async for chunk in chunks:
            self.own_bytes += len(chunk)
            self.used_bytes[self.user_id] += len(chunk)
            if (
                self.used_bytes.total() > MOST_BUFFERED_BYTES
                or self.used_bytes[self.user_id] > MOST_BUFFERED_BYTES_OF_ONE
            ):
                # What is still on its way is not read.
                raise TOO_BUSY.error(Connection="close")
            yield chunk


async def picture_from(request: Request, user: User) -> tuple[bytes, str]:
    """The avatar that the file in a request makes, and the name to store it under.

    Raises:
        HTTPException: 400, when the file is too large or no picture; 413, when the body
            is too large; 503, when too many pictures arrive.
        RequestValidationError: The body is no form that has a file, or does not arrive.
        Busy: Too many pictures wait to be decoded.
    """
    with Buffer(user.id) as buffer:
        content = await read_file(request, buffer)
        try:
            async with asyncio.timeout(DECODE_TIMEOUT):
                return await decoders.run(process_profile_image, content)
        except InvalidImage as exc:
            raise INVALID_IMAGE.error() from exc
        except OSError as exc:
            logger.error("Picture not decoded: %r", exc)
            raise UPLOAD_FAILED.error() from exc


async def read_file(request: Request, buffer: Buffer) -> bytes:
    """The file in a multipart form (RFC 7578).

    It is read here and not by a parameter of the route: those are read before the
    caller is known.

    Raises:
        HTTPException: 400, when the file is too large; 413, when the body is; 503, when
            too many arrive.
        RequestValidationError: It is no such form, or has no file.
    """
    limit = settings.max_upload_size_bytes
    media_type = request.headers.get("content-type", "").partition(";")[0]
    if media_type.strip().lower() != "multipart/form-data":
        raise missing_file("must be sent as multipart/form-data")
    chunks = buffer.fill(request.stream())
    # Starlette asks for a generator, which is more than it uses.
    parser = MultiPartParser(request.headers, cast("Any", chunks), max_files=1)
    parser.max_fields = 10
    # In memory: what is within the limit needs no file on the disk.
    parser.spool_max_size = limit + 1
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeDecodeError) as error:
        raise missing_file("cannot be found: the form is malformed") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise missing_file("is missing")
        if (file.size or 0) > limit:
            raise file_too_large().error()
        return await file.read()
    finally:
        await form.close()


def missing_file(message: str) -> RequestValidationError:
    """The 422 of an upload that has no readable file."""
    return RequestValidationError(
        [{"type": "missing", "loc": ("body", "file"), "msg": f"The file {message}"}]
    )


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
