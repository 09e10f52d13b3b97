"""API errors, error pages, exception handlers, and errors in the OpenAPI document.

The messages of validation errors come from `schemas.py` and Pydantic.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.constants import REF_PREFIX
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException
from starlette.routing import Route

from config import HEALTH_PATHS, settings
from database import (
    CONFLICT_STATES,
    DATABASE_ERRORS,
    database_outage,
    error_cause,
    is_unavailable,
    sqlstate,
)
from executors import QueueFull
from logs import request_id
from schemas import Schema
from templating import templates

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
UNREADABLE_BODY = "The request body could not be parsed"

# The phrases of the standard library's HTTPStatus differ between Python versions.
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
        "Link": 'The next page, if there is one: `<path>; rel="next"` (RFC 8288).',
        "Location": "The path of the new resource.",
        "Retry-After": "How many seconds to wait before trying again.",
        "X-Client-IP": "The client IP as the app sees it.",
        "WWW-Authenticate": "The authentication scheme to use.",
    }.items()
}


class ErrorDetails(Schema):
    """An error in one part of a request."""

    type: str
    """Machine-readable type of the error."""
    loc: list[str | int]
    """Location: `body`, `query`, `path` or `header`, and the path to the value."""
    msg: str
    """Human-readable message."""


class ErrorResponse(Schema):
    """The body of an error response."""

    detail: str | list[ErrorDetails]
    """A message. If the request is invalid (422), usually a list of errors."""
    request_id: str = ""
    """The `X-Request-ID` of the response, if its status is 500 or more."""


@dataclass(frozen=True)
class APIError:
    """An error that the API returns, as in `raise USER_NOT_FOUND.exception()`."""

    status: int
    detail: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    dynamic_headers: Sequence[str] = ()
    """Names of the headers whose values the caller passes to `exception`."""

    def exception(self, **headers: str) -> HTTPException:
        """Return an exception with these headers. `_` in a name stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTPException(self.status, self.detail, {**self.headers, **named})


RETRY_LATER = {"Retry-After": "5"}
DATABASE_UNAVAILABLE = APIError(503, "Database unavailable", RETRY_LATER)
TOO_BUSY = APIError(
    503, "The server is busy. Please try again in a moment.", RETRY_LATER
)
TOO_MANY_ATTEMPTS = APIError(
    429, "Too many attempts. Please try again later.", dynamic_headers=["Retry-After"]
)

CLOSE = {"Connection": "close"}
BODY_TOO_LARGE = APIError(413, "Request body too large", CLOSE)
BODY_TIMED_OUT = APIError(
    422,
    [{"type": "body", "loc": ("body",), "msg": "Timed out reading the request body"}],
    CLOSE,
)
INVALID_HOST = APIError(400, "Invalid host header")

# A 401 must contain this header (RFC 6750, section 3).
BEARER = {"WWW-Authenticate": "Bearer"}
NOT_AUTHENTICATED = APIError(401, "Not authenticated", BEARER)
# Every invalid token gets the same error, so that responses reveal nothing about it.
INVALID_TOKEN = APIError(401, "Invalid or expired token", BEARER)
INCORRECT_LOGIN = APIError(401, "Incorrect email or password", BEARER)
WRONG_PASSWORD = APIError(400, "Current password is incorrect")
INVALID_RESET_TOKEN = APIError(400, "Invalid or expired reset token")

REGISTRATION_CLOSED = APIError(403, "Registration is closed")
USER_NOT_FOUND = APIError(404, "User not found")
USERS_NOT_FOUND = APIError(404, "Users not found")
USERNAME_TAKEN = APIError(400, "Username already exists")
EMAIL_TAKEN = APIError(400, "Email already registered")
UPDATE_USER_FORBIDDEN = APIError(403, "Not authorized to update this user")
DELETE_USER_FORBIDDEN = APIError(403, "Not authorized to delete this user")

UPDATE_PICTURE_FORBIDDEN = APIError(403, "Not authorized to update this user's picture")
DELETE_PICTURE_FORBIDDEN = APIError(403, "Not authorized to delete this user's picture")
NO_PICTURE = APIError(400, "No profile picture to delete")
INVALID_IMAGE = APIError(
    400, "Invalid image file. Please upload a valid image (JPEG, PNG, GIF, WebP)."
)
UPLOAD_FAILED = APIError(503, "Failed to upload image. Please try again.", RETRY_LATER)

POST_NOT_FOUND = APIError(404, "Post not found")
UPDATE_POST_FORBIDDEN = APIError(403, "Not authorized to update this post")
DELETE_POST_FORBIDDEN = APIError(403, "Not authorized to delete this post")
POST_MODIFIED = APIError(
    412, "The post has been modified since you last read it", dynamic_headers=["ETag"]
)
KEY_REUSED = APIError(422, "Idempotency-Key was used for another request")
REQUEST_IN_PROGRESS = APIError(
    409, "A request with this Idempotency-Key is still running", {"Retry-After": "1"}
)


# The titles and messages of error pages. Other errors have their HTTP reason phrase as
# the title.
ERROR_PAGES = {
    404: ("Page not found", "We couldn't find that page."),
    405: ("Method not allowed", "This page doesn't support that kind of request."),
    413: ("Request too large", "Your request is too large for this site."),
    422: ("Invalid URL", "Part of this URL isn't valid."),
    429: ("Too many requests", "Please wait a moment and try again."),
    500: (
        "Something went wrong",
        "An error occurred on our end. Please try again in a moment.",
    ),
    503: (
        "Temporarily unavailable",
        "The site is busy or unavailable. Please try again in a moment.",
    ),
}


OTHER_ERROR = "We couldn't process this request."


def file_too_large() -> APIError:
    megabytes = round(settings.max_upload_size_bytes / 1024**2, 2)
    return APIError(400, f"File too large. Maximum size is {megabytes:g}MB")


def wants_json(request: Request) -> bool:
    """Return whether errors on this path are JSON rather than HTML pages."""
    path = request.url.path
    return path.startswith("/api/") or path == "/api" or path in HEALTH_PATHS


def http_error_response(request: Request, exc: StarletteHTTPException) -> Response:
    """Return an error as JSON or as an HTML page."""
    if wants_json(request):
        return json_error_response(request, exc.status_code, exc.detail, exc.headers)
    return error_page_response(request, exc)


def error_page_response(
    request: Request, exc: StarletteHTTPException, *, last_page: str | None = None
) -> Response:
    """Return an error as an HTML page, with a link to `last_page` if it is given."""
    phrase = HTTPStatus(exc.status_code).phrase
    title, message = ERROR_PAGES.get(exc.status_code, (phrase, OTHER_ERROR))
    return templates.TemplateResponse(
        request,
        "error.html",
        {
            "status_code": exc.status_code,
            "title": title,
            "message": message,
            "last_page": last_page,
            "request_id": request_id.get() if exc.status_code >= 500 else None,
        },
        status_code=exc.status_code,
        headers=exc.headers,
    )


def json_error_response(
    request: Request, status: int, detail: Any, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error as JSON, or as problem details if the client accepts them."""
    if accepts_problem_json(request):
        content, media_type = problem_details(status, detail), PROBLEM_JSON
    else:
        content, media_type = {"detail": detail}, "application/json"
    if status >= 500:
        content["request_id"] = request_id.get()
    response = JSONResponse(content, status, headers, media_type)
    response.headers.add_vary_header("Accept")
    return response


def accepts_problem_json(request: Request) -> bool:
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(entry.split(";")[0].strip() == PROBLEM_JSON for entry in accepted)


def problem_details(status: int, detail: Any) -> dict[str, Any]:
    """Return an error as problem details (RFC 9457)."""
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
        StarletteHTTPException: http_exception_handler,
        RequestValidationError: request_validation_exception_handler,
        QueueFull: queue_full_handler,
        **dict.fromkeys(DATABASE_ERRORS, database_error_handler),
    }
    for exception_class, handler in handlers.items():
        app.add_exception_handler(exception_class, handler)


# Async, because Starlette would run a sync handler in a thread.
async def http_exception_handler(
    request: Request, exc: StarletteHTTPException
) -> Response:
    if is_unreadable_body(exc):
        error = {"type": "body", "loc": ("body",), "msg": UNREADABLE_BODY}
        return validation_error_response(request, [error])
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(allowed_methods(request)))
        exc.headers = {**(exc.headers or {}), "Allow": allowed}
    return http_error_response(request, exc)


def is_unreadable_body(exc: StarletteHTTPException) -> bool:
    return exc.status_code == HTTPStatus.BAD_REQUEST and (
        exc.detail == "There was an error parsing the body"
        or isinstance(exc.__context__, MultiPartException)
    )


def allowed_methods(request: Request) -> set[str]:
    """Return the methods that the path of a request supports.

    Starlette only considers the first matching route. If several routes match, use
    those with the fewest parameters, so that `/api/users/me` doesn't get the methods of
    `/api/users/{user_id}`.
    """
    routes = [
        route
        for router in request.app.state.routers
        for route in router.routes
        if isinstance(route, Route) and route.path_regex.match(request.url.path)
    ]
    fewest = min((len(route.param_convertors) for route in routes), default=0)
    # If no route matches, the path belongs to a mounted directory of files.
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
    """Return a 422 as an HTML page, or as a JSON list of errors without the input."""
    if not wants_json(request):
        return error_page_response(request, HTTPException(422))
    detail = [{key: error[key] for key in ("type", "loc", "msg")} for error in errors]
    return json_error_response(request, 422, detail)


async def queue_full_handler(request: Request, _exc: QueueFull) -> Response:
    return http_error_response(request, TOO_BUSY.exception())


async def database_error_handler(request: Request, exc: Exception) -> Response:
    """Return a 503 if the database is unavailable. Re-raise any other error."""
    if not is_unavailable(exc):
        raise exc
    if sqlstate(exc).startswith(CONFLICT_STATES):
        logger.warning("Transaction failed: %s", error_cause(exc))
    else:
        database_outage.report(error_cause(exc))
    return http_error_response(request, DATABASE_UNAVAILABLE.exception())


# OpenAPI


def error_responses(*errors: APIError) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of an operation that can return these errors."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        add_error_response(responses, error)
    return responses


def add_error_response(responses: dict[Any, dict[str, Any]], error: APIError) -> None:
    """Add an error to OpenAPI `responses`, with its detail as an example."""
    schema = {"$ref": REF_PREFIX + ErrorResponse.__name__}
    response = responses.setdefault(
        str(error.status),
        {
            "description": DESCRIPTIONS[error.status],
            "content": {"application/json": {"schema": schema, "examples": {}}},
        },
    )
    for name in (*error.headers, *error.dynamic_headers):
        response.setdefault("headers", {})[name] = HEADERS[name]
    name = error.detail if isinstance(error.detail, str) else "Invalid request"
    examples = response["content"]["application/json"]["examples"]
    examples[name] = {"value": {"detail": error.detail}}


def openapi_headers(*headers: str, status: int = 200) -> dict[int | str, Any]:
    """Return the OpenAPI `responses` of an operation that returns these headers."""
    return {str(status): {"headers": {name: HEADERS[name] for name in headers}}}
