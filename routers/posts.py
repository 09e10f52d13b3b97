"""API of the posts: list, read, create, replace, change, delete."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Request, Response, status
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

import rate_limit
from auth import INVALID_TOKEN, CurrentUser
from config import settings
from database import MAX_ID, DbSession, fetch_page
from entity_tags import etag_matches, etag_of
from models import Post, User
from problems import TOO_BUSY, Problem, errors
from rate_limit import RateLimit
from routers import idempotency
from routers.documentation import answers
from routers.paging import Cursor, QueriedWindow, Window, link_to_next
from schemas import (
    PaginatedPostsResponse,
    PostCreate,
    PostReplace,
    PostResponse,
    PostUpdate,
    RowId,
)

router = APIRouter(prefix="/api/posts", tags=["posts"])

POST_NOT_FOUND = Problem(404, "Post not found")
NOT_TO_UPDATE = Problem(403, "Not authorized to update this post")
NOT_TO_DELETE = Problem(403, "Not authorized to delete this post")
CHANGED_MEANWHILE = Problem(
    412, "The post has been changed meanwhile", varying=["ETag"]
)

# Room for a hundred ETags; servers in front accept no longer headers either.
MAX_CONDITION_LENGTH = 8192


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
        """Return where the list continues; None on the last page."""
        if not self.has_more:
            return None
        last = self.posts[-1]
        position = min(self.skip + len(self.posts), MAX_ID)
        return Cursor(last.date_posted, last.id, position).encode()


async def fetch_posts(
    db: AsyncSession, window: Window, author: User | None = None
) -> PostPage:
    """Return a page of all posts, or of those of one author."""
    position, after = window.skip, None
    if window.cursor is not None:
        position = window.cursor.position
        after = Post.older_than(window.cursor.date_posted, window.cursor.post_id)
    posts, total = await fetch_page(
        db,
        Post.newest_first(author),
        skip=window.skip,
        # The additional post tells whether there is another page.
        limit=window.limit + 1,
        after=after,
    )
    return PostPage(
        posts[: window.limit],
        total,
        skip=position,
        limit=window.limit,
        has_more=len(posts) > window.limit,
    )


async def answer_page(
    request: Request,
    response: Response,
    db: AsyncSession,
    window: Window,
    author: User | None = None,
) -> PostPage:
    """Return a page of posts, with a link to the next one (RFC 8288).

    The link has a cursor, which does not drift, unless the client asked by `skip` alone
    (generated clients send the default `skip` beside a cursor).
    """
    page = await fetch_posts(db, window, author)
    if page.has_more:
        query: dict[str, Any] = {"cursor": page.next_cursor}
        if window.cursor is None and "skip" in request.query_params:
            query = {"skip": window.skip + window.limit}
        link = link_to_next(request, query | {"limit": window.limit})
        response.headers["Link"] = link
    return page


async def find_post(db: AsyncSession, post_id: int, *, lock: bool = False) -> Post:
    """Return a post with its author, or raise a 404."""
    # Outside this range, the driver fails instead of finding none.
    if 0 < post_id <= MAX_ID:
        statement = Post.newest_first().where(Post.id == post_id)
        if lock:
            statement = statement.with_for_update(of=Post)
        post = await db.scalar(statement)
        if post is not None:
            return post
    raise POST_NOT_FOUND.error()


PostId = Annotated[RowId, Path(description="The `id` of a post.")]


async def get_post(post_id: PostId, db: DbSession) -> Post:
    """Return the post that the path names, or raise a 404."""
    return await find_post(db, post_id)


FoundPost = Annotated[Post, Depends(get_post)]

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=MAX_CONDITION_LENGTH,
        description="The `ETag` of the version that you have: if the post has changed "
        "since, nothing is done, and you get a 412.",
    ),
]


def tag_of(post: Post) -> str:
    """Return the ETag of a post: a hash of what a GET sends."""
    return etag_of(PostResponse.model_validate(post).model_dump_json().encode())


def own_post(verb: Literal["update", "delete"]) -> Callable[..., Awaitable[Post]]:
    """Return a dependency that gives the post in the path if the caller wrote it.

    The post stays locked until the transaction ends, so that no other request changes
    or deletes it between the checks and the change.
    """
    forbidden = NOT_TO_UPDATE if verb == "update" else NOT_TO_DELETE

    # Parameters are resolved from left to right: 401 before 404.
    async def get_own_post(
        user: CurrentUser, post_id: PostId, db: DbSession, if_match: IfMatch = None
    ) -> Post:
        post = await find_post(db, post_id, lock=True)
        if post.user_id != user.id:
            raise forbidden.error()
        if if_match is not None and not etag_matches(if_match, tag_of(post)):
            raise CHANGED_MEANWHILE.error(ETag=tag_of(post))
        return post

    return get_own_post


PostToUpdate = Annotated[Post, Depends(own_post("update"))]
PostToDelete = Annotated[Post, Depends(own_post("delete"))]


@router.get(
    "",
    summary="List all posts",
    response_model=PaginatedPostsResponse,
    responses=answers("ETag", "Link") | errors(TOO_BUSY),
)
async def list_posts(
    request: Request, response: Response, window: QueriedWindow, db: DbSession
) -> PostPage:
    """List all posts, newest first, page by page.

    For the next page, follow `Link`, or send `next_cursor` as `cursor`.
    """
    return await answer_page(request, response, db, window)


@router.get(
    "/{post_id}",
    summary="Read a post",
    response_model=PostResponse,
    responses=answers("ETag") | errors(POST_NOT_FOUND),
)
async def read_post(post: FoundPost) -> Post:
    """Get a post. Send its `ETag` in `If-Match` when you change or delete it."""
    return post


@router.post(
    "",
    summary="Publish a post",
    response_model=PostResponse,
    status_code=status.HTTP_201_CREATED,
    responses=answers("ETag", "Location", status=201)
    | errors(POST_NOT_FOUND, idempotency.KEY_REUSED, idempotency.STILL_RUNNING),
)
async def create_post(
    request: Request,
    response: Response,
    new: PostCreate,
    user: CurrentUser,
    db: DbSession,
    key: idempotency.Key = None,
) -> Post:
    """Create a post.

    With an `Idempotency-Key`, you can repeat the request until you get a response, and
    it publishes once: repetitions get the post as it is now, or 404 if it has been
    deleted.
    """
    try:
        post = await publish_once(db, new, user, key)
    except IntegrityError as error:
        await db.rollback()
        # The author has been deleted since the token was checked.
        raise INVALID_TOKEN.error() from error
    path = request.app.url_path_for("read_post", post_id=post.id)
    response.headers["Location"] = str(path)
    response.headers["ETag"] = tag_of(post)
    return post


async def publish_once(
    db: AsyncSession, new: PostCreate, user: User, key: str | None
) -> Post:
    """Commit a new post, or find the one that was published with this key."""
    claimed = None
    if key is not None:
        request = json.dumps([new.title or "", new.content])
        claimed, is_new = await idempotency.claim(db, user, key, request)
        if not is_new:
            return await find_post(db, claimed.post_id or 0)
    limit = RateLimit(settings.rate_limit_posts_per_user, ("post", str(user.id)))
    await rate_limit.count(limit)
    post = Post(title=new.title or "", content=new.content, author=user)
    db.add(post)
    if claimed is not None:
        await db.flush()
        claimed.post_id = post.id
    await db.commit()
    return post


@router.put(
    "/{post_id}",
    summary="Replace a post",
    response_model=PostResponse,
    responses=errors(POST_NOT_FOUND, NOT_TO_UPDATE, CHANGED_MEANWHILE),
)
async def replace_post(new: PostReplace, post: PostToUpdate, db: DbSession) -> Post:
    """Replace the title and the content of your post; both are required.

    The response has no `ETag`, because what is stored is not quite what was sent (RFC
    9110, section 9.3.4). Get the post to read it.
    """
    post.edit(title=new.title or "", content=new.content)
    await db.commit()
    return post


@router.patch(
    "/{post_id}",
    summary="Change a post",
    response_model=PostResponse,
    responses=answers("ETag")
    | errors(POST_NOT_FOUND, NOT_TO_UPDATE, CHANGED_MEANWHILE),
)
async def update_post(
    changes: PostUpdate, post: PostToUpdate, db: DbSession, response: Response
) -> Post:
    """Change the title of your post, the content or both."""
    post.edit(title=changes.title, content=changes.content)
    await db.commit()
    response.headers["ETag"] = tag_of(post)
    return post


@router.delete(
    "/{post_id}",
    summary="Delete a post",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=errors(POST_NOT_FOUND, NOT_TO_DELETE, CHANGED_MEANWHILE),
)
async def delete_post(post: PostToDelete, db: DbSession) -> None:
    """Delete your post for good."""
    await db.delete(post)
    await db.commit()
