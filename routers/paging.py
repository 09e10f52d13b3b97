"""Parts of lists: by number of entries, or on from where the part before ended."""

import asyncio
import hashlib
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple, Self
from urllib.parse import quote, urlencode

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError

from config import settings
from database import MAX_ID
from workers import Busy

MAX_PAGE_LENGTH = 100

# While it is made, the longest list of the longest posts takes some 100 MB. With more
# at once each would only be ready later.
SHORT_LENGTH = 20
LONG_LISTS = 2
TURN_SECONDS = 0.3
_long_lists = asyncio.Semaphore(LONG_LISTS)

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)
PLACE = struct.Struct(">qii")
SEAL_BYTES = 8


class Cursor(NamedTuple):
    """The place in a list of posts after which it goes on."""

    date_posted: datetime
    post_id: int
    position: int
    """How many posts came up to here, when the cursor was made."""

    def encode(self, list_id: int) -> str:
        """The cursor as text: sealed, so that it fits the list that it was made for."""
        microseconds = (self.date_posted - EPOCH) // MICROSECOND
        place = PLACE.pack(microseconds, self.post_id, self.position)
        return urlsafe_b64encode(seal(place, list_id) + place).decode()

    @classmethod
    def decode(cls, text: str, list_id: int) -> Self:
        """Read a cursor of the list with this id.

        Raises:
            RequestValidationError: It is none, or one of another list.
        """
        try:
            sealed = urlsafe_b64decode(text)
        except ValueError:
            sealed = b""
        place = sealed[SEAL_BYTES:]
        # Compared whole: other texts can stand for the same bytes.
        if len(place) != PLACE.size or not hmac.compare_digest(
            urlsafe_b64encode(seal(place, list_id) + place), text.encode()
        ):
            raise bad_cursor("is none of this list")
        microseconds, post_id, position = PLACE.unpack(place)
        return cls(EPOCH + microseconds * MICROSECOND, post_id, position)


def seal(place: bytes, list_id: int) -> bytes:
    """What only this installation can put before a place."""
    message = b"cursor %d %s" % (list_id, place)
    key = settings.signing_key.encode()
    return hmac.new(key, message, hashlib.sha256).digest()[:SEAL_BYTES]


def bad_cursor(message: str) -> RequestValidationError:
    """The 422 of a cursor that leads nowhere."""
    return RequestValidationError(
        [{"type": "cursor", "loc": ("query", "cursor"), "msg": f"The cursor {message}"}]
    )


Skip = Annotated[
    int,
    Query(ge=0, le=MAX_ID, description="How many entries to pass over."),
]
Limit = Annotated[
    int, Query(ge=1, le=MAX_PAGE_LENGTH, description="How many entries at the most.")
]
CursorText = Annotated[
    str | None,
    Query(
        max_length=64,
        description="Where to go on: the `next_cursor` of the part before. Unlike "
        "`skip`, it neither repeats nor leaves out a post when others are published "
        "or deleted meanwhile. Not together with `skip`.",
    ),
]


@dataclass(frozen=True)
class Window:
    """Which part of a list of posts is asked for."""

    skip: int
    limit: int
    cursor: str | None = None


# async: FastAPI would call a plain function in a thread, and wait for it.
async def get_window(
    skip: Skip = 0,
    limit: Limit = settings.posts_per_page,
    cursor: CursorText = None,
) -> AsyncIterator[Window]:
    """The part of a list that the query names; a long one when it is its turn.

    Raises:
        RequestValidationError: It names two beginnings.
        Busy: Very many long lists are being made.
    """
    if cursor is not None and skip:
        raise bad_cursor("cannot go together with skip")
    async with turn(limit):
        yield Window(skip, limit, cursor)


@asynccontextmanager
async def turn(length: int) -> AsyncIterator[None]:
    """Let only a few long lists be made at once.

    Raises:
        Busy: It is not its turn for a while.
    """
    if length <= SHORT_LENGTH:
        yield
        return
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await _long_lists.acquire()
    except TimeoutError as error:
        raise Busy("long lists") from error
    try:
        yield
    finally:
        _long_lists.release()


QueriedWindow = Annotated[Window, Depends(get_window)]


def link_to_next(request: Request, query: Mapping[str, object]) -> str:
    """The value of `Link` that leads to the next part of a list (RFC 8288)."""
    return f'<{quote(request.scope["path"])}?{urlencode(query)}>; rel="next"'
