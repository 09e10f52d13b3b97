"""Settings of the application, read from the environment and from `.env`."""

import os
import re
import secrets
import tempfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from limits import parse
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
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
MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(64))"'
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
POSTGRESQL_SCHEMES = {"postgresql+asyncpg", "postgresql", "postgres"}


def check_database_url(value: SecretStr) -> SecretStr:
    """Refuse what is no PostgreSQL URL; the driver is asyncpg however it is spelt."""
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in POSTGRESQL_SCHEMES or not url.database:
        raise ValueError("must look like postgresql+asyncpg://user:password@host/name")
    return value


def check_web_url(value: str) -> str:
    """Refuse what is no http(s) address; a slash at its end is dropped."""
    parts = urlsplit(value)
    try:
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        has_port = False
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not has_port
        or re.search(r"\s", value)
    ):
        raise ValueError("must look like https://blog.example.com")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be an address without a query, fragment or user name")
    return value.rstrip("/")


def check_rate(value: str) -> str:
    """Refuse what the library `limits` cannot read, and what allows nothing at all."""
    if parse(value).amount < 1:
        raise ValueError("must allow something, such as 10/5 minutes")
    return value


def check_redis_url(value: SecretStr) -> SecretStr:
    """Refuse what is no address of a Redis server, or has options that none has."""
    # Imported here because all else that reads the settings does without it.
    from redis import RedisError
    from redis.asyncio import ConnectionPool

    url = value.get_secret_value()
    try:
        parts = urlsplit(url)
        is_redis = parts.scheme in {"redis", "rediss"} and parts.port != 0
        pool = ConnectionPool.from_url(url)
        # Reads the options; nothing is connected yet.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, AttributeError, RedisError):
        is_redis = False
    if not is_redis or not parts.hostname:
        raise ValueError("must look like redis://:password@host:6379/0")
    return value


def check_origin(value: str) -> str:
    """Refuse what is no origin (RFC 6454): an address without a path, or `*`."""
    if value == "*":
        return value
    if urlsplit(check_web_url(value)).path:
        raise ValueError("must be origins such as https://app.example.com, or *")
    return value.rstrip("/").lower()


def check_host(value: str) -> str:
    """Refuse what is no host name, with or without a `*.` before it."""
    name = value.lower().removesuffix(".")
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]+", name):
        raise ValueError("must be host names such as blog.example.com, *.example.com")
    return name


def split_list(value: object) -> object:
    """The parts of a text between commas."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


WebUrl = Annotated[str, AfterValidator(check_web_url)]
Rate = Annotated[str, AfterValidator(check_rate)]
AllowedHost = Annotated[str, AfterValidator(check_host)]
Origin = Annotated[str, AfterValidator(check_origin)]


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
    """PostgreSQL, as `postgresql+asyncpg://user:password@host:5432/name`. Setting it
    means production. Unset: an embedded PostgreSQL under `var/postgres`."""

    secret_key: SecretStr | None = None
    """Signs the access tokens, 32 bytes at least. Unset: made once and kept in
    `var/secret_key`."""

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
    """Unset: the credentials of the environment, on ECS those of the task's role."""

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

    mail_from: str = "noreply@localhost"
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
    """How many proxies of your own stand in front. Unset: 1 in production (the load
    balancer), otherwise 0, which takes no word from `X-Forwarded-*`."""

    cors_origins: Annotated[
        tuple[Origin, ...], NoDecode, BeforeValidator(split_list)
    ] = ()
    """Origins of other sites whose scripts may use the API, with commas between them;
    `*` for all. Unset: none."""

    allowed_hosts: Annotated[
        tuple[AllowedHost, ...], NoDecode, BeforeValidator(split_list)
    ] = ()
    """Names under which the site is served, with commas between them; `*.example.com`
    for all under it, `*` for any. Unset: that of `FRONTEND_URL` and those of this
    machine, or any while that is unset too."""

    rate_limit_enabled: bool = True
    """False turns every rate limit off."""

    redis_url: Annotated[SecretStr, AfterValidator(check_redis_url)] | None = None
    """Redis, as `redis://:password@host:6379/0`, where several processes count
    together. Unset, or while it is away: each counts in its own memory."""

    general_rate: Rate = "30000/5 minutes"
    """Requests of all kinds from one network address."""

    login_rate_account: Rate = "10/5 minutes"
    """Failed logins with one e-mail address from one network address."""

    login_rate_account_anywhere: Rate = "100/hour"
    """Failed logins with one e-mail address from all network addresses together."""

    login_rate_address: Rate = "25/5 minutes"
    """Failed logins from one network address."""

    sign_up_rate: Rate = "5/30 minutes"
    """New accounts from one network address."""

    password_rate: Rate = "10/10 minutes"  # noqa: S105 -- a rate, and no password
    """Wrong current passwords of one user who changes it."""

    upload_rate: Rate = "30/30 minutes"
    """Pictures sent by one user."""

    post_rate: Rate = "30/5 minutes"
    """New posts of one user."""

    reset_rate_address: Rate = "6/hour"
    """Requests for a reset link from one network address."""

    reset_rate_account: Rate = "5/day"
    """Reset mails to one account, and notes about changes to one address; over it the
    answer is the same, without a mail."""

    var_dir: Path = BASE_DIR / "var"
    """Directory of the local data: database, pictures, outbox, secret key."""

    _server_url: str = "http://127.0.0.1:8000"

    @model_validator(mode="after")
    def check_secrets(self) -> Self:
        """Refuse production without a key, and a key that is too short."""
        if self.secret_key is None:
            if self.is_production:
                raise ValueError(f"SECRET_KEY: is missing; make one with: {MAKE_A_KEY}")
        elif len(self.secret_key.get_secret_value().encode()) < self._key_bytes:
            raise ValueError(
                f"SECRET_KEY: has fewer than {self._key_bytes} bytes; "
                f"make one with: {MAKE_A_KEY}"
            )
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError(
                "S3_ACCESS_KEY_ID: goes with S3_SECRET_ACCESS_KEY; set both or neither"
            )
        return self

    @property
    def _key_bytes(self) -> int:
        return KEY_BYTES[self.algorithm]

    @property
    def is_production(self) -> bool:
        """Whether the database is somebody's real one."""
        return self.database_url is not None

    @property
    def database_dsn(self) -> str | None:
        """The database for the driver, or None when it is the embedded one."""
        if self.database_url is None:
            return None
        url = make_url(self.database_url.get_secret_value())
        # SQLAlchemy's name for it; in a DSN it has libpq's, which managed databases
        # print too.
        if "ssl" in url.query:
            mode = url.query["ssl"]
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
        """The names under which the site is served; `*` stands for any."""
        if self.allowed_hosts:
            return self.allowed_hosts
        if self.frontend_url is None:
            return ("*",)
        return (urlsplit(self.frontend_url).hostname or "", *LOCAL_HOSTS)

    def check_ready_to_serve(self) -> None:
        """Refuse to serve in production without what only serving needs.

        Raises:
            ConfigurationError: `FRONTEND_URL` is missing.
        """
        if self.is_production and self.frontend_url is None:
            raise ConfigurationError(
                "Configuration error: FRONTEND_URL: is missing; set it to the address "
                "of the site as its readers know it, such as https://blog.example.com"
            )

    @property
    def proxy_hops(self) -> int:
        """How many proxies in front are trusted to tell where a request came from."""
        if self.trusted_proxy_hops is None:
            return 1 if self.is_production else 0
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
        """The key of the access tokens; a local one is made when none is set.

        Raises:
            OSError: The local key can be neither read nor written.
        """
        if self.secret_key is not None:
            return self.secret_key.get_secret_value()
        return local_key(self.var_dir / "secret_key")


def local_key(path: Path) -> str:
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


def describe(error: ValidationError) -> str:
    """One line that names every setting in `error`, and none of their values."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False):
        text = fault["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in fault["loc"][:1]).upper()
        faults.append(f"{name}: {text}" if name else text)
    return "Configuration error: " + "; ".join(faults)


def load_settings() -> Settings:
    """Read the settings; end the process with one line when one of them is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise SystemExit(describe(error)) from None


settings = load_settings()
