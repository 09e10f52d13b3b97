"""Health check."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from starlette.background import BackgroundTask

from config import HEALTH_PATH
from database import BackgroundDbSession
from exceptions import DATABASE_UNAVAILABLE, http_error_response
from schemas import HealthResponse

router = APIRouter(tags=["health"])

QUERY_TIMEOUT = 1.5


@router.get(HEALTH_PATH, summary="Health check", response_model=HealthResponse)
async def health(
    request: Request, response: Response, db: BackgroundDbSession
) -> HealthResponse | Response:
    """Check that the database responds within 1.5 seconds."""
    response.headers["Cache-Control"] = "no-store"
    query = asyncio.ensure_future(db.execute(select(1)))
    # Don't use wait_for, which would wait for the canceled query to end.
    await asyncio.wait({query}, timeout=QUERY_TIMEOUT)
    if query.done() and query.exception() is None:
        return HealthResponse()
    unavailable = http_error_response(request, DATABASE_UNAVAILABLE.exception())
    unavailable.background = BackgroundTask(cancel_query, query)
    return unavailable


async def cancel_query(query: asyncio.Future[Any]) -> None:
    query.cancel()
    await asyncio.wait({query})
