"""Route dependencies: the client IP, pagination, and the user or post in the path."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from auth import CurrentUser
from conditional_requests import meets_conditions, post_etag, post_response
from config import settings
from database import MAX_ID, DbSession
from exceptions import (
    DELETE_POST_FORBIDDEN,
    INVALID_TOKEN,
    POST_MODIFIED,
    POST_NOT_FOUND,
    REGISTRATION_CLOSED,
    TOO_BUSY,
    UPDATE_POST_FORBIDDEN,
    USER_NOT_FOUND,
    APIError,
)
from models import Post, User
from pagination import Cursor, CursorText, Limit, PageRequest, Skip, cursor_error
from queries import (
    PostRow,
    PostWithNeighbors,
    UserRow,
    fetch_post,
    fetch_post_with_neighbors,
    fetch_user,
)
from rate_limit import client_network
from schemas import Storable
from search import MAX_QUERY_LENGTH, Search

# Enough for a hundred ETags. Most load balancers reject longer headers anyway.
MAX_ETAG_HEADER_LENGTH = 8192

MAX_ID_DIGITS = 100
INTEGER = re.compile("[+-]?[0-9]+")

# Building a page of a hundred posts of maximum length takes 100 MB of memory, so only
# two long pages are built at the same time.
MAX_SHORT_LIMIT = 20
LONG_PAGE_TIMEOUT = 0.3
_long_pages = asyncio.Semaphore(2)

# Requests


# Async, because FastAPI would run a sync function in a thread.
async def get_client_ip(request: Request) -> str:
    """Return the client IP, or its /64 network if it is an IPv6 address."""
    return client_network(request.scope["client"][0])


async def get_page_request(
    skip: Skip = 0, limit: Limit = settings.posts_per_page, cursor: CursorText = None
) -> AsyncIterator[PageRequest]:
    """Yield the requested page, and limit how many long pages are built concurrently.

    Raises:
        HTTPException: 503 if too many long pages are being built.
        RequestValidationError: The cursor is invalid, or combined with `skip`.
    """
    if cursor is not None and skip:
        raise cursor_error("The cursor can't be combined with skip")
    page = PageRequest(skip, limit, None if cursor is None else Cursor.decode(cursor))
    if limit <= MAX_SHORT_LIMIT:
        yield page
        return
    try:
        async with asyncio.timeout(LONG_PAGE_TIMEOUT):
            await _long_pages.acquire()
    except TimeoutError as exc:
        raise TOO_BUSY.exception() from exc
    try:
        yield page
    finally:
        _long_pages.release()


ClientIP = Annotated[str, Depends(get_client_ip)]
# The scope ends before the response is sent, so that a slow client doesn't keep others
# from getting long pages.
PageParams = Annotated[PageRequest, Depends(get_page_request, scope="function")]


async def get_search(
    q: Annotated[
        str | None,
        Query(
            max_length=MAX_QUERY_LENGTH,
            description="Words that the title or the content must contain. All of them "
            "are required. The last one may be the beginning of a word. Put words in "
            "quotation marks if they must be adjacent. Case and accents don't matter. "
            "Text without spaces, such as Chinese, Japanese or Thai, only matches by "
            "whole runs of characters between spaces or punctuation. Without any word, "
            "no post is found. `total` stops at 1,001.",
            examples=['"summer rain" garden'],
        ),
        Storable,
    ] = None,
) -> Search | None:
    return None if q is None else Search(q)


SearchParam = Annotated[Search | None, Depends(get_search)]

# Ids in paths


def parse_id(text: str) -> int:
    """Convert an id in a path to an integer, or to 0 if no row can have this id.

    Pydantic's own conversion would also accept `1.0`, `1_0` and spaces.
    """
    if not INTEGER.fullmatch(text):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    # int() raises ValueError for more than 4,300 digits.
    number = int(text) if len(text) <= MAX_ID_DIGITS else 0
    # The driver would raise an error for a larger number. No row has the id 0.
    return number if 0 < number <= MAX_ID else 0


# The bounds only appear in the OpenAPI document. An id outside of them gets a 404.
RowId = Annotated[
    int,
    BeforeValidator(parse_id),
    Field(json_schema_extra={"minimum": 1, "maximum": MAX_ID}),
]

UserId = Annotated[RowId, Path(description="The `id` of a user.", examples=[1])]
PostId = Annotated[RowId, Path(description="The `id` of a post.", examples=[7])]

# Users


async def find_user(user_id: UserId, db: DbSession) -> UserRow:
    """Return the user whose id is in the path, or raise a 404."""
    user = await fetch_user(db, user_id)
    if user is None:
        raise USER_NOT_FOUND.exception()
    return user


FoundUser = Annotated[UserRow, Depends(find_user)]


async def require_open_registration() -> None:
    """Raise a 403 if sign-up is closed."""
    if not settings.registration_open:
        raise REGISTRATION_CLOSED.exception()


def own_user(forbidden: APIError) -> Callable[..., Awaitable[User]]:
    """Return a dependency that returns the caller if the path contains their id.

    The dependency raises `forbidden` if the path contains another id.
    """

    # FastAPI resolves parameters from left to right, so a 401 comes first.
    async def get_own_user(user: CurrentUser, user_id: UserId) -> User:
        if user.id != user_id:
            raise forbidden.exception()
        return user

    return get_own_user


async def lock_user(db: AsyncSession, user: User) -> None:
    """Lock a user's row until the transaction ends, and reload the user.

    Raises:
        HTTPException: 401 if the user has been deleted.
    """
    try:
        await db.refresh(user, with_for_update=True)
    except InvalidRequestError as exc:
        raise INVALID_TOKEN.exception() from exc


# Posts

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=MAX_ETAG_HEADER_LENGTH,
        description="The `ETag` of your copy. If the post has changed since you read "
        "it, the request fails with 412.",
    ),
]

IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        max_length=MAX_ETAG_HEADER_LENGTH,
        description="If this is `*` or the current `ETag`, the request fails with 412.",
    ),
]


async def find_post(post_id: PostId, db: DbSession) -> PostRow:
    """Return the post whose id is in the path, or raise a 404."""
    post = await fetch_post(db, post_id)
    if post is None:
        raise POST_NOT_FOUND.exception()
    return post


async def find_post_with_neighbors(post_id: PostId, db: DbSession) -> PostWithNeighbors:
    """Return the post whose id is in the path with its neighbors, or raise a 404."""
    found = await fetch_post_with_neighbors(db, post_id)
    if found is None:
        raise POST_NOT_FOUND.exception()
    return found


FoundPost = Annotated[PostRow, Depends(find_post)]
FoundPostWithNeighbors = Annotated[PostWithNeighbors, Depends(find_post_with_neighbors)]


async def load_post(db: AsyncSession, post_id: int, *, lock: bool = False) -> Post:
    """Return a post with its author, or raise a 404.

    If `lock` is true, the post's row stays locked until the transaction ends.
    """
    statement = Post.with_id(post_id)
    if lock:
        statement = statement.with_for_update(of=Post)
    post = await db.scalar(statement)
    if post is None:
        raise POST_NOT_FOUND.exception()
    return post


def own_post(forbidden: APIError) -> Callable[..., Awaitable[Post]]:
    """Return a dependency that returns the post in the path if the caller wrote it.

    Otherwise, the dependency raises `forbidden`. The post's row stays locked until the
    transaction ends, so that no other request can modify the post after the checks.
    """

    # FastAPI resolves parameters from left to right, so a 401 comes before a 404.
    async def get_own_post(
        user: CurrentUser,
        post_id: PostId,
        db: DbSession,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Post:
        post = await load_post(db, post_id, lock=True)
        if post.user_id != user.id:
            raise forbidden.exception()
        if if_match is not None or if_none_match is not None:
            etag = post_etag(await post_response(post))
            if not meets_conditions(etag, if_match, if_none_match):
                raise POST_MODIFIED.exception(ETag=etag)
        return post

    return get_own_post


PostToUpdate = Annotated[Post, Depends(own_post(UPDATE_POST_FORBIDDEN))]
PostToDelete = Annotated[Post, Depends(own_post(DELETE_POST_FORBIDDEN))]
