"""Health checks for load balancers, deployments and alarms."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask

from config import HEALTH_PATH, LIVENESS_PATH
from database import BackgroundDbSession, database_outage, error_cause
from database_state import DatabaseState, read_database_state
from exceptions import DATABASE_UNAVAILABLE, http_error_response, openapi_headers
from schemas import HealthResponse, LivenessResponse

router = APIRouter(tags=["health"])

QUERY_TIMEOUT = 1.5
NO_STORE = {"Cache-Control": "no-store"}


@router.get(HEALTH_PATH, summary="Check the database", response_model=HealthResponse)
async def health(
    request: Request, response: Response, db: BackgroundDbSession
) -> HealthResponse | Response:
    """Check that the database responds within 1.5 seconds and can serve requests.

    It must be writable, and its schema must be at least as new as the code. Use
    this for alarms and deployments.
    """
    response.headers.update(NO_STORE)
    check = asyncio.ensure_future(read_database_state(db))
    # Don't use wait_for, which would wait for the canceled query to end.
    await asyncio.wait({check}, timeout=QUERY_TIMEOUT)
    problem = find_problem(check)
    if problem is None:
        database_outage.end()
        return HealthResponse()
    database_outage.report(problem)
    unavailable = http_error_response(request, DATABASE_UNAVAILABLE.exception())
    unavailable.background = BackgroundTask(end_check, check)
    return unavailable


def find_problem(check: "asyncio.Future[DatabaseState]") -> str | None:
    """Return why the database can't serve requests, or None if it can."""
    if not check.done():
        return f"no response within {QUERY_TIMEOUT:g} seconds"
    if error := check.exception():
        return error_cause(error)
    return check.result().problem


async def end_check(check: "asyncio.Future[Any]") -> None:
    check.cancel()
    await asyncio.wait({check})


@router.get(
    LIVENESS_PATH,
    summary="Check the process",
    response_model=LivenessResponse,
    responses=openapi_headers("X-Client-IP"),
)
async def liveness(request: Request, response: Response) -> LivenessResponse:
    """Check that the process responds, without querying the database.

    Use this for load balancers and containers, because replacing tasks wouldn't fix the
    database. `X-Client-IP` is your IP as the app sees it behind its proxies.
    """
    response.headers.update(NO_STORE)
    response.headers["X-Client-IP"] = request.scope["client"][0]
    return LivenessResponse()
