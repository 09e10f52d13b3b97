"""The introduction to the OpenAPI document, and responses of many operations."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.constants import REF_PREFIX

from exceptions import (
    BODY_TOO_LARGE,
    DATABASE_UNAVAILABLE,
    INVALID_TOKEN,
    NOT_AUTHENTICATED,
    TOO_MANY_ATTEMPTS,
    APIError,
    ErrorResponse,
    add_error_response,
    error_responses,
)
from schemas import MAX_CONTENT_LENGTH

DESCRIPTION = """\
A blog with user accounts, profile pictures and public posts.

**Publish your first post in two minutes**

1. Open `POST /api/users`, enter a username, an email address and a password, and press
   *Execute*.
2. Press *Authorize*. Enter the **email address** as `username`, and the password.
3. Open `POST /api/posts`, write something and press *Execute*.
   Your post now appears on the home page.

**Use the API in a program**

- To get an access token, send the email address (as `username`) and the password as a
  form to `POST /api/users/token`. Send the token with your requests as
  `Authorization: Bearer <access_token>`. Within 14 days of logging in, exchange it
  for a new one at `POST /api/users/me/token`, even if it has expired.
- Lists are paginated. To get the next page, follow the `Link` header with `rel="next"`.
  The last page doesn't have one.
- Cacheable responses to `GET` have an `ETag`. Send it in `If-None-Match` to get a 304
  if nothing has changed. Send the `ETag` of a post in `If-Match` to avoid overwriting
  a newer version.
- Send an `Idempotency-Key` with `POST /api/posts`, so that you can retry safely.
- Errors are returned as `{"detail": ...}`. Clients that accept
  `application/problem+json` get problem details
  ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) instead.
- Every response has an `X-Request-ID`, which is yours if you send one. Server errors
  repeat it as `request_id`. Include it when you report a problem.
- If you get a 429 or 503, the `Retry-After` header says how many seconds to wait.
"""
TAGS = [
    {"name": "posts", "description": "Read and write posts."},
    {"name": "users", "description": "Sign up, log in and manage your account."},
    {"name": "health", "description": "Check that the app is healthy."},
]

INVALID_REQUEST = APIError(
    422,
    [
        {
            "type": "string_too_long",
            "loc": ["body", "content"],
            "msg": f"String should have at most {MAX_CONTENT_LENGTH} characters",
        }
    ],
)
COMMON_RESPONSES = error_responses(
    NOT_AUTHENTICATED,
    INVALID_TOKEN,
    BODY_TOO_LARGE,
    INVALID_REQUEST,
    TOO_MANY_ATTEMPTS,
    DATABASE_UNAVAILABLE,
)
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of your copy. If it is still current, you get a 304.",
    "schema": {"type": "string", "title": "If-None-Match"},
}


def custom_openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's OpenAPI document, with the responses that operations share."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    for path in document["paths"].values():
        for operation in path.values():
            _add_common_responses(operation)
        if "get" in path:
            _add_revalidation(path["get"])
    schema = ErrorResponse.model_json_schema(ref_template=REF_PREFIX + "{model}")
    components = document["components"]
    components["schemas"] |= schema.pop("$defs") | {ErrorResponse.__name__: schema}
    components["responses"] = COMMON_RESPONSES
    # Remove FastAPI's schemas for a 422, which the operations no longer use.
    del components["schemas"]["HTTPValidationError"]
    del components["schemas"]["ValidationError"]
    return document


def _add_common_responses(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if responses.get("422", {}).get("description") == "Validation Error":
        # Remove FastAPI's own declaration.
        del responses["422"]
    for error in _common_errors(operation):
        add_error_response(responses, error)
    operation["responses"] = {
        status: {"$ref": f"#/components/responses/{status}"}
        if response == COMMON_RESPONSES.get(status)
        else response
        for status, response in sorted(responses.items())
    }


def _common_errors(operation: dict[str, Any]) -> Iterator[APIError]:
    if "security" in operation:
        yield from (NOT_AUTHENTICATED, INVALID_TOKEN)
    if "requestBody" in operation:
        yield BODY_TOO_LARGE
    if "requestBody" in operation or "parameters" in operation:
        yield INVALID_REQUEST
    # Health checks are exempt from rate limits.
    if "health" not in operation["tags"]:
        yield TOO_MANY_ATTEMPTS
    if operation["operationId"] != "liveness":
        yield DATABASE_UNAVAILABLE


def _add_revalidation(operation: dict[str, Any]) -> None:
    """Declare that a GET whose response has an `ETag` can respond with 304."""
    headers = operation["responses"]["200"].get("headers", {})
    if "ETag" in headers:
        operation.setdefault("parameters", []).append(IF_NONE_MATCH)
        operation["responses"]["304"] = {
            "description": "Your copy is still current",
            "headers": headers,
        }
