"""The app: startup, the access log, and where its code runs."""

import gc
import inspect
import logging
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from main import app, lifespan
from routers import ROUTERS


async def test_garbage_collection_skips_startup_objects(monkeypatch):
    # Later tests need what shutdown closes.
    monkeypatch.setattr("main.dispose_engine", AsyncMock())
    monkeypatch.setattr("main.orphaned_pictures.run_cleanup", AsyncMock())

    async with lifespan(app):
        skipped = gc.get_freeze_count()

    assert skipped > 50_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("query", ["?token=x&next=/?y", "%3ftoken=x", "%3Ftoken=x?y"])
def test_access_log_omits_query(caplog, query):
    arguments = ("192.0.2.1:1", "GET", f"/reset-password{query}", "1.1", 200)

    with caplog.at_level(logging.INFO):
        logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *arguments)

    assert caplog.messages == ['192.0.2.1:1 - "GET /reset-password HTTP/1.1" 200']


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
    # FastAPI calls plain functions in a thread, which waits when the event loop is
    # busy.
    routes = [route for router in ROUTERS for route in router.routes]
    operations = [route.dependant for route in routes if isinstance(route, APIRoute)]

    calls = [call for operation in operations for call in calls_of(operation)]

    assert len(calls) > 40
    assert [call for call in calls if not is_async(call)] == []
