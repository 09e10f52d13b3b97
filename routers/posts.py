"""The posts API."""

import json

from fastapi import APIRouter, Request, Response, status
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

import idempotency
import rate_limit
from auth import CurrentUser
from conditional_requests import post_etag, post_response
from config import settings
from database import DbSession
from dependencies import (
    FoundPost,
    PageParams,
    PostToDelete,
    PostToUpdate,
    SearchParam,
    load_post,
)
from exceptions import (
    DELETE_POST_FORBIDDEN,
    INVALID_TOKEN,
    KEY_REUSED,
    POST_MODIFIED,
    POST_NOT_FOUND,
    REQUEST_IN_PROGRESS,
    TOO_BUSY,
    UPDATE_POST_FORBIDDEN,
    error_responses,
    openapi_headers,
)
from models import Post, User
from pagination import PostPage, paginated_response
from paths import path_for
from rate_limit import RateLimit
from rendering import render
from schemas import (
    PaginatedPostsResponse,
    PostCreate,
    PostReplace,
    PostResponse,
    PostUpdate,
)

router = APIRouter(prefix="/api/posts", tags=["posts"])


@router.get(
    "",
    summary="List posts",
    response_model=PaginatedPostsResponse,
    responses=openapi_headers("ETag", "Link") | error_responses(TOO_BUSY),
)
async def list_posts(
    request: Request,
    response: Response,
    page: PageParams,
    search: SearchParam,
    db: DbSession,
) -> PostPage:
    """List all posts, or those that match a search, newest first.

    To get the next page, follow the `Link` header, or send `next_cursor` as `cursor`.
    """
    return await paginated_response(request, response, db, page, search=search)


@router.get(
    "/{post_id}",
    summary="Get a post",
    responses=openapi_headers("ETag") | error_responses(POST_NOT_FOUND, TOO_BUSY),
)
async def read_post(post: FoundPost) -> PostResponse:
    """Get a post. Send its `ETag` in `If-Match` when you update or delete it."""
    return await post_response(post)


@router.post(
    "",
    summary="Create a post",
    status_code=status.HTTP_201_CREATED,
    responses=openapi_headers("ETag", "Location", status=201)
    | error_responses(POST_NOT_FOUND, KEY_REUSED, REQUEST_IN_PROGRESS, TOO_BUSY),
)
async def create_post(
    request: Request,
    response: Response,
    post_in: PostCreate,
    user: CurrentUser,
    db: DbSession,
    key: idempotency.Key = None,
) -> PostResponse:
    """Create a post.

    With an `Idempotency-Key`, you can retry until you get a response, and the post is
    only published once. A retry returns the post in its current state, or a 404 if the
    post has been deleted.
    """
    try:
        post = await create_post_once(db, post_in, user, key)
    except IntegrityError as exc:
        await db.rollback()
        # The author has been deleted since the token was verified.
        raise INVALID_TOKEN.exception() from exc
    body = await post_response(post)
    response.headers["Location"] = path_for(request.app, "read_post", post_id=post.id)
    response.headers["ETag"] = post_etag(body)
    return body


async def create_post_once(
    db: AsyncSession, post_in: PostCreate, user: User, key: str | None
) -> Post:
    """Commit a new post, or return the one that was created with this key."""
    title = post_in.title or ""
    post_format = post_in.format or "plain"
    claimed = None
    if key is not None:
        # Older app versions, which may still be running, only support plain posts.
        formats = [] if post_format == "plain" else [post_format]
        request = json.dumps([title, post_in.content, *formats])
        claimed, is_new = await idempotency.claim(db, user, key, request)
        if not is_new:
            if claimed.post_id is None:
                raise POST_NOT_FOUND.exception()
            return await load_post(db, claimed.post_id)
    limit = RateLimit(settings.rate_limit_posts_per_user, ("post", str(user.id)))
    await rate_limit.hit(limit)
    # If the server is too busy to render the post, don't store it either.
    await render(post_in.content, post_format)
    post = Post(title=title, content=post_in.content, format=post_format, author=user)
    db.add(post)
    if claimed is not None:
        await db.flush()
        claimed.post_id = post.id
    await db.commit()
    return post


@router.put(
    "/{post_id}",
    summary="Replace a post",
    responses=error_responses(
        POST_NOT_FOUND, UPDATE_POST_FORBIDDEN, POST_MODIFIED, TOO_BUSY
    ),
)
async def replace_post(
    post_in: PostReplace, post: PostToUpdate, db: DbSession
) -> PostResponse:
    """Replace the title and the content of your post. Both are required.

    The response has no `ETag`, because the input is normalized before it is stored (RFC
    9110, section 9.3.4). Get the post to read its `ETag`.
    """
    post.edit(
        title=post_in.title or "", content=post_in.content, post_format=post_in.format
    )
    body = await post_response(post)
    await db.commit()
    return body


@router.patch(
    "/{post_id}",
    summary="Update a post",
    responses=openapi_headers("ETag")
    | error_responses(POST_NOT_FOUND, UPDATE_POST_FORBIDDEN, POST_MODIFIED, TOO_BUSY),
)
async def update_post(
    post_in: PostUpdate, post: PostToUpdate, db: DbSession, response: Response
) -> PostResponse:
    """Update the title, the content or the format of your post."""
    post.edit(title=post_in.title, content=post_in.content, post_format=post_in.format)
    body = await post_response(post)
    await db.commit()
    response.headers["ETag"] = post_etag(body)
    return body


@router.delete(
    "/{post_id}",
    summary="Delete a post",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(
        POST_NOT_FOUND, DELETE_POST_FORBIDDEN, POST_MODIFIED, TOO_BUSY
    ),
)
async def delete_post(post: PostToDelete, db: DbSession) -> None:
    """Permanently delete your post."""
    await db.delete(post)
    await db.commit()
