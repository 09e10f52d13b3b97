"""Request and response models of the API."""

import re
import unicodedata
from datetime import datetime
from functools import partial
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

from config import MAX_BODY_BYTES
from models import (
    MAX_BIO_LENGTH,
    MAX_EMAIL_LENGTH,
    MAX_TITLE_LENGTH,
    MAX_USERNAME_LENGTH,
)
from rendering import PostFormat
from unicode_text import MAX_COMPOSITION, is_visible, to_nfc

MAX_CONTENT_LENGTH = 100_000
MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 128

# PostgreSQL can't store NUL, and UTF-8 can't encode surrogates.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Several languages need these two characters, and so do emoji that combine others.
ZERO_WIDTH_JOINERS = "\u200c\u200d"
# Control, format, line separator, paragraph separator, private use and surrogate.
INVISIBLE_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Co", "Cs"}


def normalize_username(value: Any) -> Any:
    if type(value) is not str:
        return value
    return to_nfc(value.strip(), max_length=MAX_USERNAME_LENGTH)


def normalize_password(value: Any) -> Any:
    """Return a password in NFC, because keyboards encode the same text differently."""
    if type(value) is not str:
        return value
    return to_nfc(value, max_length=MAX_PASSWORD_LENGTH)


def validate_storable(value: str) -> str:
    if UNSTORABLE.search(value):
        raise ValueError("must not contain NUL or surrogate characters")
    return value


def validate_single_line(value: str) -> str:
    """Reject text that contains control or format characters."""
    for character in value:
        if (
            unicodedata.category(character) in INVISIBLE_CATEGORIES
            and character not in ZERO_WIDTH_JOINERS
        ):
            raise ValueError("must not contain control or invisible characters")
    return value


def validate_visible(value: str) -> str:
    if not is_visible(value):
        raise ValueError("must contain a visible character")
    return value


def validate_not_blank(value: str) -> str:
    if not is_visible(value):
        raise ValueError("must not be blank")
    return value


def invisible_to_empty(value: str) -> str:
    """Return a title or a bio, or an empty string if it has no visible characters."""
    return value if is_visible(value) else ""


def normalize_email(value: str, *, is_new: bool = True) -> str:
    """Return an email address in the form in which it is stored.

    Few servers deliver to email addresses with non-ASCII characters, or more than 64
    characters, before the `@`. Only older accounts may have such email addresses.

    Raises:
        ValueError: The email address is invalid (RFC 5321).
    """
    # Check the length first, because normalizing a long string can take minutes.
    if len(value) > MAX_COMPOSITION * MAX_EMAIL_LENGTH:
        raise ValueError(f"should have at most {MAX_EMAIL_LENGTH} characters")
    try:
        address = validate_email(
            value, check_deliverability=False, allow_smtputf8=not is_new, strict=is_new
        ).normalized.lower()
    except EmailNotValidError as error:
        message = "Enter a valid email address."
        raise PydanticCustomError("value_error", message) from error
    if len(address) > MAX_EMAIL_LENGTH:
        raise ValueError(f"should have at most {MAX_EMAIL_LENGTH} characters")
    # This starts an encoded word (RFC 2047), which isn't allowed in an email address.
    # Some email software would decode it anyway, and send the email to another address.
    if "=?" in address:
        raise ValueError("should not contain =?")
    return address


Storable = AfterValidator(validate_storable)

# For values that are compared but not stored.
AnyText = Annotated[str, StringConstraints(max_length=MAX_BODY_BYTES), Storable]
Password = Annotated[AnyText, Field(examples=["three random words"])]
Username = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_USERNAME_LENGTH),
    BeforeValidator(normalize_username),
    AfterValidator(validate_single_line),
    AfterValidator(validate_visible),
    Field(examples=["Ada"]),
]
Bio = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_BIO_LENGTH),
    AfterValidator(validate_single_line),
    AfterValidator(invisible_to_empty),
    Field(examples=["I write about engines."]),
]
EmailText = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_EMAIL_LENGTH),
    Field(json_schema_extra={"format": "email"}, examples=["ada@example.com"]),
]
Email = Annotated[EmailText, AfterValidator(normalize_email)]
ExistingEmail = Annotated[
    EmailText, AfterValidator(partial(normalize_email, is_new=False))
]
NewPassword = Annotated[
    str,
    StringConstraints(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH),
    BeforeValidator(normalize_password),
    Storable,
    Field(examples=["three random words"]),
]
Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_TITLE_LENGTH),
    Storable,
    AfterValidator(invisible_to_empty),
    Field(examples=["First light"]),
]
Content = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_CONTENT_LENGTH),
    AfterValidator(validate_not_blank),
    Storable,
    Field(examples=["It works.\n\nMore tomorrow."]),
]


class Schema(BaseModel):
    """Base class of all schemas, which can be created from ORM objects."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class UserCreate(Schema):
    """Sign-up request."""

    username: Username
    """1 to 50 characters. Unique regardless of case, character width and spacing."""
    email: Email
    """At most 120 characters. Stored in lower case."""
    password: NewPassword
    """8 to 128 characters, including whitespace."""


class UserUpdate(Schema):
    """Fields of your account to update. Absent or null leaves a field unchanged."""

    username: Username | None = None
    """1 to 50 characters. Unique regardless of case, character width and spacing."""
    email: Email | None = None
    """At most 120 characters. Stored in lower case."""
    bio: Bio | None = None
    """At most 160 characters in a single line. Empty removes the bio."""


class UserPublicResponse(Schema):
    """Public profile."""

    id: int
    """Id of the user, which never changes."""
    username: str
    """Name of the user, which can change."""
    image_file: str | None
    """Filename of the profile picture, or null if the user has none."""
    image_path: str
    """URL or path of the profile picture, or of the default picture."""
    bio: str
    """A few words about the user, or an empty string."""


class UserPrivateResponse(UserPublicResponse):
    """Profile of the current user, including private fields."""

    email: str
    """Email address, also used to log in."""


class LoginForm(Schema):
    """OAuth 2.0 password grant (RFC 6749, section 4.3), sent as a form."""

    username: Annotated[AnyText, Field(examples=["ada@example.com"])]
    """Email address of the account."""
    password: Password
    """Password of the account."""
    grant_type: Literal["password"] = "password"
    """OAuth 2.0 grant type. Only `password` is supported."""
    scope: AnyText = ""
    """Ignored, because every token grants full access to the account."""
    client_id: AnyText | None = None
    """Ignored."""
    client_secret: AnyText | None = None
    """Ignored."""


class Token(Schema):
    """Access token. Send it as `Authorization: Bearer <access_token>`."""

    access_token: str
    """JSON Web Token (RFC 7519). Valid until it expires or the password changes."""
    token_type: Literal["bearer"] = "bearer"
    """Token type (RFC 6750)."""


class PostCreate(Schema):
    """A new post."""

    title: Title | None = None
    """At most 100 characters. Absent, null, empty or invisible means untitled."""
    content: Content
    """1 to 100,000 characters. Must not be blank."""
    format: PostFormat | None = None
    """`plain` or `markdown`. Absent or null means plain."""


class PostReplace(PostCreate):
    """A new title and content for a post. Both fields are required."""

    title: Title | None
    """At most 100 characters. Null, empty or invisible means untitled."""
    format: PostFormat | None = None
    """`plain` or `markdown`. Absent or null leaves the format unchanged."""


class PostUpdate(Schema):
    """Fields of a post to update. Absent or null leaves a field unchanged."""

    title: Title | None = None
    """At most 100 characters. Empty or invisible means untitled."""
    content: Content | None = None
    """1 to 100,000 characters. Must not be blank."""
    format: PostFormat | None = None
    """`plain` or `markdown`."""


class PostPreview(Schema):
    """Content to render."""

    content: Content
    """1 to 100,000 characters. Must not be blank."""
    format: PostFormat = "plain"
    """`plain` or `markdown`."""


class PostResponse(Schema):
    """A post with its author."""

    id: int
    """Id of the post, which never changes."""
    title: str
    """Title, or an empty string if the post is untitled."""
    content: str
    """Text as the author wrote it. Preserve line breaks if you display plain text."""
    format: PostFormat
    """`plain` for plain text, or `markdown` for Markdown (CommonMark with tables)."""
    user_id: int
    """Id of the author."""
    date_posted: datetime
    """Time of publication, in UTC."""
    date_updated: datetime | None
    """Time of the last edit, in UTC, or null if the post was never edited."""
    author: UserPublicResponse
    """Public profile of the author."""
    display_title: str
    """The title, or the first words of the content if the post is untitled."""
    excerpt: str
    """The beginning of the content without markup, at most 300 characters long."""
    content_html: str | None = Field(default=None, exclude_if=lambda html: html is None)
    """The content as safe HTML. Absent in lists."""


class UserExport(Schema):
    """All of a user's data."""

    profile: UserPrivateResponse
    """Profile, including private fields."""
    posts: list[PostResponse]
    """All posts, newest first."""


class PaginatedPostsResponse(Schema):
    """One page of a list of posts."""

    posts: list[PostResponse]
    """Posts on this page, newest first."""
    total: int
    """Number of posts in the whole list."""
    skip: int
    """Offset of the first post, or its offset when the cursor was created."""
    limit: int
    """Maximum number of posts per page."""
    has_more: bool
    """True if there are more posts after this page."""
    next_cursor: str | None
    """Cursor of the next page, or null on the last page."""


class ForgotPasswordRequest(Schema):
    """Request for a password reset link."""

    email: ExistingEmail
    """Email address of the account."""


class ResetPasswordRequest(Schema):
    """New password, and the token from the password reset email."""

    token: Annotated[AnyText, Field(examples=["the part after token="])]
    """The part of the link in the email that follows `token=`."""
    new_password: NewPassword
    """8 to 128 characters, including whitespace."""


class ChangePasswordRequest(Schema):
    """Current and new password."""

    current_password: Password
    """Current password of the account."""
    new_password: NewPassword
    """8 to 128 characters, including whitespace."""


class MessageResponse(Schema):
    """A message for the user."""

    message: str
    """Message to display."""


class PasswordChangedResponse(Token, MessageResponse):
    """A message, and an access token that replaces the revoked ones."""


class HealthResponse(Schema):
    """Health of the app and its database."""

    status: Literal["healthy"] = "healthy"
    """Always `healthy`. If the app is unhealthy, the response is a 503 error."""


class LivenessResponse(Schema):
    """Health of the process."""

    status: Literal["alive"] = "alive"
    """Always `alive`. A process that isn't alive doesn't respond."""
