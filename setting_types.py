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
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

SENDER_FORMAT = "must be one email address, or Name <name@example.com>"
POSTGRESQL_SCHEMES = {"postgresql+asyncpg", "postgresql", "postgres"}
SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
# Values that other drivers accept for `ssl`.
SSL_SWITCHES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
DRIVER_PARAMETERS = {
    "application_name",
    "dbname",
    "gsslib",
    "host",
    "krbsrvname",
    "options",
    "passfile",
    "password",
    "port",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
    "user",
}
# asyncpg doesn't know these, and would send them to the server as settings.
IGNORED_PARAMETERS = {
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "pgbouncer",
    "prepared_statement_cache_size",
    "replication",
    "sslcertmode",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
}


def check_database_url(value: SecretStr) -> SecretStr:
    """Raise ValueError unless the value is a PostgreSQL URL (asyncpg or no driver)."""
    # Pydantic's PostgresDsn requires a host, but the URL of a Unix socket has none.
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in POSTGRESQL_SCHEMES or not url.database:
        raise ValueError("must look like postgresql+asyncpg://user:password@host/name")
    unknown = url.query.keys() - DRIVER_PARAMETERS - IGNORED_PARAMETERS
    if unknown:
        raise ValueError(f"unknown parameter {min(unknown)}")
    if ssl_mode(url) not in {None, *SSL_MODES}:
        raise ValueError(f"sslmode must be one of {', '.join(sorted(SSL_MODES))}")
    return value


def ssl_mode(url: URL) -> str | None:
    """Return libpq's `sslmode`, which SQLAlchemy and other drivers call `ssl`."""
    mode = url.query.get("sslmode") or url.query.get("ssl")
    return SSL_SWITCHES.get(mode, mode) if isinstance(mode, str) else None


def driver_dsn(value: SecretStr, password: SecretStr | None) -> str:
    """Return the URL that asyncpg understands."""
    url = make_url(value.get_secret_value()).set(drivername="postgresql")
    if password is not None:
        url = url.set(password=password.get_secret_value())
    mode = ssl_mode(url)
    url = url.difference_update_query([*IGNORED_PARAMETERS, "ssl", "sslmode"])
    if mode is not None:
        url = url.update_query_dict({"sslmode": mode})
    return url.render_as_string(hide_password=False)


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


def upper_case(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


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
UpperCase = BeforeValidator(upper_case)
DatabaseUrl = Annotated[SecretStr, AfterValidator(check_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(check_redis_url)]
Sender = Annotated[str, AfterValidator(check_sender)]
