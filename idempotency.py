"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
from datetime import timedelta
from typing import Annotated

from fastapi import Header
from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from database import LOCK_NOT_AVAILABLE, sqlstate
from exceptions import KEY_REUSED, REQUEST_IN_PROGRESS
from models import MAX_IDEMPOTENCY_KEY_LENGTH, IdempotencyKey, User, utcnow

KEY_TTL = timedelta(hours=24)
MAX_PRUNED = 100

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_IDEMPOTENCY_KEY_LENGTH,
        pattern="^[ -~]+$",
        description="1 to 255 printable ASCII characters of your choice. For 24 hours, "
        "repeating the request with the same key returns the same post instead of "
        "publishing another one.",
    ),
]


async def claim(
    db: AsyncSession, user: User, key: str, request: str
) -> tuple[IdempotencyKey, bool]:
    """Return the row for a key, and whether this request is the first to use it.

    The first request keeps the row locked until its transaction ends.

    Raises:
        HTTPException: 409 if another request keeps the row locked for too long, 422 if
            the key was used for a different request.
    """
    fingerprint = hashlib.sha256(request.encode()).hexdigest()
    fresh = {"fingerprint": fingerprint, "created_at": utcnow()}
    is_expired = IdempotencyKey.created_at < utcnow() - KEY_TTL
    statement = (
        insert(IdempotencyKey)
        .values(user_id=user.id, key=key, **fresh)
        .on_conflict_do_update(
            index_elements=["user_id", "key"], set_=fresh, where=is_expired
        )
        .returning(IdempotencyKey)
    )
    # A longer wait would occupy a database connection.
    await db.execute(text("SET LOCAL lock_timeout = '1s'"))
    try:
        claimed = await db.scalar(statement)
    except DBAPIError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise REQUEST_IN_PROGRESS.exception() from error
        raise
    if claimed is not None:
        await _prune(db)
        return claimed, True
    used = await db.scalar(select(IdempotencyKey).filter_by(user_id=user.id, key=key))
    if used is None:
        # The user and the key have been deleted since the insert. A retry gets a 401.
        raise REQUEST_IN_PROGRESS.exception()
    if used.fingerprint != fingerprint:
        raise KEY_REUSED.exception()
    return used, False


async def _prune(db: AsyncSession) -> None:
    expired = (
        select(IdempotencyKey.id)
        .where(IdempotencyKey.created_at < utcnow() - KEY_TTL)
        .limit(MAX_PRUNED)
        .with_for_update(skip_locked=True)
    )
    await db.execute(delete(IdempotencyKey).where(IdempotencyKey.id.in_(expired)))
