"""HTML pages, which are the same for every visitor.

Only the browser knows whether the visitor is logged in.
"""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from config import settings
from content_security_policy import REDOC_POLICY, SWAGGER_UI_POLICY
from database import MAX_ID, DbSession
from dependencies import FoundPostWithNeighbors, FoundUser, SearchParam
from exceptions import error_page_response
from pagination import PageRequest, PostPage, fetch_posts
from paths import path_for
from rendering import render
from static_files import SHORT_CACHE_CONTROL, STATIC_DIR
from templating import templates

router = APIRouter(include_in_schema=False)

PageNumber = Annotated[int, Query(ge=1, le=MAX_ID // settings.posts_per_page)]


# Async, because FastAPI would run a sync function in a thread.
async def get_numbered_page(page: PageNumber = 1) -> PageRequest:
    """Convert a page number, starting at 1, to an offset and a limit."""
    limit = settings.posts_per_page
    return PageRequest(skip=(page - 1) * limit, limit=limit)


NumberedPage = Annotated[PageRequest, Depends(get_numbered_page)]


def list_response(
    request: Request,
    template: str,
    listed: PostPage,
    path: str,
    query: Mapping[str, str] = MappingProxyType({}),
    **context: Any,
) -> Response:
    """Return a page of a list, or a 404 if it is beyond the last page."""
    page = listed.skip // listed.limit + 1

    def numbered(number: int) -> str:
        parameters = query if number == 1 else {**query, "page": number}
        return f"{path}?{urlencode(parameters)}" if parameters else path

    if page > 1 and not listed.posts:
        last = max(1, math.ceil(listed.total / listed.limit))
        return error_page_response(
            request, HTTPException(404), last_page=numbered(last)
        )
    context |= {
        "posts": listed.posts,
        "total": listed.total,
        "limit": listed.limit,
        "has_more": listed.has_more,
        "next_cursor": listed.next_cursor,
        "page": page,
        "canonical": numbered(page),
        "newer": numbered(page - 1) if page > 1 else None,
        "older": numbered(page + 1) if listed.has_more else None,
    }
    return templates.TemplateResponse(request, template, context)


@router.get("/site/posts")
@router.get("/")
async def home_page(request: Request, page: NumberedPage, db: DbSession) -> Response:
    listed = await fetch_posts(db, page)
    path = path_for(request.app, "home_page")
    return list_response(request, "home.html", listed, path)


@router.get("/posts/{post_id}")
async def post_page(request: Request, found: FoundPostWithNeighbors) -> Response:
    post = found.post
    context = {
        "post": post,
        "content_html": await render(post.content, post.format),
        "newer": found.newer,
        "older": found.older,
    }
    return templates.TemplateResponse(request, "post.html", context)


@router.get("/users/{user_id}/posts")
async def user_posts_page(
    request: Request, user: FoundUser, page: NumberedPage, db: DbSession
) -> Response:
    listed = await fetch_posts(db, page, user)
    path = path_for(request.app, "user_posts_page", user_id=user.id)
    return list_response(request, "user_posts.html", listed, path, author=user)


@router.get("/search")
async def search_page(
    request: Request, page: NumberedPage, search: SearchParam, db: DbSession
) -> Response:
    if search is None or not search.terms:
        return templates.TemplateResponse(request, "search.html", {"search": None})
    listed = await fetch_posts(db, page, search=search)
    path = path_for(request.app, "search_page")
    query = {"q": search.text}
    return list_response(request, "search.html", listed, path, query, search=search)


@router.get("/login")
async def login_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "login.html")


@router.get("/register")
async def register_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "register.html")


@router.get("/account")
async def account_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "account.html")


@router.get("/forgot-password")
async def forgot_password_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "forgot_password.html")


@router.get("/reset-password")
async def reset_password_page(request: Request) -> Response:
    # The URL contains a token, which the browser must not send to other sites.
    return templates.TemplateResponse(
        request, "reset_password.html", headers={"Referrer-Policy": "no-referrer"}
    )


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": SWAGGER_UI_POLICY}
    return templates.TemplateResponse(request, "swagger_ui.html", headers=headers)


@router.get("/redoc")
async def redoc_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": REDOC_POLICY}
    return templates.TemplateResponse(request, "redoc.html", headers=headers)


@router.get("/site.webmanifest")
async def manifest() -> Response:
    """Return the web app manifest with the name of the site."""
    content = json.loads((STATIC_DIR / "site.webmanifest").read_text("utf-8"))
    content |= {
        "name": settings.site_name,
        "description": f"Read and write posts on {settings.site_name}.",
    }
    return JSONResponse(content, media_type="application/manifest+json")


# Browsers and link previews request these paths even if no page links to them.
@router.get("/favicon.ico")
async def favicon() -> Response:
    return icon("favicon.ico", "image/x-icon")


@router.get("/apple-touch-icon.png")
async def apple_touch_icon() -> Response:
    return icon("apple-touch-icon.png", "image/png")


def icon(name: str, media_type: str) -> Response:
    content = (STATIC_DIR / "icons" / name).read_bytes()
    headers = {"Cache-Control": SHORT_CACHE_CONTROL}
    return Response(content, headers=headers, media_type=media_type)
