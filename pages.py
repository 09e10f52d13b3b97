"""The pages: templates, what they can use, and their routes."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

import models
import schemas
from config import BASE_DIR, settings
from database import MAX_ID, DbSession
from middleware import content_security_policy
from routers.paging import Window
from routers.posts import FoundPost, PostPage, fetch_posts
from routers.users import FoundUser
from static_files import modulepreloads

# What a page says about an error; for the others the standard's own words will do.
ERROR_TEXTS = {
    404: ("Page not found", "We couldn't find that page."),
    405: ("Method not allowed", "This page doesn't support that kind of request."),
    413: ("Request too large", "Your request is larger than this site accepts."),
    422: ("Invalid URL", "Part of this URL isn't valid."),
    429: ("Too many requests", "Please wait a moment and try again."),
    500: (
        "Something went wrong",
        "An error occurred on our end. Please try again in a moment.",
    ),
    503: (
        "Temporarily unavailable",
        "We can't reach our database right now. Please try again in a moment.",
    ),
}

router = APIRouter(include_in_schema=False)


def format_date(moment: datetime) -> str:
    """A day for people, in UTC: "November 03, 2026"."""
    return moment.astimezone(UTC).strftime("%B %d, %Y")


def iso_date(moment: datetime) -> str:
    """A moment for `<time datetime>`, in UTC (RFC 3339)."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def absolute_url(path: str) -> str:
    """The public address of a path. The host comes from the settings alone.

    A picture in a bucket has such an address already.
    """
    return settings.site_url + path if path.startswith("/") else path


def path_of(request: Request, route: str, **path_params: Any) -> str:
    """Return the path of a route."""
    return str(request.app.url_path_for(route, **path_params))


environment = Environment(
    loader=FileSystemLoader(BASE_DIR / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # In production the files do not change while the application runs.
    auto_reload=not settings.is_production,
)
environment.globals.update(
    absolute_url=absolute_url,
    format_date=format_date,
    iso_date=iso_date,
    modulepreloads=modulepreloads,
    limits={
        "title": models.TITLE_LENGTH,
        "username": models.USERNAME_LENGTH,
        "email": models.EMAIL_LENGTH,
        "content": schemas.CONTENT_LENGTH,
        "password_min": schemas.PASSWORD_MIN_LENGTH,
        "password_max": schemas.PASSWORD_MAX_LENGTH,
        "upload_bytes": settings.max_upload_size_bytes,
    },
)
templates = Jinja2Templates(env=environment)


def error_page(request: Request, error: HTTPException) -> Response:
    """The page for an error, with its status and headers."""
    phrase = HTTPStatus(error.status_code).phrase
    title, message = ERROR_TEXTS.get(error.status_code, (phrase, f"{phrase}."))
    return templates.TemplateResponse(
        request,
        "error.html",
        {"status_code": error.status_code, "title": title, "message": message},
        status_code=error.status_code,
        headers=error.headers,
    )


# Pages: the same for everybody; who is signed in is the browser's business.


PageNumber = Annotated[int, Query(ge=1, le=MAX_ID // settings.posts_per_page)]


# async: FastAPI would call a plain function in a thread, and wait for it.
async def page_window(page: PageNumber = 1) -> Window:
    """The posts on a numbered page, the first of which is 1."""
    limit = settings.posts_per_page
    return Window(skip=(page - 1) * limit, limit=limit)


PageWindow = Annotated[Window, Depends(page_window)]


def feed_context(feed: PostPage, path: str) -> dict[str, Any]:
    """What a page with a list of posts shows, and the pages before and after it."""
    page = feed.skip // feed.limit + 1

    def numbered(number: int) -> str:
        return path if number == 1 else f"{path}?page={number}"

    return {
        "posts": feed.posts,
        "total": feed.total,
        "limit": feed.limit,
        "has_more": feed.has_more,
        "next_cursor": feed.next_cursor,
        "page": page,
        "canonical": numbered(page),
        "newer": numbered(page - 1) if page > 1 else None,
        "older": numbered(page + 1) if feed.has_more else None,
    }


@router.get("/site/posts")
@router.get("/")
async def home_page(request: Request, window: PageWindow, db: DbSession) -> Response:
    feed = await fetch_posts(db, window)
    context = feed_context(feed, path_of(request, "home_page"))
    return templates.TemplateResponse(request, "home.html", context)


@router.get("/posts/{post_id}")
async def post_page(request: Request, post: FoundPost) -> Response:
    return templates.TemplateResponse(request, "post.html", {"post": post})


@router.get("/users/{user_id}/posts")
async def user_posts_page(
    request: Request, user: FoundUser, window: PageWindow, db: DbSession
) -> Response:
    feed = await fetch_posts(db, window, user)
    path = path_of(request, "user_posts_page", user_id=user.id)
    context = feed_context(feed, path) | {"author": user}
    return templates.TemplateResponse(request, "user_posts.html", context)


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
    # The token in this page's address must not go along to where its links lead.
    return templates.TemplateResponse(
        request, "reset_password.html", headers={"Referrer-Policy": "no-referrer"}
    )


# The libraries that the two viewers consist of make HTML out of strings. The policy
# "default" (trusted-html.js) cleans it with DOMPurify, which needs one of its own, as
# does the copy in Swagger UI. ReDoc also fills style elements by script, which begin
# empty, but for one.
SANITIZER_POLICIES = ("default", "dompurify")
DOCS_POLICY = content_security_policy(
    settings.media_url, policies=(*SANITIZER_POLICIES, "dompurify#swagger-ui")
)
REDOC_POLICY = content_security_policy(
    settings.media_url,
    style_hashes=(
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc=",
    ),
    policies=SANITIZER_POLICIES,
)


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": DOCS_POLICY}
    return templates.TemplateResponse(request, "docs.html", headers=headers)


@router.get("/redoc")
async def redoc_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": REDOC_POLICY}
    return templates.TemplateResponse(request, "redoc.html", headers=headers)
