"""Pagination of lists, by offset or by cursor."""

import asyncio
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import quote, urlencode

from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from config import settings
from database import MAX_ID
from executors import QueueFull
from models import Post, User

MAX_LIMIT = 100
# A page of a hundred of the longest posts takes 100 MB while it is built, so only two
# long pages are built at the same time.
MAX_SHORT_LIMIT = 20
LONG_PAGE_TIMEOUT = 0.3
_long_pages = asyncio.Semaphore(2)

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
        """Decode a cursor; raise a 422 if no post can have its values."""
        try:
            packed = b64decode(text, altchars=b"-_", validate=True)
            microseconds, post_id, position = CURSOR_FORMAT.unpack(packed)
            date_posted = EPOCH + timedelta(microseconds=microseconds)
        except (ValueError, OverflowError, struct.error) as exc:
            raise cursor_error("The cursor can't be decoded") from exc
        if post_id < 1 or position < 0:
            raise cursor_error("The cursor doesn't refer to a post")
        return cls(date_posted, post_id, position)


def cursor_error(message: str) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "cursor", "loc": ("query", "cursor"), "msg": message}]
    )


Skip = Annotated[int, Query(ge=0, le=MAX_ID, description="How many entries to skip.")]
Limit = Annotated[
    int, Query(ge=1, le=MAX_LIMIT, description="The maximum number of entries.")
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
class PageRequest:
    """The page of a list of posts that a client requests."""

    skip: int
    limit: int
    cursor: Cursor | None = None


async def get_page_request(
    skip: Skip = 0,
    limit: Limit = settings.posts_per_page,
    cursor: CursorText = None,
) -> AsyncIterator[PageRequest]:
    """Yield the requested page; raise `QueueFull` if too many long ones are built."""
    if cursor is not None and skip:
        raise cursor_error("cursor can't be combined with skip")
    page = PageRequest(skip, limit, None if cursor is None else Cursor.decode(cursor))
    if limit <= MAX_SHORT_LIMIT:
        yield page
        return
    try:
        async with asyncio.timeout(LONG_PAGE_TIMEOUT):
            await _long_pages.acquire()
    except TimeoutError as exc:
        raise QueueFull("long pages") from exc
    try:
        yield page
    finally:
        _long_pages.release()


@dataclass(frozen=True)
class PostPage:
    """A page of a list of posts."""

    posts: Sequence[Post]
    total: int
    skip: int
    limit: int
    has_more: bool

    @property
    def next_cursor(self) -> str | None:
        if not self.has_more:
            return None
        last = self.posts[-1]
        position = min(self.skip + len(self.posts), MAX_ID)
        return Cursor(last.date_posted, last.id, position).encode()


async def fetch_posts(
    db: AsyncSession, page: PageRequest, author: User | None = None
) -> PostPage:
    """Return a page of all posts, or of those of one author.

    The page and the total come from one statement, so that they agree while others
    publish and delete. A page beyond the end has no row for the total and takes two.
    """
    listed = Post.newest_first(author)
    total = (
        listed.with_only_columns(func.count(), maintain_column_froms=True)
        .order_by(None)
        .correlate(None)
    )
    # The additional post tells whether there is another page.
    statement = (
        listed.add_columns(total.scalar_subquery())
        .offset(page.skip)
        .limit(page.limit + 1)
    )
    position = page.skip
    if page.cursor is not None:
        position = page.cursor.position
        older = Post.older_than(page.cursor.date_posted, page.cursor.post_id)
        statement = statement.where(older)
    rows = (await db.execute(statement)).all()
    return PostPage(
        [row[0] for row in rows[: page.limit]],
        rows[0][1] if rows else await db.scalar(total) or 0,
        skip=position,
        limit=page.limit,
        has_more=len(rows) > page.limit,
    )


async def paginated_response(
    request: Request,
    response: Response,
    db: AsyncSession,
    page_request: PageRequest,
    author: User | None = None,
) -> PostPage:
    """Return a page of posts, and set the link to the next one (RFC 8288).

    The link has a cursor unless the client paginates by `skip` alone (generated clients
    send the default `skip` along with a cursor).
    """
    page = await fetch_posts(db, page_request, author)
    if page.has_more:
        query: dict[str, Any] = {"cursor": page.next_cursor}
        if page_request.cursor is None and "skip" in request.query_params:
            query = {"skip": page_request.skip + page_request.limit}
        query["limit"] = page_request.limit
        response.headers["Link"] = next_link(request, query)
    return page


def next_link(request: Request, query: Mapping[str, object]) -> str:
    """Return the value of a `Link` header that leads to the next page (RFC 8288)."""
    return f'<{quote(request.scope["path"])}?{urlencode(query)}>; rel="next"'
