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


class TestLifespan:
    async def test_garbage_collection_skips_startup_objects(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Later tests need what shutdown closes.
        monkeypatch.setattr("main.dispose_engine", AsyncMock())
        monkeypatch.setattr("main.orphaned_pictures.run_cleanup", AsyncMock())

        async with lifespan(app):
            skipped = gc.get_freeze_count()

        assert skipped > 50_000
        assert gc.get_freeze_count() == 0


class TestAccessLog:
    @pytest.mark.parametrize(
        "path",
        [
            "/reset-password?token=a-secret&next=/?x",
            "/reset-password%3ftoken=a-secret",
            "/reset-password%3Ftoken=a-secret?x",
        ],
    )
    def test_omits_query_strings(
        self, caplog: pytest.LogCaptureFixture, path: str
    ) -> None:
        line = '%s - "%s %s HTTP/%s" %d'

        with caplog.at_level(logging.INFO):
            logging.getLogger("uvicorn.access").info(
                line, "192.0.2.1:1", "GET", path, "1.1", 200
            )

        expected = '192.0.2.1:1 - "GET /reset-password HTTP/1.1" 200'
        assert caplog.messages == [expected]


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


class TestThreads:
    def test_no_operation_runs_in_one(self) -> None:
        # FastAPI calls plain functions in a thread, which waits when the event loop is
        # busy.
        calls = [
            call
            for router in ROUTERS
            for route in router.routes
            if isinstance(route, APIRoute)
            for call in calls_of(route.dependant)
        ]

        assert len(calls) > 40
        assert [call for call in calls if not is_async(call)] == []
