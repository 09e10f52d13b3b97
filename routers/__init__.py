"""The routes of the API, and what they have in common."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel

from config import settings
from database import MAX_ID

MAX_PAGE_LENGTH = 100


class ErrorResponse(BaseModel):
    """What went wrong, in words."""

    detail: str


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for its documentation."""
    return {status: {"model": ErrorResponse} for status in statuses}


Skip = Annotated[
    int, Query(ge=0, le=MAX_ID, description="How many entries to pass over.")
]
Limit = Annotated[
    int, Query(ge=1, le=MAX_PAGE_LENGTH, description="How many entries at the most.")
]


@dataclass(frozen=True)
class Window:
    """Which part of a list is asked for: a dependency of everything that has pages."""

    skip: Skip = 0
    limit: Limit = settings.posts_per_page
