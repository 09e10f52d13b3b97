"""Schemathesis hooks for `tests.fuzz_api`: authentication, checks, and test data."""

import os
import secrets
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import strategies as st
from schemathesis import CheckContext, HookContext, Response
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

from tests.server import PASSWORD

PHOTO = Path(__file__).with_name("test_image.jpg").read_bytes()
# Empty in the anonymous run.
TOKEN = os.environ.get("FUZZ_TOKEN", "")

# Errors about rules that JSON Schema cannot express.
RULES_IN_WORDS = (
    "must not contain NUL or surrogate characters",
    "must not be blank",
    "must not contain control or invisible characters",
    "must contain a visible character",
    # Validation trims and composes (NFC) names, which changes their length.
    "after validation, not",
    "The cursor can't be decoded",
    "The cursor doesn't refer to a post",
    "The cursor can't be combined with skip",
    "Idempotency-Key was used for another request",
)
# The length limits of these fields apply after whitespace is trimmed.
TRIMMED = ("username", "email", "title")

Case = schemathesis.Case[Any]

# The app rejects reserved domains such as `.test` (RFC 6761). JSON Schema cannot
# express that: `format: email` only asks for an email address.
schemathesis.openapi.format(
    "email", st.emails(domains=st.sampled_from(["example.com", "mail.example.org"]))
)
# Random bytes are almost never a valid picture.
schemathesis.openapi.format(
    "binary", st.one_of(st.binary(max_size=200), st.just(PHOTO))
)


@schemathesis.check
def valid_data_acceptance(
    context: CheckContext, response: Response, case: Case
) -> bool | None:
    """Run `positive_data_acceptance`, but allow the errors in `RULES_IN_WORDS`."""
    if response.status_code == 422 and any(
        words in response.text for words in RULES_IN_WORDS
    ):
        return None
    return positive_data_acceptance(context, response, case)


@schemathesis.check
def invalid_data_rejection(
    context: CheckContext, response: Response, case: Case
) -> bool | None:
    """Run `negative_data_rejection`, but allow text that is valid after trimming."""
    fields = case.body if isinstance(case.body, dict) else {}
    values = [value for value in map(fields.get, TRIMMED) if isinstance(value, str)]
    if response.status_code < 300 and any(value != value.strip() for value in values):
        return None
    return negative_data_rejection(context, response, case)


class Bearer:
    """Authenticate requests with `FUZZ_TOKEN`."""

    def get(self, _case: Case, _context: schemathesis.AuthContext) -> str:
        return TOKEN

    def set(self, case: Case, token: str, _context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {token}"


if TOKEN:
    schemathesis.auth()(Bearer)


@schemathesis.hook("before_call")
def use_spare_account(_context: HookContext, case: Case, _: dict[str, Any]) -> None:
    """Use another account for requests that would invalidate the token."""
    if case.headers.get("Authorization") != f"Bearer {TOKEN}":
        return
    deletes_own = (
        case.operation.label == "DELETE /api/users/{user_id}"
        and str(case.path_parameters.get("user_id")) == os.environ["FUZZ_OWN_ID"]
    )
    if deletes_own or case.operation.label == "PATCH /api/users/me/password":
        user_id, token = sign_up_spare()
        case.headers["Authorization"] = f"Bearer {token}"
    if deletes_own:
        case.path_parameters["user_id"] = user_id


def sign_up_spare() -> tuple[int, str]:
    """Create an account, and return its id and a token."""
    name = f"spare-{secrets.token_hex(8)}"
    email = f"{name}@example.com"
    account = {"username": name, "email": email, "password": PASSWORD}
    form = {"username": email, "password": PASSWORD}
    with httpx.Client(base_url=os.environ["FUZZ_URL"]) as client:
        user = client.post("/api/users", json=account).raise_for_status().json()
        login = client.post("/api/users/token", data=form).raise_for_status().json()
    return user["id"], login["access_token"]
