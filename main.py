"""Create the FastAPI app."""

import asyncio
import gc
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

import openapi
import orphaned_pictures
import templating
from config import renamed_settings, settings
from database import dispose_engine, start_embedded_server
from exceptions import add_exception_handlers
from middleware import add_middleware
from middleware.cache_listener import listen
from paths import path_for
from routers import ROUTERS
from static_files import (
    STATIC_DIR,
    ImmutableStaticFiles,
    VersionedStaticFiles,
    static_version,
)

logger = logging.getLogger(__name__)

QUERY_STRING = re.compile(r"(\?|%3f).*", re.IGNORECASE)


def redact_query_string(record: logging.LogRecord) -> bool:
    """Remove the query string, which can contain a reset token, from the access log.

    Some email clients and users encode the question mark, so look for both forms.
    """
    # Most paths contain neither, and this function runs for every request.
    if isinstance(record.args, tuple) and any(
        isinstance(value, str) and ("?" in value or "%3" in value)
        for value in record.args
    ):
        record.args = tuple(
            QUERY_STRING.sub("", value) if isinstance(value, str) else value
            for value in record.args
        )
    return True


# uvicorn logs the path of each request together with its query string.
logging.getLogger("uvicorn.access").addFilter(redact_query_string)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    for warning in renamed_settings():
        logger.warning(warning)
    settings.check_production_settings()
    if not settings.is_production:
        await asyncio.to_thread(start_embedded_server)
        logger.info("Data directory: %s", settings.var_dir)
    # A full garbage collection would pause the app for 100 ms, so exclude the objects
    # that were created at startup.
    gc.collect()
    gc.freeze()
    tasks = {asyncio.create_task(orphaned_pictures.run_cleanup())}
    # In development, files change, and cached pages would link to old versions of them.
    if settings.is_production and settings.response_cache_bytes:
        tasks.add(asyncio.create_task(listen()))
    yield
    gc.unfreeze()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await dispose_engine()


# By default, FastAPI looks for an OpenTelemetry exporter on every request.
has_telemetry = any(name.startswith("OTEL_") for name in os.environ)

app = FastAPI(
    title="fastapi-blog",
    summary="The API of a blog: accounts, posts and profile pictures.",
    description=openapi.DESCRIPTION,
    version="0.1.0",
    license_info={"name": "MIT", "identifier": "MIT"},
    openapi_tags=openapi.TAGS,
    generate_unique_id_function=lambda route: route.name,
    lifespan=lifespan,
    telemetry={
        "tracing": has_telemetry,
        "metrics": has_telemetry,
        "logs": has_telemetry,
    },
    redirect_slashes=False,
    # FastAPI's own pages load scripts from another host.
    docs_url=None,
    redoc_url=None,
)
app.openapi = partial(  # type: ignore[method-assign] # documented by FastAPI
    openapi.custom_openapi, app
)

add_exception_handlers(app)
add_middleware(app)
for router in ROUTERS:
    app.include_router(router)
# The error handlers and the response cache look up methods and parameters of routes.
app.state.routers = ROUTERS

app.mount("/static", VersionedStaticFiles(directory=STATIC_DIR), name="static")
if settings.s3_bucket_name is None:
    # The first upload creates the directory.
    media = ImmutableStaticFiles(directory=settings.media_dir, check_dir=False)
    app.mount("/media", media, name="media")


def static_path(file: str) -> str:
    """Return the path of a static file, including the version of the static files."""
    return path_for(app, "static", path=f"{static_version()}/{file}")


# These functions are added here, because they need the app with all its routes.
templating.environment.globals.update(
    path_for=partial(path_for, app), static_path=static_path
)
