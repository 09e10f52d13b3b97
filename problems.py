"""API errors: what routes raise, what clients get, and what OpenAPI declares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request
from fastapi.openapi.constants import REF_PREFIX
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

PROBLEM_JSON = "application/problem+json"

# The standard library's phrases differ between Python versions.
DESCRIPTIONS = {
    400: "The request cannot be carried out",
    401: "The client is not logged in",
    403: "The user is not allowed to do this",
    404: "There is no such resource",
    409: "The same request is still in progress",
    412: "The resource has changed",
    413: "The request body is too large",
    422: "Part of the request is invalid",
    429: "The client has made too many requests",
    503: "The server cannot handle the request right now",
}
HEADERS = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in {
        "Connection": "The server closes the connection without reading the body.",
        "ETag": "Identifies this version, for `If-None-Match` and `If-Match`.",
        "Link": 'The next page: `<path>; rel="next"` (RFC 8288); absent on the last.',
        "Location": "The path of the new resource.",
        "Retry-After": "How many seconds to wait before trying again.",
        "WWW-Authenticate": "The authentication scheme to use.",
    }.items()
}


class ErrorDetails(BaseModel):
    """An error in one part of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """The kind of error, for programs."""
    loc: list[str | int]
    """Where it is: `body`, `query`, `path` or `header`, then the path to the value."""
    msg: str
    """A sentence for people."""


class ErrorResponse(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    detail: str | list[ErrorDetails]
    """A sentence; for an invalid request (422), usually a list of errors."""


@dataclass(frozen=True)
class Problem:
    """An error that operations can respond with."""

    status: int
    detail: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    varying: Sequence[str] = ()
    """Names of the headers whose value is different each time."""

    def error(self, **headers: str) -> HTTPException:
        """Return the exception to raise; header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTPException(self.status, self.detail, {**self.headers, **named})


DATABASE_UNAVAILABLE = Problem(503, "Database unavailable", {"Retry-After": "5"})
TOO_BUSY = Problem(
    503, "The server is busy. Please try again in a moment.", {"Retry-After": "5"}
)
BODY_TOO_LARGE = Problem(413, "Request body too large", {"Connection": "close"})
BODY_TIMED_OUT = Problem(
    422,
    [{"type": "body", "loc": ("body",), "msg": "The body did not arrive in time"}],
    {"Connection": "close"},
)
INVALID_HOST = Problem(400, "Invalid host header")
TOO_MANY_ATTEMPTS = Problem(
    429, "Too many attempts. Please try again later.", varying=["Retry-After"]
)


def answer_error(
    request: Request,
    status: int,
    detail: Any,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error as JSON, or as problem details if the client accepts them."""
    if accepts_problems(request):
        content, media_type = problem_details(status, detail), PROBLEM_JSON
    else:
        content, media_type = {"detail": detail}, "application/json"
    response = JSONResponse(content, status, headers, media_type)
    response.headers.add_vary_header("Accept")
    return response


def accepts_problems(request: Request) -> bool:
    """Return whether `Accept` names the media type of problem details."""
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(entry.split(";")[0].strip() == PROBLEM_JSON for entry in accepted)


def problem_details(status: int, detail: Any) -> dict[str, Any]:
    """Return an error as RFC 9457 defines it."""
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
    }
    if isinstance(detail, str):
        return problem | {"detail": detail}
    return problem | {"detail": "The request is invalid", "errors": detail}


def errors(*problems: Problem) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an operation that can fail with these errors."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        declare(responses, problem)
    return responses


def declare(responses: dict[Any, dict[str, Any]], problem: Problem) -> None:
    """Add an error to the `responses` of an operation, its detail as an example."""
    schema = {"$ref": REF_PREFIX + ErrorResponse.__name__}
    response = responses.setdefault(
        str(problem.status),
        {
            "description": DESCRIPTIONS[problem.status],
            "content": {"application/json": {"schema": schema, "examples": {}}},
        },
    )
    for name in (*problem.headers, *problem.varying):
        response.setdefault("headers", {})[name] = HEADERS[name]
    name = problem.detail if isinstance(problem.detail, str) else "Invalid request"
    examples = response["content"]["application/json"]["examples"]
    examples[name] = {"value": {"detail": problem.detail}}
