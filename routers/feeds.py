"""Atom feeds, sitemaps and robots.txt."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Request, Response, status
from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from database import MAX_ID, DbSession
from dependencies import FoundUser
from models import EPOCH, Post, User
from paths import path_for
from queries import UserRow, fetch_page
from rendering import render as render_post
from templating import templates

router = APIRouter(include_in_schema=False)

FEED_LENGTH = 20
# Number of ids per sitemap, some of which may be unused. The protocol allows up to
# 50,000 URLs (https://www.sitemaps.org/protocol.html).
SITEMAP_LENGTH = 10_000
# Characters that XML 1.0 (section 2.2) doesn't allow, even if they are escaped.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# For each kind of sitemap: its table, the route of its pages, and the path parameter.
SITEMAPS: dict[str, tuple[type[Post] | type[User], str, str]] = {
    "posts": (Post, "post_page", "post_id"),
    "users": (User, "user_posts_page", "user_id"),
}


def xml_text(text: str) -> str:
    return NOT_IN_XML.sub("\ufffd", text)


templates.env.filters["xml_text"] = xml_text


def render(
    request: Request, template: str, media_type: str, context: dict[str, Any]
) -> Response:
    return templates.TemplateResponse(
        request,
        f"feeds/{template}",
        context,
        # Not all clients read the encoding declared in the XML (RFC 7303, section 3.2).
        media_type=f"{media_type}; charset=utf-8",
    )


async def render_feed(
    request: Request, db: AsyncSession, author: UserRow | None, *, feed: str, page: str
) -> Response:
    """Return the Atom feed (RFC 4287) of all posts, or of one author's posts."""
    posts, _ = await fetch_page(db, author, FEED_LENGTH)
    # Even an empty feed needs an `updated` element (RFC 4287, section 4.1.1).
    context = {
        "author": author,
        "page": page,
        "feed": feed,
        "entries": [
            (post, await render_post(post.content, post.format)) for post in posts
        ],
        "updated": max((post.updated_at for post in posts), default=EPOCH),
    }
    return render(request, "atom.xml", "application/atom+xml", context)


@router.get("/feed.atom")
async def site_feed(request: Request, db: DbSession) -> Response:
    page = path_for(request.app, "home_page")
    feed = path_for(request.app, "site_feed")
    return await render_feed(request, db, None, feed=feed, page=page)


@router.get("/users/{user_id}/feed.atom")
async def user_feed(request: Request, user: FoundUser, db: DbSession) -> Response:
    page = path_for(request.app, "user_posts_page", user_id=user.id)
    feed = path_for(request.app, "user_feed", user_id=user.id)
    return await render_feed(request, db, user, feed=feed, page=page)


@router.get("/robots.txt")
async def robots(request: Request) -> Response:
    return render(request, "robots.txt", "text/plain", {})


@router.get("/sitemap.xml")
async def sitemap_index(request: Request, db: DbSession) -> Response:
    paths = [path_for(request.app, "page_sitemap")]
    for kind, (table, _, _) in SITEMAPS.items():
        parts = await sitemap_numbers(db, table)
        paths += [
            path_for(request.app, "sitemap", kind=kind, part=part) for part in parts
        ]
    return render(request, "sitemap_index.xml", "application/xml", {"paths": paths})


async def sitemap_numbers(
    db: AsyncSession, table: type[Post] | type[User]
) -> Sequence[int]:
    """Return the numbers of the sitemaps that are not empty."""
    last = select(func.max(table.id) / SITEMAP_LENGTH).scalar_subquery()
    part = func.generate_series(0, last).column_valued("part")
    filled = select(table.id).where(in_sitemap(table, part)).exists()
    return (await db.scalars(select(part).where(filled).order_by(part))).all()


def in_sitemap(table: type[Post] | type[User], part: Any) -> Any:
    """Return an SQL condition for the rows in the sitemap with this number."""
    # The last sitemap ends beyond the largest `integer`, so use `bigint`.
    first = cast(part, BigInteger) * SITEMAP_LENGTH
    return table.id.between(first, first + SITEMAP_LENGTH - 1)


@router.get("/sitemaps/pages.xml")
async def page_sitemap(request: Request) -> Response:
    paths = [path_for(request.app, "home_page")]
    return render(request, "sitemap.xml", "application/xml", {"paths": paths})


@router.get("/sitemaps/{kind}-{part}.xml")
async def sitemap(
    request: Request,
    kind: Literal["posts", "users"],
    part: Annotated[int, Path(ge=0, le=MAX_ID // SITEMAP_LENGTH)],
    db: DbSession,
) -> Response:
    table, route, parameter = SITEMAPS[kind]
    statement = select(table.id).where(in_sitemap(table, part)).order_by(table.id)
    ids = (await db.scalars(statement)).all()
    if not ids:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    paths = [path_for(request.app, route, **{parameter: row_id}) for row_id in ids]
    return render(request, "sitemap.xml", "application/xml", {"paths": paths})
