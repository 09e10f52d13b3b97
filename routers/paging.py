"""Pagination: by number of entries, or after the last entry of the previous page."""

import asyncio
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple, Self
from urllib.parse import quote, urlencode

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError

from config import settings
from database import MAX_ID
from workers import QueueFull

MAX_PAGE_LENGTH = 100

# A page of a hundred of the longest posts takes some 100 MB while it is built.
SHORT_LENGTH = 20
TURN_SECONDS = 0.3
_long_lists = asyncio.Semaphore(2)
EPOCH = datetime.fromtimestamp(0, UTC)
# Microseconds since the epoch, id, position.
CURSOR_FORMAT = struct.Struct(">qii")


class Cursor(NamedTuple):
    """The post after which a list continues."""

    date_posted: datetime
    post_id: int
    position: int
    """How many posts the list had up to this one when the cursor was made."""

    def encode(self) -> str:
        microseconds = (self.date_posted - EPOCH) // timedelta(microseconds=1)
        packed = CURSOR_FORMAT.pack(microseconds, self.post_id, self.position)
        return urlsafe_b64encode(packed).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a cursor; raise a 422 if no post can have its values."""
        try:
            packed = b64decode(text, altchars=b"-_", validate=True)
            microseconds, *place = CURSOR_FORMAT.unpack(packed)
            cursor = cls(EPOCH + timedelta(microseconds=microseconds), *place)
        except (ValueError, OverflowError, struct.error) as error:
            raise bad_cursor("cannot be decoded") from error
        if cursor.post_id < 1 or cursor.position < 0:
            raise bad_cursor("names no post")
        return cursor


def bad_cursor(message: str) -> RequestValidationError:
    """Return the 422 for a cursor that cannot be used."""
    return RequestValidationError(
        [{"type": "cursor", "loc": ("query", "cursor"), "msg": f"The cursor {message}"}]
    )


Skip = Annotated[int, Query(ge=0, le=MAX_ID, description="How many entries to skip.")]
Limit = Annotated[
    int, Query(ge=1, le=MAX_PAGE_LENGTH, description="The maximum number of entries.")
]
CursorText = Annotated[
    str | None,
    Query(
        max_length=64,
        description="The `next_cursor` of the previous page. Unlike `skip`, it neither "
        "repeats nor omits a post while others publish and delete; not with `skip`.",
    ),
]


@dataclass(frozen=True)
class Window:
    """Which page of a list of posts the client asks for."""

    skip: int
    limit: int
    cursor: Cursor | None = None


async def get_window(
    skip: Skip = 0,
    limit: Limit = settings.posts_per_page,
    cursor: CursorText = None,
) -> AsyncIterator[Window]:
    """Yield the page that the query asks for; build only two long ones at a time."""
    if cursor is not None and skip:
        raise bad_cursor("cannot go together with skip")
    window = Window(skip, limit, None if cursor is None else Cursor.decode(cursor))
    if limit <= SHORT_LENGTH:
        yield window
        return
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await _long_lists.acquire()
    except TimeoutError as error:
        raise QueueFull("long lists") from error
    try:
        yield window
    finally:
        _long_lists.release()


QueriedWindow = Annotated[Window, Depends(get_window)]


def link_to_next(request: Request, query: Mapping[str, object]) -> str:
    """Return the value of `Link` that leads to the next page (RFC 8288)."""
    return f'<{quote(request.scope["path"])}?{urlencode(query)}>; rel="next"'
