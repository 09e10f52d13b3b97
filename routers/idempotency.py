"""Requests that can be repeated without being carried out twice.

The IETF's draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-
idempotency-key-header) rules.
"""

import hashlib
from datetime import timedelta
from typing import Annotated

from fastapi import Header
from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from database import LOCK_NOT_AVAILABLE, sqlstate
from models import IDEMPOTENCY_KEY_LENGTH, IdempotencyKey, User, now
from problems import Problem

KEPT = timedelta(hours=24)
# A repeated request waits so long for the first one; longer would keep connections.
LOCK_SECONDS = 1
PRUNED_AT_ONCE = 100

KEY_REUSED = Problem(422, "Idempotency-Key was used for another request")
STILL_RUNNING = Problem(
    409, "A request with this Idempotency-Key is still running", {"Retry-After": "1"}
)

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=IDEMPOTENCY_KEY_LENGTH,
        pattern="^[ -~]+$",
        description="A random text of your own, 1 to 255 printable ASCII characters. "
        "Repeat it with the same body when you do not know whether a request arrived: "
        "for 24 hours the answer is the first one, and nothing is published twice.",
    ),
]


async def claim(db: AsyncSession, user: User, key: str, request: str) -> IdempotencyKey:
    """Make a key one's own until the commit, or find the answer that it has.

    A request with the same key that is being carried out is waited for: what this
    transaction holds is its lock.

    Raises:
        HTTPException: 409, when that takes long; 422, when the key was another
            request's.
        IntegrityError: The user has been deleted meanwhile.
    """
    fingerprint = hashlib.sha256(request.encode()).hexdigest()
    claimed = await _insert(db, user, key, fingerprint)
    if claimed is not None:
        await _prune(db)
        return claimed
    mine = IdempotencyKey.user_id == user.id
    statement = select(IdempotencyKey).where(mine, IdempotencyKey.key == key)
    before = await db.scalar(statement)
    if before is None:
        # It went in between, with its user: the next try will tell.
        raise STILL_RUNNING.error()
    if before.fingerprint != fingerprint:
        raise KEY_REUSED.error()
    return before


async def _insert(
    db: AsyncSession, user: User, key: str, fingerprint: str
) -> IdempotencyKey | None:
    """The row of a key that is new, or has been kept long enough."""
    fresh = {"fingerprint": fingerprint, "answer": "", "created_at": now()}
    statement = (
        insert(IdempotencyKey)
        .values(user_id=user.id, key=key, **fresh)
        .on_conflict_do_update(
            index_elements=["user_id", "key"],
            set_=fresh,
            where=IdempotencyKey.created_at < now() - KEPT,
        )
        .returning(IdempotencyKey)
    )
    await db.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    try:
        return await db.scalar(statement)
    except DBAPIError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise STILL_RUNNING.error() from error
        raise


async def _prune(db: AsyncSession) -> None:
    """Delete some of the keys that have been kept long enough."""
    old = (
        select(IdempotencyKey.id)
        .where(IdempotencyKey.created_at < now() - KEPT)
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    await db.execute(delete(IdempotencyKey).where(IdempotencyKey.id.in_(old)))
