"""API errors, the responses to them, and how OpenAPI declares them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.constants import REF_PREFIX
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.routing import Route

from database import UNAVAILABLE_ERRORS, is_unavailable
from executors import QueueFull
from templating import error_page

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
UNREADABLE_BODY = "The request body could not be parsed"

# The standard library's phrases differ between Python versions.
DESCRIPTIONS = {
    400: "The request is invalid",
    401: "The client is not logged in",
    403: "The user is not allowed to do this",
    404: "The resource does not exist",
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
        "Link": 'Next page: `<path>; rel="next"` (RFC 8288); absent on the last page.',
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
class APIError:
    """An error that operations can respond with; `raise USER_NOT_FOUND.exception()`."""

    status: int
    detail: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    varying: Sequence[str] = ()
    """Names of the headers whose value is different each time."""

    def exception(self, **headers: str) -> HTTPException:
        """Return the exception to raise; header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTPException(self.status, self.detail, {**self.headers, **named})


DATABASE_UNAVAILABLE = APIError(503, "Database unavailable", {"Retry-After": "5"})
TOO_BUSY = APIError(
    503, "The server is busy. Please try again in a moment.", {"Retry-After": "5"}
)
BODY_TOO_LARGE = APIError(413, "Request body too large", {"Connection": "close"})
BODY_TIMED_OUT = APIError(
    422,
    [{"type": "body", "loc": ("body",), "msg": "Timed out reading the request body"}],
    {"Connection": "close"},
)
INVALID_HOST = APIError(400, "Invalid host header")
TOO_MANY_ATTEMPTS = APIError(
    429, "Too many attempts. Please try again later.", varying=["Retry-After"]
)


def wants_json(request: Request) -> bool:
    """Return whether an error at this path is for a program, not for a person."""
    path = request.url.path
    return path.startswith("/api/") or path in {"/api", "/health"}


def error_response(request: Request, exc: HTTPException) -> Response:
    """Return an error as JSON or as a page, with its headers."""
    if wants_json(request):
        return json_error_response(request, exc.status_code, exc.detail, exc.headers)
    return error_page(request, exc)


def json_error_response(
    request: Request,
    status: int,
    detail: Any,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error as JSON, or as problem details if the client accepts them."""
    if accepts_problem_json(request):
        content, media_type = problem_details(status, detail), PROBLEM_JSON
    else:
        content, media_type = {"detail": detail}, "application/json"
    response = JSONResponse(content, status, headers, media_type)
    response.headers.add_vary_header("Accept")
    return response


def accepts_problem_json(request: Request) -> bool:
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


# Exception handlers


def add_exception_handlers(app: FastAPI) -> None:
    handlers: dict[type[Exception], Any] = {
        HTTPException: http_exception_handler,
        RequestValidationError: request_validation_exception_handler,
        QueueFull: queue_full_handler,
        **dict.fromkeys((DBAPIError, *UNAVAILABLE_ERRORS), database_error_handler),
    }
    for exception_class, handler in handlers.items():
        app.add_exception_handler(exception_class, handler)


# Starlette runs handlers that are not async in a thread.
async def http_exception_handler(request: Request, exc: HTTPException) -> Response:
    if is_unreadable_body(exc):
        error = {"type": "body", "loc": ("body",), "msg": UNREADABLE_BODY}
        return validation_error_response(request, [error])
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(allowed_methods(request)))
        exc.headers = {**(exc.headers or {}), "Allow": allowed}
    return error_response(request, exc)


def is_unreadable_body(exc: HTTPException) -> bool:
    return exc.status_code == HTTPStatus.BAD_REQUEST and (
        exc.detail == "There was an error parsing the body"
        or isinstance(exc.__context__, MultiPartException)
    )


def allowed_methods(request: Request) -> set[str]:
    """Return all methods of a path; Starlette only knows those of its first route.

    `/api/users/me` also matches `/api/users/{user_id}`, but is not meant by it: only
    the routes with the fewest parameters count.
    """
    routes = [
        route
        for router in request.app.state.routers
        for route in router.routes
        if isinstance(route, Route) and route.path_regex.match(request.url.path)
    ]
    fewest = min((len(route.param_convertors) for route in routes), default=0)
    # Without a route, it is a mounted directory, whose files are only read.
    methods = {"GET"} if not routes else set()
    for route in routes:
        if len(route.param_convertors) == fewest:
            methods |= route.methods or set()
    return methods | {"HEAD"} if "GET" in methods else methods


async def request_validation_exception_handler(
    request: Request, exc: RequestValidationError
) -> Response:
    return validation_error_response(request, exc.errors())


def validation_error_response(
    request: Request, errors: Sequence[Mapping[str, Any]]
) -> Response:
    """Return a 422 with these errors, without the input."""
    if not wants_json(request):
        return error_page(request, HTTPException(422))
    detail = [{key: error[key] for key in ("type", "loc", "msg")} for error in errors]
    return json_error_response(request, 422, detail)


async def queue_full_handler(request: Request, _exc: QueueFull) -> Response:
    return error_response(request, TOO_BUSY.exception())


async def database_error_handler(request: Request, exc: Exception) -> Response:
    """Return a 503 while the database is unavailable; any other error is a bug."""
    if not is_unavailable(exc):
        raise exc
    logger.error("Database unavailable: %s", exc)
    return error_response(request, DATABASE_UNAVAILABLE.exception())


# OpenAPI


def error_responses(*errors: APIError) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an operation that can fail with these errors."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        add_error_response(responses, error)
    return responses


def add_error_response(responses: dict[Any, dict[str, Any]], error: APIError) -> None:
    """Add an error to the `responses` of an operation, its detail as an example."""
    schema = {"$ref": REF_PREFIX + ErrorResponse.__name__}
    response = responses.setdefault(
        str(error.status),
        {
            "description": DESCRIPTIONS[error.status],
            "content": {"application/json": {"schema": schema, "examples": {}}},
        },
    )
    for name in (*error.headers, *error.varying):
        response.setdefault("headers", {})[name] = HEADERS[name]
    name = error.detail if isinstance(error.detail, str) else "Invalid request"
    examples = response["content"]["application/json"]["examples"]
    examples[name] = {"value": {"detail": error.detail}}


def response_headers(*headers: str, status: int = 200) -> dict[int | str, Any]:
    """Return the `responses` of an operation that sets these headers on success."""
    return {str(status): {"headers": {name: HEADERS[name] for name in headers}}}
