"""Settings, read from the environment and from `.env`."""

import os
import secrets
import sys
import tempfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    EmailStr,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from setting_types import (
    CommaSeparated,
    DatabaseUrl,
    Host,
    Origin,
    Rate,
    RedisUrl,
    Sender,
    UpperCase,
    WebUrl,
    driver_dsn,
)

BASE_DIR = Path(__file__).resolve().parent
ENV_FILE = Path(os.environ.get("ENV_FILE", BASE_DIR / ".env"))

# An HMAC key must be at least as long as the digest (RFC 7518, section 3.2).
KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
GENERATE_KEY = (
    'create one with: python -c "import secrets; print(secrets.token_urlsafe(64))"'
)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
HEALTH_PATH = "/health"
LIVENESS_PATH = "/health/live"
HEALTH_PATHS = frozenset({HEALTH_PATH, LIVENESS_PATH})
# uvicorn's exit status if the app doesn't start.
STARTUP_FAILURE = 3
MIB = 1024 * 1024
# Maximum size of a request body, except for picture uploads.
MAX_BODY_BYTES = MIB
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
"""Old names of settings, and their new names (None if the setting was removed)."""


class ConfigurationError(Exception):
    """A setting is missing or invalid. The message says how to fix it."""


class Settings(BaseSettings):
    """Application settings. With the defaults, everything runs locally."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: DatabaseUrl | None = None
    """Database URL, `postgresql+asyncpg://user:password@host:5432/name`. Setting it
    turns on production mode. Unset: an embedded PostgreSQL under `var/postgres`."""

    database_password: SecretStr | None = None
    """Password of the database, if it isn't part of the URLs."""
    database_pool_mode: Literal["session", "transaction"] = "session"
    """`transaction` behind PgBouncer, or another pooler, in transaction mode."""
    database_direct_url: DatabaseUrl | None = None
    """URL of the database without the pooler, for migrations, commands and
    notifications. Only needed with `DATABASE_POOL_MODE=transaction`."""
    db_pool_recycle: int = Field(default=1800, ge=-1)
    """Replace connections after this many seconds; -1 keeps them."""
    db_pool_size: int = Field(default=8, ge=1, le=1000)
    """Maximum number of database connections per process. Each process opens one more
    for notifications."""

    secret_key: SecretStr | None = None
    """Key that signs access tokens, at least 32 bytes (48 for HS384, 64 for HS512).
    Required in production. Unset: a random key in `var/secret_key`."""
    secret_key_previous: Annotated[tuple[SecretStr, ...], NoDecode, CommaSeparated] = ()
    """Earlier keys, comma-separated. Tokens signed with them stay valid."""
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    """Algorithm for signing access tokens. Tokens that use another one are rejected."""
    access_token_expire_minutes: int = Field(default=30, gt=0, le=525_600)
    """Lifetime of access tokens, in minutes."""
    session_max_days: int = Field(default=14, ge=0, le=3650)
    """How long users stay logged in on the site, in days since login. 0: only until
    their access token expires."""

    argon2_time_cost: int = Field(default=3, ge=1, le=100)
    """Number of passes over the memory for each password hash."""
    argon2_memory_cost: int = Field(default=65_536, ge=8, le=4_194_304)
    """Memory for each password hash, in KiB."""
    argon2_parallelism: int = Field(default=4, ge=1, le=64)
    """Number of threads for each password hash."""

    s3_bucket_name: str | None = None
    """Bucket for profile pictures. Unset: files under `var/media`."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_access_key_id: SecretStr | None = None
    """Access key ID. Unset: AWS's default credentials, such as the ECS task role."""
    s3_secret_access_key: SecretStr | None = None
    """Secret access key. Must be set together with `S3_ACCESS_KEY_ID`."""
    s3_endpoint_url: WebUrl | None = None
    """URL of an S3-compatible service (MinIO, LocalStack). Unset: AWS."""
    s3_public_url: WebUrl | None = None
    """Base URL of the pictures, such as the URL of a CDN. Unset: the bucket's URL."""

    mail_server: str | None = None
    """Host of the SMTP server. Unset: emails are written to `var/outbox`."""
    mail_port: int = Field(default=587, ge=1, le=65_535)
    """Port of the SMTP server. Port 465 with `MAIL_USE_TLS` uses implicit TLS."""
    mail_username: str | None = None
    """SMTP username. Unset: no authentication."""
    mail_password: SecretStr | None = None
    """SMTP password."""
    mail_from: Sender = "noreply@localhost"
    """Sender of all emails."""
    mail_use_tls: bool = False
    """True requires TLS. False uses STARTTLS if the server offers it, and requires it
    when logging in to a remote server."""

    site_name: str = Field(
        default="FastAPI Blog",
        max_length=60,
        pattern=r"^[^\pC\pZ]([^\pC\p{Zl}\p{Zp}])*$",
    )
    """Name of the site, in one line."""
    contact_email: EmailStr | None = None
    """Email address that users can write to if someone else changed their account."""
    frontend_url: WebUrl | None = None
    """Public URL of the site, for links in emails, feeds and sitemaps. Required in
    production. Unset: the host and port of the development server."""

    response_cache_bytes: int = Field(default=64 * MIB, ge=0)
    """Maximum size of the response cache in each process, in bytes (64 MiB). 0 turns
    the cache off. It is always off in development."""
    posts_per_page: int = Field(default=10, ge=1, le=100)
    """Posts per page, and the default `limit` of post lists."""
    max_upload_size_bytes: int = Field(default=5 * 1024 * 1024, gt=0)
    """Maximum size of a profile picture, in bytes (5 MiB)."""
    registration_open: bool = True
    """False closes sign-up."""
    reset_token_expire_minutes: int = Field(default=60, gt=0, le=10_080)
    """Lifetime of password reset links, in minutes."""

    log_format: Literal["json", "text"] | None = None
    """`json`: a JSON object per line; `text`: readable lines. Unset: `json` in
    production, else `text`."""
    log_level: Annotated[Literal["INFO", "WARNING", "ERROR", "CRITICAL"], UpperCase] = (
        "INFO"
    )
    """Lowest level of the messages to log. Requests are logged at `INFO`."""

    trusted_proxy_hops: int | None = Field(default=None, ge=0, le=10)
    """Number of trusted proxies in front of the app. Unset: 1 in production, else 0."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, CommaSeparated] = ()
    """Origins whose scripts may use the API, comma-separated. `*` allows all."""
    allowed_hosts: Annotated[tuple[Host, ...], NoDecode, CommaSeparated] = ()
    """Hosts that serve the site, comma-separated. `*.example.com` matches subdomains,
    and `*` matches any host. Unset: local hosts and the host of `FRONTEND_URL`, or any
    host if `FRONTEND_URL` is unset too."""

    rate_limit_enabled: bool = True
    """False turns off all rate limits."""
    redis_url: RedisUrl | None = None
    """Redis server for rate limit counters that all processes share, such as
    `redis://:password@host:6379/0`. If it is unset or unavailable, each process counts
    in its own memory."""

    rate_limit_default: Rate = "30000/5 minutes"
    """Requests per client IP, in each process."""
    rate_limit_concurrent_requests: int = Field(default=100, ge=1)
    """Concurrent requests per client IP, in each process."""
    rate_limit_login_per_account_and_ip: Rate = "10/5 minutes"
    """Failed logins per account and client IP."""
    rate_limit_login_per_account: Rate = "100/hour"
    """Failed logins per account, across all client IPs combined. The same limit applies
    separately to each client IP from which the user has logged in during the last 30
    days."""
    rate_limit_login_per_ip: Rate = "100/5 minutes"
    """Failed logins per client IP."""
    rate_limit_sign_up_per_ip: Rate = "100/hour"
    """New accounts per client IP."""
    rate_limit_password_per_user: Rate = "10/10 minutes"  # noqa: S105 -- not a password
    """Incorrect current passwords per user, when changing the password."""
    rate_limit_reset_per_ip: Rate = "100/hour"
    """Password reset requests per client IP."""
    rate_limit_emails_per_account: Rate = "5/day"
    """Password reset emails per account, and notifications per email address."""
    rate_limit_uploads_per_user: Rate = "30/30 minutes"
    """Profile picture uploads per user."""
    rate_limit_exports_per_user: Rate = "10/hour"
    """Data exports per user."""
    rate_limit_posts_per_user: Rate = "30/5 minutes"
    """New posts per user."""
    rate_limit_previews_per_user: Rate = "60/5 minutes"
    """Previews of posts per user."""

    var_dir: Path = BASE_DIR / "var"
    """Directory for local data: database, pictures, outbox, secret key."""

    _server_url: str = "http://127.0.0.1:8000"

    @model_validator(mode="after")
    def check_combinations(self) -> Self:
        """Raise ValueError if settings are missing, too short, or in conflict."""
        min_bytes = KEY_BYTES[self.algorithm]
        if self.secret_key is None and self.is_production:
            raise ValueError(f"SECRET_KEY is missing; {GENERATE_KEY}")
        keys = [("SECRET_KEY_PREVIOUS", key) for key in self.secret_key_previous]
        if self.secret_key is not None:
            keys.insert(0, ("SECRET_KEY", self.secret_key))
        for name, key in keys:
            if len(key.get_secret_value().encode()) < min_bytes:
                text = f"{name} has fewer than {min_bytes} bytes"
                raise ValueError(f"{text}; {GENERATE_KEY}")
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError(
                "S3_ACCESS_KEY_ID: must be set together with S3_SECRET_ACCESS_KEY"
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
    def uses_json_logs(self) -> bool:
        return (self.log_format or ("json" if self.is_production else "text")) == "json"

    @property
    def database_dsn(self) -> str | None:
        """The URL to pass to asyncpg, or None for the embedded database."""
        if self.database_url is None:
            return None
        return driver_dsn(self.database_url, self.database_password)

    @property
    def direct_database_dsn(self) -> str | None:
        """The URL for connections that need a session, or None if there isn't one."""
        if self.database_direct_url is not None:
            return driver_dsn(self.database_direct_url, self.database_password)
        return self.database_dsn if self.database_pool_mode == "session" else None

    @property
    def site_url(self) -> str:
        """Base of all absolute URLs, without a trailing slash."""
        return self.frontend_url or self._server_url

    def set_server_url(self, host: str, port: int) -> None:
        """Set the site URL to the URL of the server, unless `FRONTEND_URL` is set."""
        host = f"[{host}]" if ":" in host else host
        self._server_url = f"http://{host}:{port}"

    @property
    def served_hosts(self) -> tuple[str, ...]:
        """Hosts that serve the site. `*` matches any host."""
        if self.allowed_hosts or self.frontend_url is None:
            return self.allowed_hosts or ("*",)
        return (HttpUrl(self.frontend_url).host or "", *LOCAL_HOSTS)

    def check_production_settings(self) -> None:
        """Raise `ConfigurationError` in production if `FRONTEND_URL` is missing."""
        if self.is_production and self.frontend_url is None:
            raise ConfigurationError(
                "Configuration error: FRONTEND_URL is missing; set it to the public "
                "URL of the site, such as https://blog.example.com"
            )

    @property
    def proxy_hops(self) -> int:
        """Number of trusted proxies in front of the app."""
        if self.trusted_proxy_hops is None:
            return int(self.is_production)
        return self.trusted_proxy_hops

    @property
    def media_dir(self) -> Path:
        return self.var_dir / "media"

    @property
    def media_url(self) -> str:
        """The part of a picture's URL or path before `/profile_pics/<file>`."""
        if self.s3_bucket_name is None:
            return "/media"
        if self.s3_public_url is not None:
            return self.s3_public_url
        if self.s3_endpoint_url is not None:
            return f"{self.s3_endpoint_url}/{self.s3_bucket_name}"
        return f"https://{self.s3_bucket_name}.s3.{self.s3_region}.amazonaws.com"

    @property
    def outbox_dir(self) -> Path:
        return self.var_dir / "outbox"

    @cached_property
    def signing_key(self) -> str:
        """The key that signs access tokens. It is created on first use if unset."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value()
        return load_or_create_secret_key(self.var_dir / "secret_key")

    @property
    def verification_keys(self) -> tuple[str, ...]:
        """The keys that verify access tokens; the first one also signs them."""
        previous = (key.get_secret_value() for key in self.secret_key_previous)
        return (self.signing_key, *previous)


def load_or_create_secret_key(path: Path) -> str:
    """Return the key in a file.

    If the file doesn't exist, create it with a random key and mode 0600.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64))
        # Unlike a rename, a link fails if the file exists. If two processes start at
        # the same time, both read the key that the first one wrote.
        with suppress(FileExistsError):
            os.link(temporary, path)
        Path(temporary).unlink()
    return path.read_text().strip()


def format_errors(error: ValidationError) -> str:
    """Describe invalid settings in one line, without their values."""
    messages = []
    for item in error.errors(include_input=False, include_url=False):
        text = item["msg"].removeprefix("Value error, ")
        names = [str(name).upper() for name in item["loc"][:1]]
        messages.append(": ".join([*names, text]))
    return "Configuration error: " + "; ".join(messages)


def load_settings() -> Settings:
    """Load the settings, or exit with a one-line message if they are invalid."""
    try:
        return Settings()
    except ValidationError as error:
        sys.stderr.write(f"{format_errors(error)}\n")
        # uvicorn restarts workers that exit with any other status.
        raise SystemExit(STARTUP_FAILURE) from None


def renamed_settings() -> list[str]:
    """Return a warning for each setting that is set, but was renamed or removed."""
    used = {name.upper() for name, value in os.environ.items() if value}
    used |= {name.upper() for name, value in dotenv_values(ENV_FILE).items() if value}
    return [
        f"{old} is no longer used" + (f": set {new} instead" if new else "")
        for old, new in RENAMED_SETTINGS.items()
        if old in used
    ]


settings = load_settings()
