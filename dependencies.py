"""What routes ask for: users, posts and pages that are loaded and authorized."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import Depends, Header, Path
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from auth import INVALID_TOKEN, CurrentUser
from database import MAX_ID, DbSession
from exceptions import APIError
from middleware.etags import etag_matches, etag_of
from models import Post, User
from pagination import PageRequest, get_page_request
from rate_limit import get_client_ip
from schemas import PostResponse, RowId

USER_NOT_FOUND = APIError(404, "User not found")
POST_NOT_FOUND = APIError(404, "Post not found")
UPDATE_POST_FORBIDDEN = APIError(403, "Not authorized to update this post")
DELETE_POST_FORBIDDEN = APIError(403, "Not authorized to delete this post")
PRECONDITION_FAILED = APIError(
    412, "The post has been modified since you last read it", varying=["ETag"]
)

# Enough for a hundred ETags; load balancers don't accept longer headers either.
MAX_IF_MATCH_LENGTH = 8192

ClientIP = Annotated[str, Depends(get_client_ip)]
PageParams = Annotated[PageRequest, Depends(get_page_request)]

# Users

UserId = Annotated[RowId, Path(description="The `id` of a user.")]


async def find_user(user_id: UserId, db: DbSession) -> User:
    """Return the user in the path, or raise a 404."""
    # The driver raises an error for an id outside of this range.
    user = await db.get(User, user_id) if 0 < user_id <= MAX_ID else None
    if user is None:
        raise USER_NOT_FOUND.exception()
    return user


FoundUser = Annotated[User, Depends(find_user)]


def own_user(forbidden: APIError) -> Callable[..., Awaitable[User]]:
    """Return a dependency that gives the user in the path if it is the caller."""

    # Parameters are resolved from left to right: 401 comes first.
    async def get_own_user(user: CurrentUser, user_id: UserId) -> User:
        if user.id != user_id:
            raise forbidden.exception()
        return user

    return get_own_user


async def lock_user(db: AsyncSession, user: User) -> None:
    """Reload a user and lock the row until the commit; raise a 401 if it is gone."""
    try:
        await db.refresh(user, with_for_update=True)
    except InvalidRequestError as exc:
        raise INVALID_TOKEN.exception() from exc


# Posts

PostId = Annotated[RowId, Path(description="The `id` of a post.")]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=MAX_IF_MATCH_LENGTH,
        description="The `ETag` of the version that you have: if the post has changed "
        "since, nothing is done, and you get a 412.",
    ),
]


async def find_post(db: AsyncSession, post_id: int, *, lock: bool = False) -> Post:
    """Return a post with its author, or raise a 404."""
    # The driver raises an error for an id outside of this range.
    if 0 < post_id <= MAX_ID:
        statement = Post.newest_first().where(Post.id == post_id)
        if lock:
            statement = statement.with_for_update(of=Post)
        post = await db.scalar(statement)
        if post is not None:
            return post
    raise POST_NOT_FOUND.exception()


async def get_post(post_id: PostId, db: DbSession) -> Post:
    return await find_post(db, post_id)


FoundPost = Annotated[Post, Depends(get_post)]


def post_etag(post: Post) -> str:
    """Return the ETag of a post: a hash of the JSON that a GET returns."""
    return etag_of(PostResponse.model_validate(post).model_dump_json().encode())


def own_post(verb: Literal["update", "delete"]) -> Callable[..., Awaitable[Post]]:
    """Return a dependency that gives the post in the path if the caller wrote it.

    The row stays locked until the transaction ends, so that no other request changes or
    deletes the post between the checks and the change.
    """
    forbidden = UPDATE_POST_FORBIDDEN if verb == "update" else DELETE_POST_FORBIDDEN

    # Parameters are resolved from left to right: 401 comes before 404.
    async def get_own_post(
        user: CurrentUser, post_id: PostId, db: DbSession, if_match: IfMatch = None
    ) -> Post:
        post = await find_post(db, post_id, lock=True)
        if post.user_id != user.id:
            raise forbidden.exception()
        if if_match is not None and not etag_matches(if_match, post_etag(post)):
            raise PRECONDITION_FAILED.exception(ETag=post_etag(post))
        return post

    return get_own_post


PostToUpdate = Annotated[Post, Depends(own_post("update"))]
PostToDelete = Annotated[Post, Depends(own_post("delete"))]
