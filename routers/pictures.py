"""Profile pictures: upload and delete."""

import logging
from typing import Annotated, BinaryIO

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import UploadFile

import orphaned_pictures
import rate_limit
import storage
from config import settings
from database import DbSession
from dependencies import lock_user, own_user
from exceptions import (
    DELETE_PICTURE_FORBIDDEN,
    INVALID_IMAGE,
    NO_PICTURE,
    UPDATE_PICTURE_FORBIDDEN,
    UPLOAD_FAILED,
    error_responses,
    file_too_large,
)
from image_utils import (
    DECODE_TIMEOUT,
    InvalidImage,
    process_profile_image,
    upload_profile_image,
)
from models import User
from rate_limit import RateLimit
from schemas import UserPrivateResponse

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/users", tags=["users"])

UserToUpdate = Annotated[User, Depends(own_user(UPDATE_PICTURE_FORBIDDEN))]
UserToDelete = Annotated[User, Depends(own_user(DELETE_PICTURE_FORBIDDEN))]

decoder_limiter = CapacityLimiter(1)
UPLOAD_TIMEOUT = 10.0

MISSING_FILE = {"type": "missing", "loc": ("body", "file"), "msg": "File required"}
# Declared by hand, because the route parses the form itself.
UPLOAD_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A picture of at most "
                            f"{settings.max_upload_size_bytes:,} bytes.",
                        }
                    },
                }
            }
        },
    }
}


@router.patch(
    "/{user_id}/picture",
    summary="Upload a profile picture",
    response_model=UserPrivateResponse,
    responses=error_responses(
        UPDATE_PICTURE_FORBIDDEN, file_too_large(), INVALID_IMAGE, UPLOAD_FAILED
    ),
    openapi_extra=UPLOAD_FORM,
)
async def upload_picture(request: Request, user: UserToUpdate, db: DbSession) -> User:
    """Upload a profile picture (JPEG, PNG, GIF or WebP), replacing the current one.

    The picture is cropped to a centered square, resized to 300 x 300 pixels, and stored
    as a JPEG without metadata. JPEG uploads can have up to 50 megapixels, and other
    formats up to 20.
    """
    # Return the connection to the pool while the file arrives and is decoded.
    await db.commit()
    limit = RateLimit(settings.rate_limit_uploads_per_user, ("upload", str(user.id)))
    await rate_limit.hit(limit)
    avatar, filename = await read_avatar(request)
    await store_avatar(db, avatar, filename)
    try:
        await lock_user(db, user)
        replaced = await replace_picture(db, user, filename)
    except Exception:
        await orphaned_pictures.delete_now(filename)
        raise
    # If the commit fails, it may still have taken effect, so keep the new picture.
    await db.commit()
    if replaced is not None:
        await orphaned_pictures.delete_now(replaced)
    return user


async def read_avatar(request: Request) -> tuple[bytes, str]:
    """Return an avatar of the picture in a multipart form, and its new filename.

    The file isn't a parameter of the route, because FastAPI would read it before it
    authenticates the caller.

    Raises:
        HTTPException: 400 if the file is invalid, 503 if the decoder fails or is busy.
        RequestValidationError: The form has no file.
    """
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestValidationError([MISSING_FILE])
        if (file.size or 0) > settings.max_upload_size_bytes:
            raise file_too_large().exception()
        return await decode(file.file)


async def decode(file: BinaryIO) -> tuple[bytes, str]:
    """Decode a file. If another one is being decoded, wait for up to 15 seconds."""
    try:
        # The timeout only applies until the thread starts.
        with fail_after(DECODE_TIMEOUT):
            return await run_sync(read_and_process, file, limiter=decoder_limiter)
    # Remove the tracebacks, whose reference cycles would keep the file in memory.
    except InvalidImage as exc:
        raise INVALID_IMAGE.exception() from exc.with_traceback(None)
    except OSError as exc:
        logger.error("Picture not decoded: %r", exc)
        raise UPLOAD_FAILED.exception() from exc.with_traceback(None)


def read_and_process(file: BinaryIO) -> tuple[bytes, str]:
    # Files over 1 MB stay on disk until this line reads them into memory.
    return process_profile_image(file.read())


async def store_avatar(db: AsyncSession, avatar: bytes, filename: str) -> None:
    """Store an avatar. The cleanup deletes it later unless it is assigned to a user."""
    orphaned_pictures.schedule_deletion(db, filename)
    await db.commit()
    try:
        await storage.run_within(UPLOAD_TIMEOUT, upload_profile_image, avatar, filename)
    except (storage.StorageError, TimeoutError) as exc:
        logger.error("Picture not stored: %r", exc)
        raise UPLOAD_FAILED.exception() from exc


async def replace_picture(
    db: AsyncSession, user: User, filename: str | None
) -> str | None:
    """Set or remove the picture of a locked user, and return the old filename.

    Raises:
        HTTPException: 503 if the cleanup has already deleted the new picture.
    """
    replaced = user.image_file
    if replaced is not None:
        orphaned_pictures.schedule_deletion(db, replaced)
    if filename and not await orphaned_pictures.cancel_deletion(db, filename):
        raise UPLOAD_FAILED.exception()
    user.image_file = filename
    await db.flush()
    return replaced


@router.delete(
    "/{user_id}/picture",
    summary="Delete a profile picture",
    response_model=UserPrivateResponse,
    responses=error_responses(NO_PICTURE, DELETE_PICTURE_FORBIDDEN),
)
async def delete_picture(user: UserToDelete, db: DbSession) -> User:
    """Delete your profile picture. The default picture is shown instead."""
    await lock_user(db, user)
    deleted = await replace_picture(db, user, None)
    if deleted is None:
        raise NO_PICTURE.exception()
    await db.commit()
    await orphaned_pictures.delete_now(deleted)
    return user
