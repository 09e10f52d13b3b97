"""API of the posts: list, read, create, replace, change, delete."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Request, Response, status
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

import rate_limits
from auth import INVALID_TOKEN, CurrentUser
from config import settings
from database import MAX_ID, DbSession, fetch_page
from entity_tags import entity_tag, lists_tag
from models import Post, User
from problems import TOO_BUSY, Problem, errors
from rate_limits import RateLimit
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

# Room for a hundred tags; servers in front accept no longer headers either.
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
        after = Post.comes_after(window.cursor.date_posted, window.cursor.post_id)
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
    """The post with this id, author loaded.

    Raises:
        HTTPException: 404, when no post has this id.
    """
    # Outside this range the driver fails instead of finding none.
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
    """The post named in the path; 404 when no post has this id."""
    return await find_post(db, post_id)


FoundPost = Annotated[Post, Depends(get_post)]

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=MAX_CONDITION_LENGTH,
        description="The `ETag` that came with the post: nothing is done, and the "
        "answer is a 412, when it has been changed since.",
    ),
]


def represent(post: Post) -> bytes:
    """The JSON of a post, as every operation that gives one sends it."""
    return PostResponse.model_validate(post).model_dump_json().encode()


def answer_post(content: bytes, status_code: int = status.HTTP_200_OK) -> Response:
    """The JSON of a post as an answer, without a tag."""
    return Response(content, status_code, media_type="application/json")


def check_unchanged(post: Post, if_match: str | None) -> None:
    """See to it that a post is still the one that a request speaks of.

    Raises:
        HTTPException: 412, with the present tag, when it is not (RFC 9110, 13.1.1).
    """
    if if_match is None:
        return
    tag = entity_tag(represent(post))
    if not lists_tag(if_match, tag):
        raise CHANGED_MEANWHILE.error(ETag=tag)


def own_post(verb: Literal["update", "delete"]) -> Callable[..., Awaitable[Post]]:
    """Make a dependency: the post named in the path, if the caller wrote it.

    It stays locked until the request has ended its transaction, so that nobody changes
    or deletes it between this look and the change.
    """
    forbidden = NOT_TO_UPDATE if verb == "update" else NOT_TO_DELETE

    # Parameters are resolved from left to right: who asks (401), then for what (404).
    async def get_own_post(
        user: CurrentUser, post_id: PostId, db: DbSession, if_match: IfMatch = None
    ) -> Post:
        post = await find_post(db, post_id, lock=True)
        if post.user_id != user.id:
            raise forbidden.error()
        check_unchanged(post, if_match)
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
    """All posts, the newest first, part by part.

    To read on, follow `Link`, or repeat the request with `next_cursor` as `cursor`.
    """
    return await answer_page(request, response, db, window)


@router.get(
    "/{post_id}",
    summary="Read a post",
    response_model=PostResponse,
    responses=answers("ETag") | errors(POST_NOT_FOUND),
)
async def read_post(post: FoundPost) -> Response:
    """One post, whole. Its `ETag` is what `If-Match` of the operations below takes."""
    return answer_post(represent(post))


@router.post(
    "",
    summary="Publish a post",
    response_model=PostResponse,
    status_code=status.HTTP_201_CREATED,
    responses=answers("ETag", "Location", status=201)
    | errors(idempotency.KEY_REUSED, idempotency.STILL_RUNNING),
)
async def create_post(
    request: Request,
    new: PostCreate,
    user: CurrentUser,
    db: DbSession,
    key: idempotency.Key = None,
) -> Response:
    """A new post of one's own; it comes first in all lists from now on.

    With an `Idempotency-Key` the request can be repeated until it is answered, and
    publishes once.
    """
    try:
        content = await publish_once(db, new, user, key)
    except IntegrityError as error:
        await db.rollback()
        # The author has been deleted since the token was checked.
        raise INVALID_TOKEN.error() from error
    response = answer_post(content, status.HTTP_201_CREATED)
    # Not by the schema: an answer that was stored before an update may not fit it.
    post_id = json.loads(content)["id"]
    response.headers["Location"] = str(
        request.app.url_path_for("read_post", post_id=post_id)
    )
    response.headers["ETag"] = entity_tag(content)
    return response


async def publish_once(
    db: AsyncSession, new: PostCreate, user: User, key: str | None
) -> bytes:
    """Commit a new post, unless the key says that it was; gives its JSON."""
    claimed = None
    if key is not None:
        request = json.dumps([new.title or "", new.content])
        claimed = await idempotency.claim(db, user, key, request)
        if claimed.answer:
            return claimed.answer.encode()
    await rate_limits.count(RateLimit(settings.post_rate, ("post", str(user.id))))
    post = Post(title=new.title or "", content=new.content, author=user)
    db.add(post)
    await db.flush()
    content = represent(post)
    if claimed is not None:
        claimed.answer = content.decode()
    await db.commit()
    return content


@router.put(
    "/{post_id}",
    summary="Replace a post",
    response_model=PostResponse,
    responses=errors(POST_NOT_FOUND, NOT_TO_UPDATE, CHANGED_MEANWHILE),
)
async def replace_post(new: PostReplace, post: PostToUpdate, db: DbSession) -> Response:
    """Another title and content for a post of one's own; both must be there.

    The answer has no `ETag`: what is stored is not quite what was sent (RFC 9110,
    section 9.3.4). Read the post to get it.
    """
    post.edit(title=new.title or "", content=new.content)
    await db.commit()
    return answer_post(represent(post))


@router.patch(
    "/{post_id}",
    summary="Change a post",
    response_model=PostResponse,
    responses=answers("ETag")
    | errors(POST_NOT_FOUND, NOT_TO_UPDATE, CHANGED_MEANWHILE),
)
async def update_post(
    changes: PostUpdate, post: PostToUpdate, db: DbSession
) -> Response:
    """Another title, another content or both for a post of one's own."""
    texts = {"title": post.title, "content": post.content}
    post.edit(**(texts | changes.model_dump(exclude_none=True)))
    await db.commit()
    content = represent(post)
    response = answer_post(content)
    response.headers["ETag"] = entity_tag(content)
    return response


@router.delete(
    "/{post_id}",
    summary="Delete a post",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=errors(POST_NOT_FOUND, NOT_TO_DELETE, CHANGED_MEANWHILE),
)
async def delete_post(post: PostToDelete, db: DbSession) -> None:
    """A post of one's own goes for good."""
    await db.delete(post)
    await db.commit()
