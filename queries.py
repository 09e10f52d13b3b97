"""Queries for public data: statements that are built once, and the rows they return.

Pages, the API and feeds share them. Writes load ORM objects instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Self

from sqlalchemy import (
    Integer,
    bindparam,
    func,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession

from database import Statement, fetch
from models import Post, PostCount, User, display_title, excerpt, picture_path
from rendering import PostFormat, text_without_markup

USER = (User.id, User.username, User.image_file)
POST = (
    Post.id,
    Post.title,
    Post.content,
    Post.format,
    Post.user_id,
    Post.date_posted,
    Post.date_updated,
)
NEWEST_FIRST = (Post.date_posted.desc(), Post.id.desc())
OLDEST_FIRST = (Post.date_posted, Post.id)

# The `user_id` that stands for the whole site in `post_counts`.
SITE = 0

FIND_POST = (
    select(*POST, *USER).join(Post.author).where(Post.id == bindparam("post_id"))
)
FIND_USER = select(*USER).where(User.id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class UserRow:
    """The public profile of a user."""

    id: int
    username: str
    image_file: str | None

    @property
    def image_path(self) -> str:
        return picture_path(self.image_file)


@dataclass(frozen=True, slots=True)
class PostRow:
    """A post with its author."""

    id: int
    title: str
    content: str
    format: PostFormat
    user_id: int
    date_posted: datetime
    date_updated: datetime | None
    author: UserRow

    @classmethod
    def from_columns(cls, columns: Sequence[Any]) -> Self:
        """Create a row from the values of the columns in `POST` and `USER`."""
        author = UserRow(*columns[len(POST) :])
        return cls(*[*columns[: len(POST)], author])

    @property
    def display_title(self) -> str:
        return display_title(self.title, self.text_without_markup)

    @property
    def excerpt(self) -> str:
        return excerpt(self.text_without_markup)

    @property
    def text_without_markup(self) -> str:
        return text_without_markup(self.content, self.format)

    @property
    def updated_at(self) -> datetime:
        """Time of the last edit, or of publication if the post was never edited."""
        return self.date_updated or self.date_posted


async def fetch_post(db: AsyncSession, post_id: int) -> PostRow | None:
    rows = await fetch(db, FIND_POST, {"post_id": post_id})
    return PostRow.from_columns(rows[0]) if rows else None


async def fetch_user(db: AsyncSession, user_id: int) -> UserRow | None:
    rows = await fetch(db, FIND_USER, {"user_id": user_id})
    return UserRow(*rows[0]) if rows else None


async def fetch_page(
    db: AsyncSession,
    author: UserRow | None,
    limit: int,
    skip: int = 0,
    after: tuple[datetime, int] | None = None,
) -> tuple[list[PostRow], int]:
    """Return the newest posts after an offset or a position, and the total.

    Both come from one statement, so that they are consistent even if posts are
    published or deleted at the same time.
    """
    statement = page_statement(author is not None, after is not None, limit)
    parameters: dict[str, Any] = {"user_id": author.id if author else SITE}
    if after is None:
        parameters["skip"] = skip
    else:
        parameters["date_posted"], parameters["post_id"] = after
    rows = await fetch(db, statement, parameters)
    # If the page is empty, there is one row that only contains the total.
    return [PostRow.from_columns(row[1:]) for row in rows if row[1]], rows[0][0]


@cache
def page_statement(by_author: bool, by_position: bool, limit: int) -> Statement:
    """Build the statement that fetches a page.

    The statement walks the index from the nearer end of the list, and only reads the
    posts and authors on the page from their tables.
    """
    user_id = bindparam("user_id", type_=Integer)
    counted = (
        select(func.coalesce(func.sum(PostCount.posts), 0).label("total"))
        .where(PostCount.user_id == user_id)
        .cte("counted")
    )
    listed = select(Post.id)
    if by_author:
        listed = listed.where(Post.user_id == user_id)
    # With a bound parameter as the limit, the planner would expect too many rows.
    rows = literal_column(str(limit), Integer)
    if by_position:
        position = tuple_(bindparam("date_posted"), bindparam("post_id"))
        older = listed.where(tuple_(*OLDEST_FIRST) < position)
        page = older.order_by(*NEWEST_FIRST).limit(rows).subquery("page")
    else:
        total = select(counted.c.total).scalar_subquery()
        skip = bindparam("skip", type_=Integer)
        from_start = listed.where(skip <= total // 2).order_by(*NEWEST_FIRST)
        from_end = listed.where(skip > total // 2).order_by(*OLDEST_FIRST)
        remaining = func.greatest(total - skip, 0)
        nearer = union_all(
            from_start.offset(skip).limit(rows),
            from_end.offset(func.greatest(remaining - rows, 0)).limit(
                func.least(remaining, rows)
            ),
        ).subquery()
        page = select(nearer.c.id).limit(rows).subquery("page")
    posts = page.join(Post, Post.id == page.c.id).join(User, User.id == Post.user_id)
    return (
        select(counted.c.total, *POST, *USER)
        .select_from(counted.outerjoin(posts, true()))
        .order_by(*NEWEST_FIRST)
    )
