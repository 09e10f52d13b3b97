"""Errors of the API: what is raised, what is answered, and what the document says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

PROBLEM_JSON = "application/problem+json"

# What the document says about a status.
DESCRIPTIONS = {
    400: "The request was understood, but cannot be carried out",
    401: "Who asks has to log in first",
    403: "Who asks may not do this",
    404: "There is no such thing",
    409: "The same request is being carried out",
    412: "It is no longer what the request takes it for",
    413: "The body is larger than this operation accepts",
    422: "A part of the request is not as it should be",
    429: "That was tried too often",
    503: "What the operation needs cannot be reached at the moment",
}
# What RFC 9110 calls two statuses that older versions of Python know by older names.
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

HEADERS = {
    "Connection": "The connection ends here: the rest of the body is not read.",
    "ETag": "The tag of what the server has now, to be sent in `If-Match`.",
    "Retry-After": "How long to wait before trying again, in seconds.",
    "WWW-Authenticate": "How to prove who one is: with a bearer token.",
}


class Fault(BaseModel):
    """What is wrong with one part of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """The kind of fault, for programs."""
    loc: list[str | int]
    """Where it is: `body`, `query`, `path` or `header`, then the way to it."""
    msg: str
    """What is wrong, in words."""


class ErrorResponse(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    detail: str | list[Fault]
    """One sentence; for a 422 about parts of the request a list of these."""


class ProblemDetails(BaseModel):
    """What went wrong, as RFC 9457 has it: for those who accept its media type."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: Literal["about:blank"] = "about:blank"
    """No more than what the status means."""
    title: str
    """What the status means."""
    status: int
    """The status, once more."""
    detail: str
    """One sentence."""
    errors: list[Fault] | None = None
    """What is wrong with the parts of the request; only with a 422 about these."""


@dataclass(frozen=True)
class Problem:
    """An error that operations can answer with."""

    status: int
    detail: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    varying: Sequence[str] = ()
    """Names of the headers that are different each time."""

    def error(self, **headers: str) -> HTTPException:
        """The exception to raise; a name of a header has `_` for each `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTPException(self.status, self.detail, {**self.headers, **named})


DATABASE_UNAVAILABLE = Problem(503, "Database unavailable", {"Retry-After": "5"})
TOO_BUSY = Problem(
    503, "The server is busy. Please try again in a moment.", {"Retry-After": "5"}
)
BODY_TOO_LARGE = Problem(413, "Request body too large", {"Connection": "close"})
TOO_MANY_ATTEMPTS = Problem(
    429, "Too many attempts. Please try again later.", varying=["Retry-After"]
)


def answer_error(
    request: Request,
    status: int,
    detail: Any,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as JSON, in the form that the client accepts."""
    content = {"detail": detail}
    media_type = "application/json"
    if accepts_problems(request):
        content = problem_details(status, detail)
        media_type = PROBLEM_JSON
    response = JSONResponse(content, status, headers, media_type)
    response.headers.add_vary_header("Accept")
    return response


def accepts_problems(request: Request) -> bool:
    """Whether a client names the media type of RFC 9457 and does not rule it out."""
    for accepted in ",".join(request.headers.getlist("accept")).lower().split(","):
        media_type, *parameters = (part.strip() for part in accepted.split(";"))
        if media_type == PROBLEM_JSON:
            return not any(is_zero_weight(parameter) for parameter in parameters)
    return False


def is_zero_weight(parameter: str) -> bool:
    """Whether a parameter of `Accept` says "not this one" (RFC 9110, 12.4.2)."""
    name, _, value = parameter.partition("=")
    return name == "q" and value.rstrip("0") in {"", "0."}


def problem_details(status: int, detail: Any) -> dict[str, Any]:
    """The members of a problem, from the `detail` of a plain error."""
    problem = {
        "type": "about:blank",
        "title": TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
    }
    if isinstance(detail, str):
        return problem | {"detail": detail}
    return problem | {"detail": "The request is not as it should be", "errors": detail}


# What the document says


def errors(*problems: Problem) -> dict[int | str, dict[str, Any]]:
    """What an operation declares that can answer with these."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        declare(responses, problem)
    return responses


def declare(responses: dict[Any, dict[str, Any]], problem: Problem) -> None:
    """Add an error to the answers of an operation, its detail as an example."""
    response = responses.setdefault(
        str(problem.status),
        {"description": DESCRIPTIONS[problem.status], "content": {}},
    )
    for name in (*problem.headers, *problem.varying):
        response.setdefault("headers", {})[name] = declared_header(HEADERS[name])
    text = problem.detail if isinstance(problem.detail, str) else "Invalid request"
    example = re.sub(r"\W+", "_", text).strip("_").lower()
    forms = {
        "application/json": ("ErrorResponse", {"detail": problem.detail}),
        PROBLEM_JSON: (
            "ProblemDetails",
            problem_details(problem.status, problem.detail),
        ),
    }
    for media_type, (schema, value) in forms.items():
        form = response["content"].setdefault(
            media_type,
            {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": {}},
        )
        form["examples"][example] = {"value": value}


def declared_header(description: str) -> dict[str, Any]:
    """A header of an answer."""
    return {"description": description, "schema": {"type": "string"}}
