"""What enters and leaves the API."""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from database import MAX_ID
from models import EMAIL_LENGTH, TITLE_LENGTH, USERNAME_LENGTH

CONTENT_LENGTH = 100_000
PASSWORD_MIN_LENGTH = 8
PASSWORD_MAX_LENGTH = 128

ID_DIGITS = 100
INTEGER = re.compile("[+-]?[0-9]+")
# So many characters at the most become one (Unicode Standard Annex 15, table 6).
MOST_COMPOSED = 4
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Without these two some languages, and emoji of more than one part, cannot be written.
ZERO_WIDTH_JOINERS = "\u200c\u200d"
# Control, format, line and paragraph separator, private use, surrogate.
NAMELESS_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Co", "Cs"}


def compose(value: Any) -> Any:
    """Trim a text and bring it into Unicode's composed form (NFC).

    One that is too long in any form stays as it is: to sort the marks of a megabyte
    takes minutes.
    """
    if type(value) is not str:
        return value
    trimmed = value.strip()
    if len(trimmed) > MOST_COMPOSED * USERNAME_LENGTH:
        return trimmed
    return unicodedata.normalize("NFC", trimmed)


def refuse_unstorable(value: str) -> str:
    """Refuse what PostgreSQL cannot store: NUL, and what UTF-8 has no bytes for."""
    if UNSTORABLE.search(value):
        raise ValueError("must not contain NUL or surrogate characters")
    return value


def refuse_invisible(value: str) -> str:
    """Refuse characters that nobody sees, or that turn the text around them."""
    for character in value:
        if (
            unicodedata.category(character) in NAMELESS_CATEGORIES
            and character not in ZERO_WIDTH_JOINERS
        ):
            raise ValueError("must not contain control or invisible characters")
    return value


def refuse_blank(value: str) -> str:
    """Refuse a text of nothing but white space."""
    if not value.strip():
        raise ValueError("must not be only white space")
    return value


def normalize_email(value: str) -> str:
    """An address in lower case and normal form, as it is stored.

    Raises:
        ValueError: It is none (RFC 5321 and 6531, by email-validator).
    """
    # Before the library composes it: see `compose`.
    if len(value) > MOST_COMPOSED * EMAIL_LENGTH:
        raise ValueError(f"should have at most {EMAIL_LENGTH} characters")
    try:
        address = validate_email(value, check_deliverability=False).normalized.lower()
    except EmailNotValidError as error:
        raise ValueError(f"is not a valid email address: {error}") from error
    if len(address) > EMAIL_LENGTH:
        raise ValueError(f"should have at most {EMAIL_LENGTH} characters")
    return address


def parse_id(text: str) -> int:
    """An id from a path; Pydantic would also take `1.0`, `1_0` and white space.

    Raises:
        PydanticCustomError: It is no integer.
    """
    if not INTEGER.fullmatch(text):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    # Python refuses to read thousands of digits, which no row's id has.
    return int(text) if len(text) <= ID_DIGITS else MAX_ID + 1


# Bounds are for the document only: what is outside them is not found.
RowId = Annotated[
    int,
    BeforeValidator(parse_id),
    Field(json_schema_extra={"minimum": 1, "maximum": MAX_ID}),
]

Storable = AfterValidator(refuse_unstorable)

# What is compared and not stored need not be short; a whole body is no longer.
AnyText = Annotated[str, StringConstraints(max_length=1024 * 1024), Storable]
Password = Annotated[AnyText, Field(examples=["three random words"])]
Username = Annotated[
    str,
    StringConstraints(min_length=1, max_length=USERNAME_LENGTH),
    BeforeValidator(compose),
    AfterValidator(refuse_invisible),
    Field(examples=["Ada"]),
]
Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=EMAIL_LENGTH),
    AfterValidator(normalize_email),
    Field(json_schema_extra={"format": "email"}, examples=["ada@example.com"]),
]
NewPassword = Annotated[
    str,
    StringConstraints(min_length=PASSWORD_MIN_LENGTH, max_length=PASSWORD_MAX_LENGTH),
    Storable,
    Field(examples=["three random words"]),
]
Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=TITLE_LENGTH),
    Storable,
    Field(examples=["First light"]),
]
Content = Annotated[
    str,
    StringConstraints(min_length=1, max_length=CONTENT_LENGTH),
    AfterValidator(refuse_blank),
    Storable,
    Field(examples=["It works.\n\nMore tomorrow."]),
]


class Schema(BaseModel):
    """Base of all schemas: reads ORM objects, takes descriptions from docstrings."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class UserCreate(Schema):
    """What it takes to sign up."""

    username: Username
    """1 to 50 characters; unique without regard to case."""
    email: Email
    """At most 120 characters; stored in lower case."""
    password: NewPassword
    """8 to 128 characters; white space counts."""


class UserUpdate(Schema):
    """What users may change of themselves; absent or null changes nothing."""

    username: Username | None = None
    """1 to 50 characters; unique without regard to case."""
    email: Email | None = None
    """At most 120 characters; stored in lower case."""


class UserPublicResponse(Schema):
    """What everybody may know of a user."""

    id: int
    """Number of the account; it never changes."""
    username: str
    """The name that stands under posts; it can change."""
    image_file: str | None
    """Name of the stored picture; null when there is none."""
    image_path: str
    """Address of the picture, of the default one when there is none."""


class UserPrivateResponse(UserPublicResponse):
    """What users may know of themselves."""

    email: str
    """Where mail goes to, and what one logs in with."""


class LoginForm(Schema):
    """The password grant of OAuth 2 (RFC 6749, section 4.3), sent as a form."""

    username: Annotated[AnyText, Field(examples=["ada@example.com"])]
    """The email address."""
    password: Password
    """The password of the account."""
    grant_type: Literal["password"] = "password"
    """What RFC 6749 calls this way to log in; the only one there is."""
    scope: AnyText = ""
    """Ignored: every token allows all that its user may do."""
    client_id: AnyText | None = None
    """Ignored."""
    client_secret: AnyText | None = None
    """Ignored."""


class Token(Schema):
    """Proof of a login; send it as `Authorization: Bearer <access_token>`."""

    access_token: str
    """A JSON Web Token (RFC 7519) that ends by itself, and with the password."""
    token_type: Literal["bearer"] = "bearer"
    """How to send it (RFC 6750)."""


class PostCreate(Schema):
    """A new post."""

    title: Title | None = None
    """At most 100 characters; absent, null or empty means untitled."""
    content: Content
    """1 to 100,000 characters, not only white space."""


class PostReplace(PostCreate):
    """A whole post in place of another: both keys must be there."""

    title: Title | None
    """At most 100 characters; null or empty means untitled."""


class PostUpdate(Schema):
    """What an author may change; a key that is absent or null changes nothing."""

    title: Title | None = None
    """At most 100 characters; empty means untitled."""
    content: Content | None = None
    """1 to 100,000 characters, not only white space."""


class PostResponse(Schema):
    """A post and who wrote it."""

    id: int
    """Number of the post; it never changes."""
    title: str
    """Empty when the post is untitled."""
    content: str
    """Plain text; its spaces and line breaks are meant to be seen."""
    user_id: int
    """The `id` of the author."""
    date_posted: datetime
    """When it was posted, in UTC."""
    date_updated: datetime | None
    """When its text was edited last, in UTC; null when it never was."""
    author: UserPublicResponse
    """Who wrote it."""
    display_title: str
    """The title, or the first words of the content when it has none."""
    excerpt: str
    """The beginning of the content, at most 300 characters."""


class PaginatedPostsResponse(Schema):
    """A part of a list of posts."""

    posts: list[PostResponse]
    """The posts of this part, in order."""
    total: int
    """How many posts the whole list has."""
    skip: int
    """How many posts of the list come before these; with a cursor, came before it."""
    limit: int
    """How many posts were asked for."""
    has_more: bool
    """Whether posts follow."""
    next_cursor: str | None
    """Where the list goes on, to be sent as `cursor`; null at its end."""


class ForgotPasswordRequest(Schema):
    """Whose password is forgotten."""

    email: Email
    """The address of the account."""


class ResetPasswordRequest(Schema):
    """A new password, and the token from the mail that allows it."""

    token: Annotated[AnyText, Field(examples=["the part after token="])]
    """What comes after `token=` in the link of the mail."""
    new_password: NewPassword
    """8 to 128 characters; white space counts."""


class ChangePasswordRequest(Schema):
    """A new password, and the one that it replaces."""

    current_password: Password
    """The password that one has logged in with."""
    new_password: NewPassword
    """8 to 128 characters; white space counts."""


class MessageResponse(Schema):
    """That it worked, in words."""

    message: str
    """One sentence for people."""


class PasswordChangedResponse(Token, MessageResponse):
    """That it worked, and a token in place of the one that has just ended."""


class HealthResponse(Schema):
    """That the application reaches its database."""

    status: Literal["healthy"] = "healthy"
    """Always this; what is not healthy answers 503."""
