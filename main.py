"""Create the FastAPI app."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

import openapi
import orphaned_pictures
import templating
from config import renamed_settings, settings
from database import (
    DATABASE_ERRORS,
    AsyncSessionLocal,
    database_outage,
    dispose_engine,
    error_cause,
    start_embedded_server,
)
from database_state import read_database_state
from email_utils import finish_retries
from exceptions import add_exception_handlers
from logs import configure_logging, production_warnings, startup_summary
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
from telemetry import telemetry_config

logger = logging.getLogger(__name__)

# At import time, because uvicorn logs messages before the lifespan starts.
configure_logging()


async def log_startup() -> None:
    """Log the version, the configuration and the state of the database in one line."""
    revision = "unknown"
    try:
        async with AsyncSessionLocal() as db:
            state = await read_database_state(db)
        revision, cause = state.revision, state.problem
    except DATABASE_ERRORS as error:
        cause = error_cause(error)
    summary = startup_summary()
    logger.info("fastapi-blog %s: schema %s, %s", app.version, revision, summary)
    if cause:
        database_outage.report(cause)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    for warning in (*renamed_settings(), *production_warnings()):
        logger.warning(warning)
    settings.check_production_settings()
    if not settings.is_production:
        await asyncio.to_thread(start_embedded_server)
    # A full garbage collection would pause the app for 100 ms, so exclude the objects
    # that were created at startup.
    gc.collect()
    gc.freeze()
    tasks = {
        asyncio.create_task(orphaned_pictures.run_cleanup()),
        asyncio.create_task(log_startup()),
    }
    # In development, files change, and cached pages would link to old versions of them.
    if (
        settings.is_production
        and settings.direct_database_dsn
        and settings.response_cache_bytes
    ):
        tasks.add(asyncio.create_task(listen()))
    yield
    gc.unfreeze()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await finish_retries()
    await dispose_engine()


app = FastAPI(
    title="fastapi-blog",
    summary="The API of a blog: accounts, posts and profile pictures.",
    description=openapi.DESCRIPTION,
    version="0.1.0",
    license_info={"name": "MIT", "identifier": "MIT"},
    openapi_tags=openapi.TAGS,
    generate_unique_id_function=lambda route: route.name,
    lifespan=lifespan,
    telemetry=telemetry_config(),
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
# The error handlers and the response cache look up route methods and parameters.
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
