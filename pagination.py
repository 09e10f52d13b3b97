"""Pagination of lists, by offset or by cursor."""

import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import quote, urlencode

from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from database import MAX_ID
from models import EPOCH
from queries import PostRow, UserRow, fetch_page
from search import Search

MAX_LIMIT = 100
# Microseconds since the epoch, id, position.
CURSOR_FORMAT = struct.Struct(">qii")


class Cursor(NamedTuple):
    """The post that the next page starts after."""

    date_posted: datetime
    post_id: int
    position: int
    """Number of posts up to and including this one when the cursor was created."""

    def encode(self) -> str:
        microseconds = (self.date_posted - EPOCH) // timedelta(microseconds=1)
        packed = CURSOR_FORMAT.pack(microseconds, self.post_id, self.position)
        return urlsafe_b64encode(packed).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Decode a cursor, or raise a 422 if no post can have its values."""
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


Skip = Annotated[int, Query(ge=0, le=MAX_ID, description="Number of entries to skip.")]
Limit = Annotated[
    int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of entries.")
]
CursorText = Annotated[
    str | None,
    Query(
        max_length=64,
        description="The `next_cursor` of the previous page. Unlike with `skip`, no "
        "post is repeated or omitted when posts are published or deleted between "
        "requests. It can't be combined with `skip`.",
    ),
]


@dataclass(frozen=True)
class PageRequest:
    """The page of posts that a client requests."""

    skip: int
    limit: int
    cursor: Cursor | None = None


@dataclass(frozen=True)
class PostPage:
    """One page of a list of posts."""

    posts: Sequence[PostRow]
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
    db: AsyncSession,
    page: PageRequest,
    author: UserRow | None = None,
    search: Search | None = None,
) -> PostPage:
    """Return a page of all posts, of one author's posts, or of a search."""
    position, after = page.skip, None
    if page.cursor is not None:
        position, after = page.cursor.position, page.cursor[:2]
    # Fetch one extra post to learn whether there is another page.
    queries = (search.tsquery, search.tsquery_for_index) if search else None
    posts, total = await fetch_page(
        db, author, page.limit + 1, page.skip, after, queries
    )
    return PostPage(
        posts[: page.limit],
        total,
        skip=position,
        limit=page.limit,
        has_more=len(posts) > page.limit,
    )


async def paginated_response(
    request: Request,
    response: Response,
    db: AsyncSession,
    page_request: PageRequest,
    author: UserRow | None = None,
    search: Search | None = None,
) -> PostPage:
    """Return a page of posts, and set a `Link` header for the next page (RFC 8288).

    The link contains a cursor, unless the client sent `skip` without a cursor. Some
    generated clients send the default `skip` together with a cursor.
    """
    page = await fetch_posts(db, page_request, author, search)
    if page.has_more:
        query: dict[str, Any] = {} if search is None else {"q": search.text}
        if page_request.cursor is None and "skip" in request.query_params:
            query["skip"] = page_request.skip + page_request.limit
        else:
            query["cursor"] = page.next_cursor
        query["limit"] = page_request.limit
        response.headers["Link"] = next_link(request, query)
    return page


def next_link(request: Request, query: Mapping[str, object]) -> str:
    """Return a `Link` header for the next page (RFC 8288)."""
    return f'<{quote(request.scope["path"])}?{urlencode(query)}>; rel="next"'
