"""What Schemathesis loads while `tests.fuzz_api` runs it: who asks, and with what."""

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
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

URL = os.environ["FUZZ_URL"]
PASSWORD = os.environ["FUZZ_PASSWORD"]
ANSWERS_FILE = Path(os.environ["FUZZ_ANSWERS"])
# Both are empty where nobody is signed in.
TOKEN = os.environ["FUZZ_TOKEN"]
OWN_ID = os.environ["FUZZ_OWN_ID"]

USERNAME_LENGTH = 50
# Of these rules JSON Schema knows nothing.
RULES_IN_WORDS = (
    "must not contain NUL or surrogate characters",
    "must not be only white space",
    "must not contain control or invisible characters",
    # Trimmed and composed, a name has another length.
    "after validation, not",
    "The cursor can't be decoded",
    "The cursor doesn't refer to a post",
    "cursor can't be combined with skip",
    "Idempotency-Key was used for another request",
)

# Their limits count what is left without the white space around it.
TRIMMED = ("username", "email", "title")

answers: Counter[tuple[str, int]] = Counter()
sign_ups = itertools.count(1)


def photo() -> bytes:
    """A picture that the application takes."""
    file = BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "JPEG")
    return file.getvalue()


# The application refuses domains that cannot exist (RFC 6761), such as `.test`. JSON
# Schema has no word for that: to be an address is all that `format: email` asks.
schemathesis.openapi.format(
    "email", st.emails(domains=st.sampled_from(["example.com", "mail.example.org"]))
)
# Random bytes are hardly ever a picture.
schemathesis.openapi.format(
    "binary", st.one_of(st.binary(max_size=200), st.just(photo()))
)


@schemathesis.check
def valid_data_acceptance(
    context: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> bool | None:
    """`positive_data_acceptance`, but for what the document can say in words only."""
    if response.status_code == 422 and any(
        words in response.text for words in RULES_IN_WORDS
    ):
        return None
    return positive_data_acceptance(context, response, case)


@schemathesis.check
def invalid_data_rejection(
    context: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> bool | None:
    """`negative_data_rejection`, but for what is too long only before it is trimmed."""
    fields = case.body if isinstance(case.body, dict) else {}
    is_padded = any(
        isinstance(value, str) and value != value.strip()
        for value in map(fields.get, TRIMMED)
    )
    if is_padded and response.status_code < 300:
        return None
    return negative_data_rejection(context, response, case)


class Bearer:
    """The access token of the one user who asks."""

    def get(
        self, _case: schemathesis.Case[Any], _context: schemathesis.AuthContext
    ) -> str:
        """The token: nothing ends it, see `spare_own_account`."""
        return TOKEN

    def set(
        self,
        case: schemathesis.Case[Any],
        token: str,
        _context: schemathesis.AuthContext,
    ) -> None:
        """Send the token."""
        case.headers["Authorization"] = f"Bearer {token}"


if TOKEN:
    schemathesis.auth()(Bearer)


@schemathesis.hook("before_call")
def spare_own_account(
    _context: schemathesis.HookContext,
    case: schemathesis.Case[Any],
    _kwargs: dict[str, Any],
) -> None:
    """Let somebody else's account end where the request would end one's own.

    A deleted account or a changed password ends the token: every case after it would
    be a 401. So these requests go out all the same, but for an account of its own,
    made a moment before. What else changes of one's account leaves the token alone.
    """
    if not TOKEN or case.headers.get("Authorization") != f"Bearer {TOKEN}":
        return
    deletes = (
        case.operation.label == "DELETE /api/users/{user_id}"
        and str(case.path_parameters.get("user_id")) == OWN_ID
    )
    changes_password = (
        case.operation.label == "PATCH /api/users/me/password"
        and isinstance(case.body, dict)
        and case.body.get("current_password") == PASSWORD
    )
    if not deletes and not changes_password:
        return
    user_id, token = sign_up_spare()
    case.headers["Authorization"] = f"Bearer {token}"
    if deletes:
        case.path_parameters["user_id"] = user_id


@schemathesis.hook("before_call")
def sign_up_somebody_new(
    _context: schemathesis.HookContext,
    case: schemathesis.Case[Any],
    _kwargs: dict[str, Any],
) -> None:
    """Give every other sign-up a new name and address: most of the others are taken."""
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


def sign_up_spare() -> tuple[int, str]:
    """Make an account that may end; gives its id and a token."""
    name = f"spare-{secrets.token_hex(8)}"
    email = f"{name}@example.com"
    account = {"username": name, "email": email, "password": PASSWORD}
    made = httpx.post(f"{URL}/api/users", json=account).raise_for_status()
    form = {"username": email, "password": PASSWORD}
    login = httpx.post(f"{URL}/api/users/token", data=form).raise_for_status()
    return made.json()["id"], login.json()["access_token"]


@schemathesis.hook("after_call")
def count_answer(
    _context: schemathesis.HookContext,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> None:
    """Note what was answered, for the table at the end."""
    if response.request.method == case.operation.method.upper():
        answers[case.operation.label, response.status_code] += 1


@atexit.register
def write_answers() -> None:
    """Leave the counted answers to the process that started this one."""
    rows = [[label, status, count] for (label, status), count in answers.items()]
    ANSWERS_FILE.write_text(json.dumps(rows))
