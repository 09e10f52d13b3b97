"""The app's startup, and the functions that its event loop runs."""

import gc
import inspect
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from config import settings
from main import app, lifespan, log_startup
from routers import ROUTERS


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """Replace what the lifespan starts and stops, and return the cache listener."""
    listen = AsyncMock()
    monkeypatch.setattr("main.listen", listen)
    monkeypatch.setattr("main.start_embedded_server", Mock())
    monkeypatch.setattr("main.orphaned_pictures.run_cleanup", AsyncMock())
    # Later tests need the engine, which shutdown would dispose of.
    monkeypatch.setattr("main.dispose_engine", AsyncMock())
    return listen


@pytest.mark.parametrize(
    ("changes", "is_on"),
    [({}, True), ({"response_cache_bytes": 0}, False), ({"database_url": None}, False)],
    ids=["production", "no memory", "development"],
)
async def test_response_cache(monkeypatch, listen, changes, is_on):
    for name, value in changes.items():
        monkeypatch.setattr(settings, name, value)

    async with lifespan(app):
        pass

    assert listen.called == is_on


async def test_unreachable_database_is_logged(monkeypatch, caplog):
    refused = AsyncMock(side_effect=ConnectionRefusedError("port 5432"))
    monkeypatch.setattr("main.read_database_state", refused)

    await log_startup()

    cause = "ConnectionRefusedError: port 5432"
    assert caplog.messages == [f"Database unavailable: {cause}"]


@pytest.mark.usefixtures("listen")
async def test_garbage_collection_skips_startup_objects():
    async with lifespan(app):
        skipped = gc.get_freeze_count()

    assert skipped > 50_000
    assert gc.get_freeze_count() == 0


def calls_of(dependant: Dependant) -> Iterator[Any]:
    """Yield the functions that FastAPI calls for an operation."""
    yield dependant.call
    for dependency in dependant.dependencies:
        yield from calls_of(dependency)


def is_async(call: Any) -> bool:
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (call, type(call).__call__)
    )


def test_no_operation_runs_in_a_thread():
    # FastAPI calls plain functions in a thread, which makes requests wait longer when
    # the event loop is busy.
    routes = [route for router in ROUTERS for route in router.routes]
    operations = [route.dependant for route in routes if isinstance(route, APIRoute)]

    calls = [call for operation in operations for call in calls_of(operation)]

    assert len(calls) > 40
    assert [call for call in calls if not is_async(call)] == []
