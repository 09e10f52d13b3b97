"""The application: assembly, error answers and pages."""

import asyncio
import logging
import mimetypes
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response, status
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import models
import schemas
from config import BASE_DIR, ConfigurationError, settings
from database import (
    MAX_ID,
    BackgroundDbSession,
    DatabaseUnavailable,
    DbSession,
    is_unavailable,
    shut_down,
    start_embedded_server,
)
from image_utils import CACHE_CONTROL
from middleware import (
    CatchErrors,
    DropTrailingSlash,
    HeadAsGet,
    LimitBodies,
    PlainStartupErrors,
    SecurityHeaders,
)
from rate_limits import LimitReached
from routers import Window, errors, posts, users
from routers.posts import FoundPost, PostPage, fetch_posts
from routers.users import FoundUser

BODY_BYTES = 1024 * 1024
MULTIPART_FRAME_BYTES = 64 * 1024
UPLOAD_PATH = re.compile(r"/api/users/[^/]+/picture")
HEALTH_SECONDS = 1.5
RETRY_AFTER = {"Retry-After": "5"}
SECURITY_HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
}

# What a page says about an error; for the others the standard's own words will do.
ERROR_TEXTS = {
    404: ("Page not found", "There is nothing at this address."),
    405: ("Not possible here", "This page cannot be used in that way."),
    413: ("Too large", "What was sent is larger than this site accepts."),
    422: (
        "Address not understood",
        "Something in this address is not as it should be.",
    ),
    429: ("Too many requests", "Please wait a little before you try again."),
    500: ("Something went wrong", "The fault is ours. Please try again in a moment."),
    503: (
        "Not available right now",
        "The site cannot reach its data at the moment. Please try again in a moment.",
    ),
}

mimetypes.add_type("application/manifest+json", ".webmanifest")
mimetypes.add_type("text/javascript", ".js")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Check and start what serving needs; leave nothing running at the end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    settings.check_ready_to_serve()
    if not settings.is_production:
        await asyncio.to_thread(start_embedded_server)
    yield
    await shut_down()


app = FastAPI(
    title="fastapi-blog",
    description="A blog: accounts, posts and profile pictures.",
    version="0.1.0",
    lifespan=lifespan,
    redirect_slashes=False,
)


def path_for(name: str, **path_params: Any) -> str:
    """The path of a route. Not `url_for`, which takes the host from the request."""
    return str(app.url_path_for(name, **path_params))


def static_path(file: str) -> str:
    """The path of a file under `static/`."""
    return path_for("static", path=file)


def format_date(moment: datetime) -> str:
    """A day for people, in UTC: "November 03, 2026"."""
    return moment.astimezone(UTC).strftime("%B %d, %Y")


def iso_date(moment: datetime) -> str:
    """A moment for `<time datetime>`, in UTC (RFC 3339)."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


environment = Environment(
    loader=FileSystemLoader(BASE_DIR / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.globals.update(
    path_for=path_for,
    static_path=static_path,
    format_date=format_date,
    iso_date=iso_date,
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


# Errors


def wants_json(request: Request) -> bool:
    """Whether an error at this address is for a program and not for a person."""
    path = request.url.path
    return path.startswith("/api/") or path in {"/api", "/health"}


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


@app.exception_handler(HTTPException)
async def answer_http_error(request: Request, error: HTTPException) -> Response:
    """An HTTP error as JSON or as a page."""
    if is_unreadable_body(error):
        fault = {"type": "body", "loc": ("body",), "msg": "The body cannot be read"}
        return answer_invalid(request, RequestValidationError([fault]))
    if wants_json(request):
        return await http_exception_handler(request, error)
    return error_page(request, error)


def is_unreadable_body(error: HTTPException) -> bool:
    """Whether FastAPI or Starlette gave up on a body and answered 400 by themselves."""
    return error.status_code == status.HTTP_400_BAD_REQUEST and (
        error.detail == "There was an error parsing the body"
        or isinstance(error.__context__, MultiPartException)
    )


def answer_invalid(request: Request, error: RequestValidationError) -> Response:
    """A 422 that says where and why, and never repeats what was sent."""
    if not wants_json(request):
        return error_page(request, HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT))
    faults = [
        {"type": fault["type"], "loc": fault["loc"], "msg": fault["msg"]}
        for fault in error.errors()
    ]
    return JSONResponse(
        {"detail": faults}, status_code=status.HTTP_422_UNPROCESSABLE_CONTENT
    )


@app.exception_handler(RequestValidationError)
async def answer_invalid_request(
    request: Request, error: RequestValidationError
) -> Response:
    """`answer_invalid`, as Starlette calls it: on the event loop, not in a thread."""
    return answer_invalid(request, error)


@app.exception_handler(LimitReached)
async def answer_limit_reached(request: Request, error: LimitReached) -> Response:
    """A 429 that says how long to wait."""
    return await answer_http_error(
        request,
        HTTPException(
            status.HTTP_429_TOO_MANY_REQUESTS,
            "Too many attempts. Please try again later.",
            headers={"Retry-After": str(error.retry_after)},
        ),
    )


@app.exception_handler(DatabaseUnavailable)
@app.exception_handler(SQLAlchemyError)
@app.exception_handler(TimeoutError)
async def answer_database_error(request: Request, error: Exception) -> Response:
    """A 503 while the database is away; any other fault of a query is a bug."""
    if not is_unavailable(error):
        raise error
    logging.getLogger(__name__).error("Database unavailable: %s", error)
    return await answer_http_error(
        request,
        HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "Database unavailable",
            headers=RETRY_AFTER,
        ),
    )


def answer_bug(request: Request) -> Response:
    """A 500 that tells nothing but that."""
    error = HTTPException(status.HTTP_500_INTERNAL_SERVER_ERROR)
    if wants_json(request):
        return JSONResponse({"detail": error.detail}, status_code=error.status_code)
    return error_page(request, error)


# Middleware: the one added last comes first.


def body_limit(scope: Scope) -> int:
    """The largest body accepted on a path, in bytes."""
    if UPLOAD_PATH.fullmatch(scope["path"]):
        return settings.max_upload_size_bytes + MULTIPART_FRAME_BYTES
    return BODY_BYTES


app.add_middleware(LimitBodies, limit_for=body_limit)
app.add_middleware(DropTrailingSlash)
app.add_middleware(HeadAsGet)
app.add_middleware(CatchErrors, answer=answer_bug)
app.add_middleware(SecurityHeaders, headers=SECURITY_HEADERS)
app.add_middleware(
    PlainStartupErrors, expected=(ConfigurationError, DatabaseUnavailable)
)
if settings.proxy_hops:
    # Behind a load balancer of one's own everything comes from it.
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts="*")


# API and files


class CachedFiles(StaticFiles):
    """Files with a `Cache-Control` of their own."""

    def __init__(self, *args: Any, cache_control: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cache_control = cache_control

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = self.cache_control
        return response


app.include_router(users.router)
app.include_router(posts.router)
app.mount(
    "/static",
    CachedFiles(directory=BASE_DIR / "static", cache_control="no-cache"),
    name="static",
)
if settings.s3_bucket_name is None:
    app.mount(
        "/media",
        CachedFiles(
            directory=settings.media_dir,
            # The folder is made with the first picture.
            check_dir=False,
            cache_control=CACHE_CONTROL,
        ),
        name="media",
    )


@app.get(
    "/health",
    response_model=schemas.HealthResponse,
    responses=errors(503),
    tags=["health"],
)
async def health(db: BackgroundDbSession) -> schemas.HealthResponse | Response:
    """Tell whether the application reaches its database."""
    probe = asyncio.ensure_future(db.execute(select(1)))
    # Not wait_for: that one waits until the probe has noticed its end.
    await asyncio.wait({probe}, timeout=HEALTH_SECONDS)
    if probe.done() and probe.exception() is None:
        return schemas.HealthResponse()
    return JSONResponse(
        {"detail": "Database unavailable"},
        status_code=status.HTTP_503_SERVICE_UNAVAILABLE,
        headers=RETRY_AFTER,
        background=BackgroundTask(end, probe),
    )


async def end(probe: asyncio.Future[Any]) -> None:
    """Stop a probe whose answer nobody waits for any more."""
    probe.cancel()
    await asyncio.wait({probe})


# Pages: the same for everybody; who is signed in is the browser's business.


PageNumber = Annotated[int, Query(ge=1, le=MAX_ID // settings.posts_per_page)]


def page_window(page: PageNumber = 1) -> Window:
    """The posts on a numbered page, the first of which is 1."""
    limit = settings.posts_per_page
    return Window(skip=(page - 1) * limit, limit=limit)


PageWindow = Annotated[Window, Depends(page_window)]


def feed_context(feed: PostPage, path: str) -> dict[str, Any]:
    """What a page with a list of posts shows, and the pages before and after it."""
    page = feed.skip // feed.limit + 1
    newer = path if page == 2 else f"{path}?page={page - 1}"
    return {
        "posts": feed.posts,
        "total": feed.total,
        "limit": feed.limit,
        "has_more": feed.has_more,
        "page": page,
        "newer": newer if page > 1 else None,
        "older": f"{path}?page={page + 1}" if feed.has_more else None,
    }


@app.get("/site/posts", include_in_schema=False)
@app.get("/", include_in_schema=False)
async def home_page(request: Request, window: PageWindow, db: DbSession) -> Response:
    feed = await fetch_posts(db, models.Post.newest_first(), window)
    context = feed_context(feed, path_for("home_page"))
    return templates.TemplateResponse(request, "home.html", context)


@app.get("/posts/{post_id}", include_in_schema=False)
async def post_page(request: Request, post: FoundPost) -> Response:
    return templates.TemplateResponse(request, "post.html", {"post": post})


@app.get("/users/{user_id}/posts", include_in_schema=False)
async def user_posts_page(
    request: Request, user: FoundUser, window: PageWindow, db: DbSession
) -> Response:
    feed = await fetch_posts(db, models.Post.newest_first_of(user), window)
    context = feed_context(feed, path_for("user_posts_page", user_id=user.id))
    return templates.TemplateResponse(
        request, "user_posts.html", {**context, "author": user}
    )


@app.get("/login", include_in_schema=False)
async def login_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "login.html")


@app.get("/register", include_in_schema=False)
async def register_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "register.html")


@app.get("/account", include_in_schema=False)
async def account_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "account.html")


@app.get("/forgot-password", include_in_schema=False)
async def forgot_password_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "forgot_password.html")


@app.get("/reset-password", include_in_schema=False)
async def reset_password_page(request: Request) -> Response:
    # The token in this page's address must not go along to where its links lead.
    return templates.TemplateResponse(
        request, "reset_password.html", headers={"Referrer-Policy": "no-referrer"}
    )
