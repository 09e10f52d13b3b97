"""Types of the settings, with their formats and validation."""

from email.errors import InvalidHeaderDefect
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Annotated
from urllib.parse import urlsplit

import idna
from limits import parse
from pydantic import (
    AfterValidator,
    BeforeValidator,
    HttpUrl,
    RedisDsn,
    SecretStr,
    StringConstraints,
    TypeAdapter,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

SENDER_FORMAT = "must be one email address, or Name <name@example.com>"
POSTGRESQL_SCHEMES = {"postgresql+asyncpg", "postgresql", "postgres"}


def check_database_url(value: SecretStr) -> SecretStr:
    """Raise ValueError unless the value is a PostgreSQL URL (asyncpg or no driver)."""
    # Pydantic's PostgresDsn requires a host, but the URL of a Unix socket has none.
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in POSTGRESQL_SCHEMES or not url.database:
        raise ValueError("must look like postgresql+asyncpg://user:password@host/name")
    return value


def check_web_url(value: str) -> str:
    """Return an HTTP(S) URL without a trailing slash, or raise ValueError."""
    url = TypeAdapter(HttpUrl).validate_python(value)
    if url.query or url.fragment or url.username or url.password:
        raise ValueError("must be a URL without a query, fragment or username")
    return str(url).rstrip("/")


def check_origin(value: str) -> str:
    """Return an origin (RFC 6454) or `*`. Raise ValueError for anything else."""
    if value != "*" and urlsplit(value := check_web_url(value)).path:
        raise ValueError("must be an origin such as https://app.example.com, or *")
    return value


def check_redis_url(value: SecretStr) -> SecretStr:
    TypeAdapter(RedisDsn).validate_python(value.get_secret_value())
    return value


def check_sender(value: str) -> str:
    """Return a sender with its domain in ASCII form, or raise ValueError."""
    try:
        message = EmailMessage()
        message["From"] = value
        header = message["From"]
        (sender,) = header.addresses
        domain = sender.domain
        if not domain.isascii():
            domain = idna.encode(domain, uts46=True).decode()
        address = str(Address(sender.display_name, sender.username, domain))
    # The standard library raises undocumented errors for malformed email addresses.
    except Exception as error:
        raise ValueError(SENDER_FORMAT) from error
    # The parser treats an unquoted name with an @ as an email address, and one with a
    # colon as a group.
    is_invalid = any(
        isinstance(defect, InvalidHeaderDefect) for defect in header.defects
    )
    is_group = header.groups[0].display_name is not None
    if is_invalid or is_group or not sender.username or not domain:
        raise ValueError(SENDER_FORMAT)
    return address


def check_rate(value: str) -> str:
    """Raise ValueError if `limits` can't parse the rate, or if the rate is zero."""
    if parse(value).amount < 1:
        raise ValueError('must be at least 1, e.g. "10/5 minutes"')
    return value


def split_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


WebUrl = Annotated[str, AfterValidator(check_web_url)]
Origin = Annotated[str, AfterValidator(check_origin)]
Rate = Annotated[str, AfterValidator(check_rate)]
Host = Annotated[
    str,
    StringConstraints(
        to_lower=True,
        pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])$",
    ),
]
CommaSeparated = BeforeValidator(split_list)
DatabaseUrl = Annotated[SecretStr, AfterValidator(check_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(check_redis_url)]
Sender = Annotated[str, AfterValidator(check_sender)]
