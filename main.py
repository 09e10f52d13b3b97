"""The application: assembly, error answers and pages."""

import asyncio
import gc
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response, status
from fastapi.exceptions import RequestValidationError
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Scope
from starlette_compress import CompressMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import feeds
import pages
import schemas
from collapsing import CollapseRequests
from config import ConfigurationError, renamed_settings, settings
from database import (
    UNAVAILABLE_ERRORS,
    BackgroundDbSession,
    DatabaseUnavailable,
    dispose_engine,
    is_unavailable,
    start_embedded_server,
)
from entity_tags import ConditionalRequests, EntityTags
from middleware import (
    AllowedHostsMiddleware,
    BodyLimitMiddleware,
    ClientIPMiddleware,
    FormCharsetMiddleware,
    HeadMiddleware,
    RateLimitMiddleware,
    SecurityHeadersMiddleware,
    ServerAddressMiddleware,
    ServerErrorMiddleware,
    StartupErrorMiddleware,
    TrailingSlashMiddleware,
    content_security_policy,
    cors_options,
)
from problems import DATABASE_UNAVAILABLE, TOO_BUSY, answer_error
from routers import documentation, pictures, posts, users
from static_files import (
    STATIC_DIR,
    ImmutableStaticFiles,
    VersionedStaticFiles,
    static_version,
)
from workers import QueueFull

logger = logging.getLogger(__name__)

BODY_BYTES = 1024 * 1024
MULTIPART_FRAME_BYTES = 64 * 1024
UPLOAD_PATH = re.compile(r"/api/users/[^/]+/picture")
QUERY = re.compile(r"\?|%3f", re.IGNORECASE)
HEALTH_PATH = "/health"
HEALTH_SECONDS = 1.5
ROUTERS = (users.router, posts.router, pages.router, feeds.router)
SECURITY_HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Content-Security-Policy": content_security_policy(settings.media_url),
}


def without_query(record: logging.LogRecord) -> bool:
    """Take the query, which may hold a reset token, out of a line of the access log.

    Some mail programs and copying people encode the question mark before it, too.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            QUERY.split(value, maxsplit=1)[0] if isinstance(value, str) else value
            for value in record.args
        )
    return True


# The server writes a line for each request: client, method, path with query, status.
logging.getLogger("uvicorn.access").addFilter(without_query)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Check and start what serving needs; leave nothing running at the end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    for warning in renamed_settings():
        logger.warning(warning)
    settings.check_production_settings()
    if not settings.is_production:
        await asyncio.to_thread(start_embedded_server)
        logging.getLogger(__name__).info("Data directory: %s", settings.var_dir)
    # Looking through all that is here now, for cycles that nobody needs any more, would
    # stop everything for a tenth of a second every now and then.
    gc.collect()
    gc.freeze()
    cleanup = asyncio.create_task(pictures.run_cleanup())
    yield
    gc.unfreeze()
    cleanup.cancel()
    await asyncio.wait({cleanup})
    await dispose_engine()


app = FastAPI(
    title="fastapi-blog",
    summary="The API of a blog: accounts, posts and profile pictures.",
    description=documentation.DESCRIPTION,
    version="0.1.0",
    license_info={"name": "MIT", "identifier": "MIT"},
    openapi_tags=documentation.TAGS,
    generate_unique_id_function=lambda route: route.name,
    lifespan=lifespan,
    redirect_slashes=False,
    # Pages of our own take their place: these load scripts from another host.
    docs_url=None,
    redoc_url=None,
)

# FastAPI's way to customize the document; mypy takes methods for constants.
app.openapi = partial(documentation.custom_openapi, app)  # type: ignore[method-assign]


# A page names some fifty, and the application looks through all its routes for each.
@lru_cache(maxsize=4096)
def path_for(name: str, **path_params: Any) -> str:
    """The path of a route. Not `url_for`, which takes the host from the request."""
    return str(app.url_path_for(name, **path_params))


def static_path(file: str) -> str:
    """The path of a file under `static/`; it changes when any of them does."""
    return path_for("static", path=f"{static_version()}/{file}")


# Only the application knows all its routes.
pages.environment.globals.update(path_for=path_for, static_path=static_path)


# Errors


def wants_json(request: Request) -> bool:
    """Whether an error at this address is for a program and not for a person."""
    path = request.url.path
    return path.startswith("/api/") or path in {"/api", HEALTH_PATH}


@app.exception_handler(HTTPException)
async def answer_http_error(request: Request, error: HTTPException) -> Response:
    """An HTTP error as JSON or as a page."""
    if is_unreadable_body(error):
        fault = {"type": "body", "loc": ("body",), "msg": "The body cannot be read"}
        return answer_invalid(request, RequestValidationError([fault]))
    if error.status_code == status.HTTP_405_METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(methods_at(request)))
        error.headers = {**(error.headers or {}), "Allow": allowed}
    return answer_plainly(request, error)


def methods_at(request: Request) -> set[str]:
    """What can be done at an address; Starlette names only what the first route can.

    `/api/users/me` also looks like `/api/users/{user_id}`, but is not meant by it: what
    counts are the routes with the fewest parameters.
    """
    routes = [
        route
        for holder in (*ROUTERS, app)
        for route in holder.routes
        if isinstance(route, Route) and route.path_regex.match(request.url.path)
    ]
    fewest = min((len(route.param_convertors) for route in routes), default=0)
    # Where there is none, something mounted has refused: files are only read.
    methods = {"GET"} if not routes else set()
    for route in routes:
        if len(route.param_convertors) == fewest:
            methods |= route.methods or set()
    return methods | {"HEAD"} if "GET" in methods else methods


def is_unreadable_body(error: HTTPException) -> bool:
    """Whether FastAPI or Starlette gave up on a body and answered 400 by themselves."""
    return error.status_code == status.HTTP_400_BAD_REQUEST and (
        error.detail == "There was an error parsing the body"
        or isinstance(error.__context__, MultiPartException)
    )


def answer_invalid(request: Request, error: RequestValidationError) -> Response:
    """A 422 that says where and why, and never repeats what was sent."""
    if not wants_json(request):
        return pages.error_page(
            request, HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT)
        )
    faults = [
        {"type": fault["type"], "loc": fault["loc"], "msg": fault["msg"]}
        for fault in error.errors()
    ]
    return answer_error(request, status.HTTP_422_UNPROCESSABLE_CONTENT, faults)


@app.exception_handler(RequestValidationError)
async def answer_invalid_request(
    request: Request, error: RequestValidationError
) -> Response:
    """`answer_invalid`, as Starlette calls it: on the event loop, not in a thread."""
    return answer_invalid(request, error)


@app.exception_handler(QueueFull)
async def answer_busy(request: Request, _error: QueueFull) -> Response:
    """A 503 while more is waiting than can be done soon."""
    return await answer_http_error(request, TOO_BUSY.error())


def answer_no_room(request: Request) -> Response:
    """A 503 while too much is being read slowly."""
    return answer_plainly(request, TOO_BUSY.error())


async def answer_database_error(request: Request, error: Exception) -> Response:
    """Return a 503 while the database is unavailable; any other error is a bug."""
    if not is_unavailable(error):
        raise error
    logger.error("Database unavailable: %s", error)
    return await answer_http_error(request, DATABASE_UNAVAILABLE.error())


for error_class in (DBAPIError, *UNAVAILABLE_ERRORS):
    app.add_exception_handler(error_class, answer_database_error)


def answer_plainly(request: Request, error: HTTPException) -> Response:
    """An error as JSON or as a page, with nothing added."""
    if wants_json(request):
        return answer_error(request, error.status_code, error.detail, error.headers)
    return pages.error_page(request, error)


# Middleware: the one added last comes first.


def max_body_size(scope: Scope) -> int:
    """Return the maximum size of a request body, in bytes."""
    if UPLOAD_PATH.fullmatch(scope["path"]):
        return settings.max_upload_size_bytes + MULTIPART_FRAME_BYTES
    return BODY_BYTES


app.add_middleware(FormCharsetMiddleware)
app.add_middleware(BodyLimitMiddleware, max_body_size=max_body_size)
app.add_middleware(TrailingSlashMiddleware)
app.add_middleware(EntityTags)
# Of the three codings this one makes the smallest files at a speed that pages allow.
app.add_middleware(CompressMiddleware, zstd=False, brotli_quality=5)
app.add_middleware(ConditionalRequests)
app.add_middleware(HeadMiddleware)
# Outside these two: answers without a body need no room.
app.add_middleware(
    CollapseRequests,
    answer_busy=answer_no_room,
    # Files are sent as they are read, and only one's own probe tells of a database.
    exempt=("/static/", "/media/", HEALTH_PATH),
)
# Load balancers check the health often, and don't know the name of the site.
app.add_middleware(RateLimitMiddleware, exempt_path=HEALTH_PATH)
app.add_middleware(
    AllowedHostsMiddleware,
    allowed_hosts=settings.served_hosts,
    exempt_path=HEALTH_PATH,
)
app.add_middleware(ServerErrorMiddleware, error_response=answer_plainly)
app.add_middleware(SecurityHeadersMiddleware, headers=SECURITY_HEADERS)
app.add_middleware(
    StartupErrorMiddleware, expected=(ConfigurationError, DatabaseUnavailable)
)
if settings.frontend_url is None and not settings.is_production:
    app.add_middleware(ServerAddressMiddleware)
if settings.cors_origins:
    app.add_middleware(CORSMiddleware, **cors_options(settings.cors_origins))
app.add_middleware(ClientIPMiddleware, hops=settings.proxy_hops)
if settings.proxy_hops:
    # Takes the scheme from the load balancer; `ClientIPMiddleware` corrects the client.
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts="*")


# API and files


for router in ROUTERS:
    app.include_router(router)
app.mount("/static", VersionedStaticFiles(directory=STATIC_DIR), name="static")
if settings.s3_bucket_name is None:
    app.mount(
        "/media",
        # The folder is made with the first picture.
        ImmutableStaticFiles(directory=settings.media_dir, check_dir=False),
        name="media",
    )


@app.get(
    HEALTH_PATH,
    summary="Ask whether it works",
    response_model=schemas.HealthResponse,
    tags=["health"],
)
async def health(
    request: Request, response: Response, db: BackgroundDbSession
) -> schemas.HealthResponse | Response:
    """Whether the application reaches its database, within 1.5 seconds."""
    response.headers["Cache-Control"] = "no-store"
    probe = asyncio.ensure_future(db.execute(select(1)))
    # Not wait_for: that one waits until the probe has noticed its end.
    await asyncio.wait({probe}, timeout=HEALTH_SECONDS)
    if probe.done() and probe.exception() is None:
        return schemas.HealthResponse()
    unavailable = await answer_http_error(request, DATABASE_UNAVAILABLE.error())
    unavailable.background = BackgroundTask(end, probe)
    return unavailable


async def end(probe: asyncio.Future[Any]) -> None:
    """Stop a probe whose answer nobody waits for any more."""
    probe.cancel()
    await asyncio.wait({probe})
