"""Queries for public data: statements that are built once, and the rows they return.

Pages, the API and feeds share them. Writes load ORM objects instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from database import Statement, fetch
from models import Post, PostCount, User, display_title, excerpt, picture_path
from rendering import PostFormat, text_without_markup

USER = (User.id, User.username, User.image_file, User.bio)
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

SEARCH = Post.__table__.c.search
# The total of a search stops here.
MAX_SEARCH_TOTAL = 1001
# Words are common if at least `COMMON` of the `SAMPLE` newest posts contain them. Then,
# the `MAX_WALKED` newest posts probably contain them often enough for the total.
SAMPLE = 2000
COMMON = 300
MAX_WALKED = 10_000
# If fewer posts than `FEW` match, a search sorts them. Otherwise, it first looks for a
# page of them among the next `MAX_DEPTH` posts.
FEW = 5_000
MAX_DEPTH = 20_000

# The `user_id` that stands for the whole site in `post_counts`.
SITE = 0

FIND_POST = (
    select(*POST, *USER).join(Post.author).where(Post.id == bindparam("post_id"))
)
# Enough of the content of an untitled post to create a title from it.
MAX_START_LENGTH = 2000


def _neighbor(name: str, *, newer: bool) -> FromClause:
    """Return a subquery for the next newer or older post by the author of a post."""
    other = aliased(Post)
    columns = (other.date_posted, other.id)
    position, current = tuple_(*columns), tuple_(*OLDEST_FIRST)
    is_beyond = position > current if newer else position < current
    order = columns if newer else [column.desc() for column in columns]
    start = case((other.title == "", func.left(other.content, MAX_START_LENGTH)))
    return (
        select(other.id, other.title, start.label("start"), other.format)
        .where(other.user_id == Post.user_id, is_beyond)
        .order_by(*order)
        .limit(1)
        .lateral(name)
    )


NEWER, OLDER = _neighbor("newer", newer=True), _neighbor("older", newer=False)
FIND_POST_WITH_NEIGHBORS = (
    select(*POST, *USER, *NEWER.c, *OLDER.c)
    .join(Post.author)
    .outerjoin(NEWER, true())
    .outerjoin(OLDER, true())
    .where(Post.id == bindparam("post_id"))
)
FIND_USER = select(*USER).where(User.id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class UserRow:
    """The public profile of a user."""

    id: int
    username: str
    image_file: str | None
    bio: str

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
    def is_title_only(self) -> bool:
        """True if the post is untitled, and its text is as short as a title."""
        return not self.title and self.display_title == self.excerpt

    @property
    def updated_at(self) -> datetime:
        """Time of the last edit, or of publication if the post was never edited."""
        return self.date_updated or self.date_posted


@dataclass(frozen=True, slots=True)
class PostLink:
    """What a link to a post needs."""

    id: int
    display_title: str


@dataclass(frozen=True, slots=True)
class PostWithNeighbors:
    """A post, and the next newer and older posts by the same author."""

    post: PostRow
    newer: PostLink | None
    older: PostLink | None


async def fetch_post(db: AsyncSession, post_id: int) -> PostRow | None:
    rows = await fetch(db, FIND_POST, {"post_id": post_id})
    return PostRow.from_columns(rows[0]) if rows else None


async def fetch_post_with_neighbors(
    db: AsyncSession, post_id: int
) -> PostWithNeighbors | None:
    rows = await fetch(db, FIND_POST_WITH_NEIGHBORS, {"post_id": post_id})
    if not rows:
        return None
    columns = rows[0]
    links = [
        PostLink(
            row_id, display_title(title, text_without_markup(start or "", post_format))
        )
        if row_id
        else None
        for row_id, title, start, post_format in (columns[-8:-4], columns[-4:])
    ]
    return PostWithNeighbors(PostRow.from_columns(columns[:-8]), *links)


async def fetch_user(db: AsyncSession, user_id: int) -> UserRow | None:
    rows = await fetch(db, FIND_USER, {"user_id": user_id})
    return UserRow(*rows[0]) if rows else None


async def fetch_page(
    db: AsyncSession,
    author: User | UserRow | None,
    limit: int,
    skip: int = 0,
    after: tuple[datetime, int] | None = None,
    search: tuple[str, str] | None = None,
) -> tuple[list[PostRow], int]:
    """Return the newest posts after an offset or a position, and the total.

    Both come from one statement, so that they are consistent even if posts are
    published or deleted at the same time. `search` contains two queries for
    `to_tsquery`: the second one may find more posts, but the index finds them faster.
    """
    parameters: dict[str, Any] = {}
    if search is None:
        statement = page_statement(author is not None, after is not None, limit)
        parameters["user_id"] = author.id if author else SITE
    else:
        statement = search_statement(after is not None, limit)
        parameters["terms"], parameters["for_index"] = search
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
    return with_posts(counted, page)


def with_posts(counted: FromClause, page: FromClause) -> Statement:
    """Select a total, and the posts whose ids are on a page."""
    posts = page.join(Post, Post.id == page.c.id).join(User, User.id == Post.user_id)
    return (
        select(counted.c.total, *POST, *USER)
        .select_from(counted.outerjoin(posts, true()))
        .order_by(*NEWEST_FIRST)
    )


@cache
def search_statement(by_position: bool, limit: int) -> Statement:
    """Build the statement that fetches a page of a search.

    A search for common words quickly finds enough matches among the newest posts. For
    rare words, the GIN index is faster, but it collects all matches. The planner can't
    choose between them, because it doesn't know how common the words are, so the
    statement looks at a sample first.

    PostgreSQL evaluates subqueries when they are needed, and stops reading common table
    expressions once it has enough rows.
    """
    rows = literal_column(str(limit), BigInteger)
    skip = bindparam("skip", 0, type_=BigInteger)
    query = select(
        *(
            func.to_tsquery(
                literal_column("'simple'"), func.fold_text(bindparam(name, type_=Text))
            ).label(name)
            for name in ("terms", "for_index")
        )
    ).cte("query")
    terms = select(query.c.terms).scalar_subquery()
    for_index = select(query.c.for_index).scalar_subquery()

    def contains(posts: FromClause, query: ColumnElement[Any]) -> ColumnElement[bool]:
        return posts.c.search.bool_op("@@")(query)

    def found_in(posts: FromClause, found: ColumnElement[bool]) -> Statement:
        return select(posts.c.id, posts.c.date_posted).where(found)

    def first(posts: Statement, number: Any) -> FromClause:
        return posts.limit(number).subquery()

    def count(posts: FromClause, maximum: Any) -> ColumnElement[int]:
        counted = select(posts.c.id).limit(maximum).subquery()
        return select(func.count()).select_from(counted).scalar_subquery()

    def constant(number: int) -> ColumnElement[int]:
        return literal_column(str(number), BigInteger)

    maximum, common, few = map(constant, (MAX_SEARCH_TOTAL, COMMON, FEW))
    posts = select(Post.id, Post.date_posted, SEARCH)
    position = tuple_(bindparam("date_posted"), bindparam("post_id"))
    listed = posts.where(tuple_(*OLDEST_FIRST) < position) if by_position else posts
    newest = posts.order_by(*NEWEST_FIRST)
    sample = first(newest, constant(SAMPLE))
    sampled = count(found_in(sample, contains(sample, terms)).subquery(), common)
    walked = case((sampled == common, constant(MAX_WALKED)), else_=constant(0))
    nearest = first(select(first(newest, constant(MAX_WALKED))), walked)
    from_start = found_in(nearest, contains(nearest, terms)).subquery()
    is_common = count(from_start, maximum) == maximum

    # The index first collects all posts with a short prefix, which can be most of them,
    # so first try to find few posts without it.
    candidates = first(posts.where(contains(Post.__table__, for_index)), few)
    is_match = case((terms == for_index, true()), else_=contains(candidates, terms))
    tried = select(
        candidates.c.id, candidates.c.date_posted, is_match.label("is_match")
    ).cte("tried")
    among_few = found_in(tried, tried.c.is_match)
    is_few = count(tried, few) < few
    found = found_in(Post.__table__, contains(Post.__table__, terms)).cte("found")

    number = count(among_few.subquery(), maximum)
    total = case(
        (is_common, maximum),
        ((number == maximum) | is_few, number),
        else_=count(found, maximum),
    )
    is_rare = ~is_common & is_few
    walked_posts = first(listed.order_by(*NEWEST_FIRST), constant(MAX_DEPTH))
    near = found_in(walked_posts, contains(walked_posts, terms)).cte("near")
    is_near = count(near, skip + rows) == skip + rows
    far = union_all(
        among_few.where(is_rare), found_in(found, ~is_rare & ~is_near)
    ).subquery()
    rest = select(far.c.id)
    if by_position:
        rest = rest.where(tuple_(far.c.date_posted, far.c.id) < position)
    page = union_all(
        select(near.c.id).where(~is_rare & is_near).offset(skip).limit(rows),
        rest.order_by(far.c.date_posted.desc(), far.c.id.desc())
        .offset(skip)
        .limit(rows),
    ).subquery("page")
    return with_posts(select(total.label("total")).subquery("counted"), page)
