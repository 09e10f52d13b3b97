"""Schemathesis hooks for `tests.fuzz_api`: authentication, checks, and test data."""

import atexit
import itertools
import json
import os
import secrets
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis import CheckContext, HookContext, Response
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

URL = os.environ["FUZZ_URL"]
PASSWORD = os.environ["FUZZ_PASSWORD"]
# Empty for the anonymous run.
TOKEN = os.environ["FUZZ_TOKEN"]
OWN_ID = os.environ["FUZZ_OWN_ID"]

USERNAME_LENGTH = 50
# JSON Schema cannot express these rules.
RULES_IN_WORDS = (
    "must not contain NUL or surrogate characters",
    "must not be blank",
    "must not contain control or invisible characters",
    # Trimming and composing change the length of a name.
    "after validation, not",
    "The cursor can't be decoded",
    "The cursor doesn't refer to a post",
    "cursor can't be combined with skip",
    "Idempotency-Key was used for another request",
)
# Their limits apply after surrounding whitespace is trimmed.
TRIMMED = ("username", "email", "title")

Case = schemathesis.Case[Any]

responses: Counter[tuple[str, int]] = Counter()
sign_ups = itertools.count(1)


def photo() -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "JPEG")
    return file.getvalue()


# The app rejects reserved domains such as `.test` (RFC 6761). JSON Schema cannot
# express that: `format: email` only asks for an email address.
schemathesis.openapi.format(
    "email", st.emails(domains=st.sampled_from(["example.com", "mail.example.org"]))
)
# Random bytes are hardly ever a valid picture.
schemathesis.openapi.format(
    "binary", st.one_of(st.binary(max_size=200), st.just(photo()))
)


@schemathesis.check
def valid_data_acceptance(
    context: CheckContext, response: Response, case: Case
) -> bool | None:
    """Run `positive_data_acceptance`, except where only the prose states a rule."""
    if response.status_code == 422 and any(
        words in response.text for words in RULES_IN_WORDS
    ):
        return None
    return positive_data_acceptance(context, response, case)


@schemathesis.check
def invalid_data_rejection(
    context: CheckContext, response: Response, case: Case
) -> bool | None:
    """Run `negative_data_rejection`, except for text that trimming makes valid."""
    fields = case.body if isinstance(case.body, dict) else {}
    values = [value for value in map(fields.get, TRIMMED) if isinstance(value, str)]
    if response.status_code < 300 and any(value != value.strip() for value in values):
        return None
    return negative_data_rejection(context, response, case)


class Bearer:
    """Authenticate as one user."""

    def get(self, _case: Case, _context: schemathesis.AuthContext) -> str:
        return TOKEN

    def set(self, case: Case, token: str, _context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {token}"


if TOKEN:
    schemathesis.auth()(Bearer)


@schemathesis.hook("before_call")
def spare_own_account(_context: HookContext, case: Case, _: dict[str, Any]) -> None:
    """Use a spare account for requests that would invalidate the token."""
    if not TOKEN or case.headers.get("Authorization") != f"Bearer {TOKEN}":
        return
    label, body = case.operation.label, case.body
    deletes = (
        label == "DELETE /api/users/{user_id}"
        and str(case.path_parameters.get("user_id")) == OWN_ID
    )
    changes_password = (
        label == "PATCH /api/users/me/password"
        and isinstance(body, dict)
        and body.get("current_password") == PASSWORD
    )
    if deletes or changes_password:
        user_id, token = sign_up_spare()
        case.headers["Authorization"] = f"Bearer {token}"
        if deletes:
            case.path_parameters["user_id"] = user_id


def sign_up_spare() -> tuple[int, str]:
    """Create an account that may be deleted; return its id and a token."""
    name = f"spare-{secrets.token_hex(8)}"
    email = f"{name}@example.com"
    account = {"username": name, "email": email, "password": PASSWORD}
    user = httpx.post(f"{URL}/api/users", json=account).raise_for_status().json()
    form = {"username": email, "password": PASSWORD}
    login = httpx.post(f"{URL}/api/users/token", data=form).raise_for_status().json()
    return user["id"], login["access_token"]


@schemathesis.hook("before_call")
def sign_up_new_user(_context: HookContext, case: Case, _: dict[str, Any]) -> None:
    """Give every other sign-up a new name and email address; most others are taken."""
    if (
        case.operation.label == "POST /api/users"
        and case.meta is not None
        and case.meta.generation.mode.is_positive
        and isinstance(case.body, dict)
        and (number := next(sign_ups)) % 2
    ):
        name = f"{'signed' if TOKEN else 'anonymous'}{number}"
        username = f"{case.body['username']} {name}"[-USERNAME_LENGTH:]
        email = f"{name}@example.com"
        case.body = {**case.body, "username": username, "email": email}


@schemathesis.hook("after_call")
def count_response(_context: HookContext, case: Case, response: Response) -> None:
    if response.request.method == case.operation.method.upper():
        responses[case.operation.label, response.status_code] += 1


@atexit.register
def write_responses() -> None:
    """Write the counts for the parent process, into its folder for this run."""
    rows = [[label, status, count] for (label, status), count in responses.items()]
    Path("responses.json").write_text(json.dumps(rows))
