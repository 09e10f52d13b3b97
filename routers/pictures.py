"""Profile pictures: upload and delete."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

import picture_storage
import rate_limit
from config import settings
from database import DbSession
from dependencies import lock_user, own_user
from exceptions import TOO_BUSY, APIError, error_responses
from models import User
from picture_storage import file_too_large
from rate_limit import RateLimit
from schemas import UserPrivateResponse

router = APIRouter(prefix="/api/users", tags=["users"])

UPDATE_FORBIDDEN = APIError(403, "Not authorized to update this user's picture")
DELETE_FORBIDDEN = APIError(403, "Not authorized to delete this user's picture")
NO_PICTURE = APIError(400, "No profile picture to delete")

UserToUpdate = Annotated[User, Depends(own_user(UPDATE_FORBIDDEN))]
UserToDelete = Annotated[User, Depends(own_user(DELETE_FORBIDDEN))]

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
    summary="Upload profile picture",
    response_model=UserPrivateResponse,
    responses=error_responses(
        UPDATE_FORBIDDEN,
        file_too_large(),
        picture_storage.INVALID_IMAGE,
        picture_storage.UPLOAD_FAILED,
        TOO_BUSY,
    ),
    openapi_extra=UPLOAD_FORM,
)
async def upload_picture(request: Request, user: UserToUpdate, db: DbSession) -> User:
    """Upload a profile picture (JPEG, PNG, GIF or WebP) in place of the current one.

    It is cropped to a centered square, resized to 300 x 300 pixels and stored as a JPEG
    without metadata. JPEG may have up to 50 megapixels, the other formats 20.
    """
    # Return the connection to the pool while the file arrives and is decoded.
    await db.commit()
    limit = RateLimit(settings.rate_limit_uploads_per_user, ("upload", str(user.id)))
    await rate_limit.count(limit)
    picture, filename = await picture_storage.picture_from(request)
    await picture_storage.upload(db, picture, filename)
    try:
        await lock_user(db, user)
        replaced = user.image_file
        await picture_storage.replace_picture(db, user, filename)
    except Exception:
        await picture_storage.delete_stored(filename)
        raise
    # If this fails, it may have been committed, so the new picture stays.
    await db.commit()
    await picture_storage.delete_stored(replaced)
    return user


@router.delete(
    "/{user_id}/picture",
    summary="Delete profile picture",
    response_model=UserPrivateResponse,
    responses=error_responses(NO_PICTURE, DELETE_FORBIDDEN),
)
async def delete_picture(user: UserToDelete, db: DbSession) -> User:
    """Delete the profile picture; the default one is used instead."""
    await lock_user(db, user)
    deleted = user.image_file
    if deleted is None:
        raise NO_PICTURE.exception()
    await picture_storage.replace_picture(db, user, None)
    await db.commit()
    await picture_storage.delete_stored(deleted)
    return user
