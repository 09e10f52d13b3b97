"""Settings of the application, read from the environment and from `.env`."""

import os
import secrets
import tempfile
from contextlib import suppress
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from limits import parse
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    RedisDsn,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

BASE_DIR = Path(__file__).resolve().parent
ENV_FILE = Path(os.environ.get("ENV_FILE", BASE_DIR / ".env"))

# A key as long as the digest, as RFC 7518 (section 3.2) asks of HMAC signatures.
KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
GENERATE_KEY = (
    'create one with: python -c "import secrets; print(secrets.token_urlsafe(64))"'
)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
SENDER_FORMAT = "must be one email address, or Name <name@example.com>"
POSTGRESQL_SCHEMES = {"postgresql+asyncpg", "postgresql", "postgres"}
RENAMED_SETTINGS = {
    "GENERAL_RATE": "RATE_LIMIT_DEFAULT",
    "LOGIN_RATE_ACCOUNT": "RATE_LIMIT_LOGIN_PER_ACCOUNT_AND_IP",
    "LOGIN_RATE_ACCOUNT_ANYWHERE": "RATE_LIMIT_LOGIN_PER_ACCOUNT",
    "LOGIN_RATE_ADDRESS": "RATE_LIMIT_LOGIN_PER_IP",
    "SIGN_UP_RATE": "RATE_LIMIT_SIGN_UP_PER_IP",
    "PASSWORD_RATE": "RATE_LIMIT_PASSWORD_PER_USER",
    "RESET_RATE_ADDRESS": "RATE_LIMIT_RESET_PER_IP",
    "RESET_RATE_ACCOUNT": "RATE_LIMIT_EMAILS_PER_ACCOUNT",
    "UPLOAD_RATE": "RATE_LIMIT_UPLOADS_PER_USER",
    "POST_RATE": "RATE_LIMIT_POSTS_PER_USER",
    "PICTURE_DECODERS": None,
}
"""Names that settings had before 1.0, and the names they have now."""


def check_database_url(value: SecretStr) -> SecretStr:
    """Raise if the value isn't a PostgreSQL URL; the driver is asyncpg in any case."""
    # Not Pydantic's PostgresDsn: it requires a host, which a Unix socket doesn't have.
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in POSTGRESQL_SCHEMES or not url.database:
        raise ValueError("must look like postgresql+asyncpg://user:password@host/name")
    return value


def check_web_url(value: str) -> str:
    """Return an HTTP(S) URL without a trailing slash; raise if it is anything else."""
    url = TypeAdapter(HttpUrl).validate_python(value)
    if url.query or url.fragment or url.username or url.password:
        raise ValueError("must be a URL without a query, fragment or user name")
    return str(url).rstrip("/")


def check_origin(value: str) -> str:
    """Return an origin (RFC 6454), which is a URL without a path, or `*`."""
    if value != "*" and urlsplit(value := check_web_url(value)).path:
        raise ValueError("must be origins such as https://app.example.com, or *")
    return value


def check_redis_url(value: SecretStr) -> SecretStr:
    """Raise if the value isn't a Redis URL."""
    TypeAdapter(RedisDsn).validate_python(value.get_secret_value())
    return value


def check_sender(value: str) -> str:
    """Raise if a text isn't one email address, with or without a name before it."""
    try:
        message = EmailMessage()
        message["From"] = value
        (sender,) = message["From"].addresses
    # The standard library raises more than it documents for malformed addresses.
    except Exception as error:
        raise ValueError(SENDER_FORMAT) from error
    if not sender.username or not sender.domain:
        raise ValueError(SENDER_FORMAT)
    return value


def check_rate(value: str) -> str:
    """Raise if `limits` can't parse the rate, or if it allows nothing at all."""
    if parse(value).amount < 1:
        raise ValueError("must allow something, such as 10/5 minutes")
    return value


def split_list(value: object) -> object:
    """Split a comma-separated string."""
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


class ConfigurationError(Exception):
    """A setting is missing or wrong; the text says which, and how to make it right."""


class Settings(BaseSettings):
    """What an operator may set. With nothing set, all runs on this machine."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: Annotated[SecretStr, AfterValidator(check_database_url)] | None = None
    """PostgreSQL, `postgresql+asyncpg://user:password@host:5432/name`. Setting it means
    production. Unset: an embedded PostgreSQL under `var/postgres`."""

    secret_key: SecretStr | None = None
    """Signs access tokens, at least 32 bytes. Unset: created in `var/secret_key`."""
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    """Signature of the access tokens; no other is accepted."""
    access_token_expire_minutes: int = Field(default=30, gt=0, le=525_600)
    """How long a login lasts, in minutes."""

    argon2_time_cost: int = Field(default=3, ge=1, le=100)
    """Passes over the memory for one password hash."""
    argon2_memory_cost: int = Field(default=65_536, ge=8, le=4_194_304)
    """Memory for one password hash, in KiB."""
    argon2_parallelism: int = Field(default=4, ge=1, le=64)
    """Threads for one password hash."""

    s3_bucket_name: str | None = None
    """Bucket of the profile pictures. Unset: files under `var/media`."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_access_key_id: SecretStr | None = None
    """Unset: the credentials of the environment, on ECS those of the task role."""
    s3_secret_access_key: SecretStr | None = None
    """Goes with `S3_ACCESS_KEY_ID`."""
    s3_endpoint_url: WebUrl | None = None
    """An S3-compatible service (MinIO, LocalStack) instead of AWS."""
    s3_public_url: WebUrl | None = None
    """Where browsers get the pictures from when that is not the bucket: a CDN."""

    mail_server: str | None = None
    """Host of the SMTP server. Unset: each mail becomes a file in `var/outbox`."""
    mail_port: int = Field(default=587, ge=1, le=65_535)
    """Port of the SMTP server; with `MAIL_USE_TLS` on 465 TLS begins at once."""
    mail_username: str | None = None
    """Name for the SMTP login. Unset: no login."""
    mail_password: SecretStr | None = None
    """Password for the SMTP login."""
    mail_from: Annotated[str, AfterValidator(check_sender)] = "noreply@localhost"
    """Sender of every mail."""
    mail_use_tls: bool = False
    """True demands encryption; false takes STARTTLS where the server offers it."""

    frontend_url: WebUrl | None = None
    """URL of the site as its readers know it, for links in emails. Required in
    production. Unset: the host and port of the development server."""

    posts_per_page: int = Field(default=10, ge=1, le=100)
    """Posts on a page, and on a page of the API that names no `limit`."""
    max_upload_size_bytes: int = Field(default=5 * 1024 * 1024, gt=0)
    """Largest picture accepted, in bytes."""
    reset_token_expire_minutes: int = Field(default=60, gt=0, le=10_080)
    """How long the link for a new password works, in minutes."""

    trusted_proxy_hops: int | None = Field(default=None, ge=0, le=10)
    """Number of trusted proxies in front. Unset: 1 in production, otherwise 0."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, CommaSeparated] = ()
    """Origins whose scripts may use the API, comma-separated; `*` for all."""
    allowed_hosts: Annotated[tuple[Host, ...], NoDecode, CommaSeparated] = ()
    """Hosts that the site is served at, comma-separated; `*.example.com` for all
    subdomains, `*` for any host. Unset: that of `FRONTEND_URL` and local ones."""

    rate_limit_enabled: bool = True
    """False turns off all rate limits."""
    redis_url: Annotated[SecretStr, AfterValidator(check_redis_url)] | None = None
    """Redis, as `redis://:password@host:6379/0`, where several processes count
    together. Unset or unavailable: each process counts in its own memory."""

    rate_limit_default: Rate = "30000/5 minutes"
    """Requests of any kind from one client IP."""
    rate_limit_concurrent_requests: int = Field(default=100, ge=1)
    """Requests of one client IP in progress at the same time, in each process."""
    rate_limit_login_per_account_and_ip: Rate = "10/5 minutes"
    """Failed logins to one account from one client IP."""
    rate_limit_login_per_account: Rate = "100/hour"
    """Failed logins to one account, from all client IPs that never logged in to it
    together, and from each of the others."""
    rate_limit_login_per_ip: Rate = "100/5 minutes"
    """Failed logins from one client IP."""
    rate_limit_sign_up_per_ip: Rate = "100/hour"
    """New accounts from one client IP."""
    rate_limit_password_per_user: Rate = "10/10 minutes"  # noqa: S105 -- not a password
    """Wrong current passwords of one user who changes it."""
    rate_limit_reset_per_ip: Rate = "100/hour"
    """Requests for a password reset from one client IP."""
    rate_limit_emails_per_account: Rate = "5/day"
    """Password reset emails to one account, and notifications to one email address."""
    rate_limit_uploads_per_user: Rate = "30/30 minutes"
    """Pictures uploaded by one user."""
    rate_limit_posts_per_user: Rate = "30/5 minutes"
    """New posts of one user."""

    var_dir: Path = BASE_DIR / "var"
    """Directory of the local data: database, pictures, outbox, secret key."""

    _server_url: str = "http://127.0.0.1:8000"

    @model_validator(mode="after")
    def check_combinations(self) -> Self:
        """Raise if settings are missing, too short, or don't fit together."""
        min_bytes = KEY_BYTES[self.algorithm]
        key = self.secret_key
        if key is None and self.is_production:
            raise ValueError(f"SECRET_KEY: is missing; {GENERATE_KEY}")
        if key is not None and len(key.get_secret_value().encode()) < min_bytes:
            text = f"has fewer than {min_bytes} bytes; {GENERATE_KEY}"
            raise ValueError(f"SECRET_KEY: {text}")
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError(
                "S3_ACCESS_KEY_ID: goes with S3_SECRET_ACCESS_KEY; set both or neither"
            )
        # Argon2 needs 8 KiB per lane (RFC 9106, section 3.1).
        if self.argon2_memory_cost < 8 * self.argon2_parallelism:
            raise ValueError(
                "ARGON2_MEMORY_COST: must be at least 8 times ARGON2_PARALLELISM"
            )
        return self

    @property
    def is_production(self) -> bool:
        """True if `DATABASE_URL` is set."""
        return self.database_url is not None

    @property
    def database_dsn(self) -> str | None:
        """The database for the driver, or None when it is the embedded one."""
        if self.database_url is None:
            return None
        url = make_url(self.database_url.get_secret_value())
        # SQLAlchemy calls it `ssl`; libpq and managed databases call it `sslmode`.
        if mode := url.query.get("ssl"):
            url = url.difference_update_query(["ssl"])
            url = url.update_query_dict({"sslmode": mode})
        url = url.set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    @property
    def site_url(self) -> str:
        """Start of every absolute URL, without a slash at the end."""
        return self.frontend_url or self._server_url

    def set_server_address(self, host: str, port: int) -> None:
        """Use the address of the development server until `FRONTEND_URL` is set."""
        host = f"[{host}]" if ":" in host else host
        self._server_url = f"http://{host}:{port}"

    @property
    def served_hosts(self) -> tuple[str, ...]:
        """The hosts that the site is served at; `*` stands for any."""
        if self.allowed_hosts or self.frontend_url is None:
            return self.allowed_hosts or ("*",)
        return (HttpUrl(self.frontend_url).host or "", *LOCAL_HOSTS)

    def check_production_settings(self) -> None:
        """Raise `ConfigurationError` in production if `FRONTEND_URL` is missing."""
        if self.is_production and self.frontend_url is None:
            raise ConfigurationError(
                "Configuration error: FRONTEND_URL: is missing; set it to the address "
                "of the site as its readers know it, such as https://blog.example.com"
            )

    @property
    def proxy_hops(self) -> int:
        """Number of trusted proxies in front."""
        if self.trusted_proxy_hops is None:
            return int(self.is_production)
        return self.trusted_proxy_hops

    @property
    def media_dir(self) -> Path:
        """Where pictures go when there is no bucket."""
        return self.var_dir / "media"

    @property
    def media_url(self) -> str:
        """What comes before `/profile_pics/<file>` in the address of a picture."""
        if self.s3_bucket_name is None:
            return "/media"
        if self.s3_public_url is not None:
            return self.s3_public_url
        if self.s3_endpoint_url is not None:
            return f"{self.s3_endpoint_url}/{self.s3_bucket_name}"
        return f"https://{self.s3_bucket_name}.s3.{self.s3_region}.amazonaws.com"

    @property
    def outbox_dir(self) -> Path:
        """Where mails go when there is no SMTP server."""
        return self.var_dir / "outbox"

    @cached_property
    def signing_key(self) -> str:
        """The key that signs access tokens; a local one is created if none is set."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value()
        return load_or_create_secret_key(self.var_dir / "secret_key")


def load_or_create_secret_key(path: Path) -> str:
    """The random key kept at `path` with mode 0600, made when there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64))
        # A link fails where a rename would replace: of two processes that start at
        # once both read the key of the first.
        with suppress(FileExistsError):
            os.link(draft, path)
        Path(draft).unlink()
    return path.read_text().strip()


def format_errors(error: ValidationError) -> str:
    """Return one line that names the invalid settings, without their values."""
    messages = []
    for item in error.errors(include_input=False, include_url=False):
        text = item["msg"].removeprefix("Value error, ")
        messages.append(
            ": ".join([*(str(name).upper() for name in item["loc"][:1]), text])
        )
    return "Configuration error: " + "; ".join(messages)


def load_settings() -> Settings:
    """Read the settings; exit with one line if any of them is invalid."""
    try:
        return Settings()
    except ValidationError as error:
        raise SystemExit(format_errors(error)) from None


def renamed_settings() -> list[str]:
    """Return a warning for each setting in use that has a new name or is gone."""
    used = {name.upper() for name, value in os.environ.items() if value}
    used |= {name.upper() for name, value in dotenv_values(ENV_FILE).items() if value}
    return [
        f"{old} is no longer used" + (f": set {new} instead" if new else "")
        for old, new in RENAMED_SETTINGS.items()
        if old in used
    ]


settings = load_settings()
