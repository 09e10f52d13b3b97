"""What the OpenAPI document says beyond the code: examples, headers, common answers."""

from collections.abc import Iterator
from typing import Any

from fastapi import Body, FastAPI, Form
from fastapi.openapi.models import Example
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from auth import INVALID_TOKEN, NOT_AUTHENTICATED
from models import TITLE_LENGTH
from problems import (
    BODY_TOO_LARGE,
    DATABASE_UNAVAILABLE,
    TOO_MANY_ATTEMPTS,
    ErrorResponse,
    Fault,
    Problem,
    ProblemDetails,
    declare,
    declared_header,
)
from schemas import CONTENT_LENGTH, PASSWORD_MIN_LENGTH

DESCRIPTION = """\
A blog: accounts with profile pictures, and posts that everybody can read.

**From here to a first post in two minutes**

1. Open `POST /api/users`, choose a name, an email address and a password, and press
   *Execute*.
2. Press *Authorize*. Enter the **email address** as `username`, and the password.
3. Open `POST /api/posts`, write something and press *Execute*.
   The post is on the site's home page now.

**For programs**

- `POST /api/users/token` takes the email address (as `username`) and the password as a
  form and gives an access token. Send it as `Authorization: Bearer <access_token>`.
- Lists come in parts: follow the `Link` header with `rel="next"` until there is none.
- Answers to `GET` have an `ETag`. Send it back in `If-None-Match` and get a 304 while
  nothing has changed; send it in `If-Match` and overwrite nobody's changes.
- Send an `Idempotency-Key` with `POST /api/posts`, and repeat the request as often as
  it takes.
- Errors are `{"detail": ...}`. Who accepts `application/problem+json` gets them in the
  form of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457).
- A 429 or 503 says in `Retry-After` how many seconds to wait.
"""
TAGS = [
    {"name": "posts", "description": "What people write; everybody may read it."},
    {
        "name": "users",
        "description": "Accounts: sign up, log in, change what is one's own.",
    },
    {"name": "health", "description": "For those who keep it running."},
]

# Headers of answers that are no errors

TAG_HEADER = {
    "ETag": "The tag of this representation, for `If-None-Match` and `If-Match`."
}
LINK_HEADER = {
    "Link": 'Where it goes on: `<path>; rel="next"` (RFC 8288); absent at its end.'
}
LOCATION_HEADER = {"Location": "The path of what was made."}


def answers(*headers: dict[str, str], status: int = 200) -> dict[int | str, Any]:
    """What an operation declares whose success has these headers."""
    declared = {
        name: declared_header(description)
        for header in headers
        for name, description in header.items()
    }
    return {str(status): {"headers": declared}}


# Examples of requests


def examples(**values: tuple[str, Any]) -> dict[str, Example]:
    """Bodies by name, each with what is to be said about it."""
    return {
        name: Example(summary=summary, value=value)
        for name, (summary, value) in values.items()
    }


NEW_USER = Body(
    openapi_examples=examples(
        good=(
            "An account",
            {
                "username": "Ada",
                "email": "ada@example.com",
                "password": "three random words",
            },
        ),
        short_password=(
            f"Refused: a password of less than {PASSWORD_MIN_LENGTH} characters",
            {"username": "Ada", "email": "ada@example.com", "password": "short"},
        ),
    )
)
CHANGED_USER = Body(
    openapi_examples=examples(
        name=("Another name", {"username": "Ada L."}),
        address=("Another address", {"email": "ada.l@example.com"}),
        no_address=("Refused: no address", {"email": "ada at example.com"}),
    )
)
LOGIN = Form(
    openapi_examples=examples(
        good=(
            "The email address as `username`",
            {"username": "ada@example.com", "password": "three random words"},
        ),
        name=(
            "Refused: the user's name",
            {"username": "Ada", "password": "three random words"},
        ),
    )
)
FORGOTTEN = Body(
    openapi_examples=examples(
        good=("An address", {"email": "ada@example.com"}),
        no_address=("Refused: no address", {"email": "ada"}),
    )
)
RESET = Body(
    openapi_examples=examples(
        good=(
            "The token from the mail",
            {
                "token": "the part of the link after token=",
                "new_password": "three other words",
            },
        ),
        short_password=(
            f"Refused: a password of less than {PASSWORD_MIN_LENGTH} characters",
            {"token": "the part of the link after token=", "new_password": "short"},
        ),
    )
)
CHANGED_PASSWORD = Body(
    openapi_examples=examples(
        good=(
            "A new password",
            {
                "current_password": "three random words",
                "new_password": "three other words",
            },
        ),
        short_password=(
            f"Refused: a password of less than {PASSWORD_MIN_LENGTH} characters",
            {"current_password": "three random words", "new_password": "short"},
        ),
    )
)
NEW_POST = Body(
    openapi_examples=examples(
        good=(
            "With a title",
            {"title": "First light", "content": "It works.\n\nMore tomorrow."},
        ),
        untitled=("Untitled", {"title": None, "content": "Just a thought."}),
        long_title=(
            f"Refused: a title of more than {TITLE_LENGTH} characters",
            {"title": "Long " * 21, "content": "It works."},
        ),
        blank=("Refused: nothing but white space", {"title": "Empty", "content": " "}),
    )
)
PATCHED_POST = Body(
    openapi_examples=examples(
        title=("Another title", {"title": "Second light"}),
        content=("Another content", {"content": "It still works."}),
        blank=("Refused: nothing but white space", {"content": " "}),
    )
)


# What follows from the shape of an operation is added to all of them at once.

INVALID_REQUEST = Problem(
    422,
    [
        {
            "type": "string_too_long",
            "loc": ["body", "content"],
            "msg": f"String should have at most {CONTENT_LENGTH} characters",
        }
    ],
)
NOT_MODIFIED = "The client has this representation already: there is no body"
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of what one has: the answer is a 304 while that is it.",
    "schema": {"type": "string", "title": "If-None-Match"},
}


def set_up(app: FastAPI) -> None:
    """Make the application give the complete document at `/openapi.json`."""
    # The way that FastAPI's documentation gives; to mypy a method is no attribute.
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if not app.openapi_schema:
        app.openapi_schema = complete(
            get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                license_info=app.license_info,
                tags=app.openapi_tags,
                routes=app.routes,
            )
        )
    return app.openapi_schema


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add what all operations of a kind have in common."""
    for method, operation in operations(document):
        responses = operation["responses"]
        if is_made_up(responses.get("422")):
            del responses["422"]
        for parameter in operation.get("parameters", []):
            parameter["schema"] = without_null(parameter["schema"])
        for problem in common_problems(operation):
            declare(responses, problem)
        if method == "get" and "ETag" in responses["200"].get("headers", {}):
            add_revalidation(operation)
        operation["responses"] = dict(sorted(responses.items()))
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(error_schemas())
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The operations of a document, each with its method."""
    for path in document["paths"].values():
        yield from path.items()


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that can be left out: no text stands for null."""
    choices = [part for part in schema.get("anyOf", []) if part != {"type": "null"}]
    if len(choices) != 1:
        return schema
    choice: dict[str, Any] = choices[0]
    return choice | {key: schema[key] for key in schema if key != "anyOf"}


def is_made_up(response: dict[str, Any] | None) -> bool:
    """Whether FastAPI has declared a 422 of its own, with a schema of its own."""
    return response is not None and response["description"] == "Validation Error"


def common_problems(operation: dict[str, Any]) -> Iterator[Problem]:
    """The errors that follow from what an operation takes."""
    if "security" in operation:
        yield from (NOT_AUTHENTICATED, INVALID_TOKEN)
    if "requestBody" in operation:
        yield BODY_TOO_LARGE
    if "requestBody" in operation or "parameters" in operation:
        yield INVALID_REQUEST
    # How well the site is, it says as often as it is asked.
    if "health" not in operation["tags"]:
        yield TOO_MANY_ATTEMPTS
    yield DATABASE_UNAVAILABLE


def add_revalidation(operation: dict[str, Any]) -> None:
    """Let an operation answer that nothing has changed."""
    operation.setdefault("parameters", []).append(IF_NONE_MATCH)
    operation["responses"]["304"] = {
        "description": NOT_MODIFIED,
        "headers": operation["responses"]["200"]["headers"],
    }


def error_schemas() -> dict[str, Any]:
    """The schemas of errors, by name."""
    models: tuple[type[BaseModel], ...] = (ErrorResponse, Fault, ProblemDetails)
    _, schema = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    defined: dict[str, Any] = schema["$defs"]
    return defined
