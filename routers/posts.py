"""API of the posts: list, read, create, replace, change, delete."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, status
from sqlalchemy import Select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from auth import CurrentUser, invalid_token
from database import MAX_ID, DbSession, fetch_page
from models import Post
from routers import Window, errors
from schemas import (
    PaginatedPostsResponse,
    PostCreate,
    PostReplace,
    PostResponse,
    PostUpdate,
)

router = APIRouter(prefix="/api/posts", tags=["posts"])


@dataclass(frozen=True)
class PostPage:
    """A part of a list of posts."""

    posts: Sequence[Post]
    total: int
    skip: int
    limit: int

    @property
    def has_more(self) -> bool:
        """Whether posts follow."""
        return self.skip + len(self.posts) < self.total


async def fetch_posts(
    db: AsyncSession, statement: Select[Post], window: Window
) -> PostPage:
    """The part of a statement's posts that is asked for."""
    posts, total = await fetch_page(db, statement, skip=window.skip, limit=window.limit)
    return PostPage(posts, total, skip=window.skip, limit=window.limit)


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
    raise HTTPException(status.HTTP_404_NOT_FOUND, "Post not found")


async def get_post(post_id: int, db: DbSession) -> Post:
    """The post named in the path; 404 when no post has this id."""
    return await find_post(db, post_id)


FoundPost = Annotated[Post, Depends(get_post)]


def own_post(verb: Literal["update", "delete"]) -> Callable[..., Awaitable[Post]]:
    """Make a dependency: the post named in the path, if the caller wrote it.

    It stays locked until the request has ended its transaction, so that nobody deletes
    it between this look and the change.
    """

    # Parameters are resolved from left to right: who asks (401), then for what (404).
    async def get_own_post(user: CurrentUser, post_id: int, db: DbSession) -> Post:
        post = await find_post(db, post_id, lock=True)
        if post.user_id != user.id:
            raise HTTPException(
                status.HTTP_403_FORBIDDEN, f"Not authorized to {verb} this post"
            )
        return post

    return get_own_post


PostToUpdate = Annotated[Post, Depends(own_post("update"))]
PostToDelete = Annotated[Post, Depends(own_post("delete"))]


@router.get("", response_model=PaginatedPostsResponse)
async def list_posts(window: Annotated[Window, Depends()], db: DbSession) -> PostPage:
    """List all posts, newest first."""
    return await fetch_posts(db, Post.newest_first(), window)


@router.get("/{post_id}", response_model=PostResponse, responses=errors(404))
async def read_post(post: FoundPost) -> Post:
    """Read one post."""
    return post


@router.post(
    "",
    response_model=PostResponse,
    status_code=status.HTTP_201_CREATED,
    responses=errors(401),
)
async def create_post(new: PostCreate, user: CurrentUser, db: DbSession) -> Post:
    """Publish a post."""
    post = Post(title=new.title or "", content=new.content, author=user)
    db.add(post)
    try:
        await db.commit()
    except IntegrityError as error:
        await db.rollback()
        # The author has been deleted since the token was checked.
        raise invalid_token() from error
    return post


@router.put("/{post_id}", response_model=PostResponse, responses=errors(401, 403, 404))
async def replace_post(new: PostReplace, post: PostToUpdate, db: DbSession) -> Post:
    """Replace title and content."""
    post.title = new.title or ""
    post.content = new.content
    await db.commit()
    return post


@router.patch(
    "/{post_id}", response_model=PostResponse, responses=errors(401, 403, 404)
)
async def update_post(changes: PostUpdate, post: PostToUpdate, db: DbSession) -> Post:
    """Change the title, the content or both."""
    for name, value in changes.model_dump(exclude_none=True).items():
        setattr(post, name, value)
    await db.commit()
    return post


@router.delete(
    "/{post_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=errors(401, 403, 404),
)
async def delete_post(post: PostToDelete, db: DbSession) -> None:
    """Delete a post."""
    await db.delete(post)
    await db.commit()
