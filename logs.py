"""Log format, request ids, and messages about unavailable services."""

import json
import logging
import os
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import make_url

from config import settings

OUTAGE_LOG_INTERVAL = 60.0

logger = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the current request, which background tasks inherit; empty outside requests."""


encode_json = json.JSONEncoder(default=str).encode


class TextFormatter(logging.Formatter):
    """A readable line, followed by the traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- overrides a method
        level = f"{record.levelname}:"
        current_id = request_id.get()
        suffix = f" [{current_id}]" if current_id else ""
        return f"{level:<9} {record.message}{suffix}"


class JSONFormatter(logging.Formatter):
    """A JSON object on one line, with the traceback as a string if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current_id := request_id.get():
            fields["request_id"] = current_id
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return encode_json(fields)


def configure_logging() -> None:
    """Send the messages of all libraries to stderr, in the configured format."""
    handler = logging.StreamHandler()
    is_json = settings.uses_json_logs
    handler.setFormatter(JSONFormatter() if is_json else TextFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    # The formats don't use callers or threads. Looking them up takes half of the time.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # uvicorn configures its loggers before it imports the app.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # RequestLogMiddleware logs requests instead. Without handlers, uvicorn skips them.
    logging.getLogger("uvicorn.access").propagate = False


def startup_summary() -> str:
    """Describe in one line, without secrets, which services are used."""
    database = pictures = emails = f"files in {settings.var_dir}"
    if settings.database_url is not None:
        url = make_url(settings.database_url.get_secret_value())
        host = url.host or url.query.get("host", "localhost")
        database = f"{host}:{url.port or 5432}/{url.database}"
    if settings.s3_bucket_name is not None:
        pictures = f"bucket {settings.s3_bucket_name}"
    if settings.mail_server is not None:
        emails = f"{settings.mail_server}:{settings.mail_port}"
    rate_limits = "Redis" if settings.redis_url else "memory"
    return (
        f"database {database}, pictures {pictures}, emails {emails}, "
        f"rate limits {rate_limits}, trusted proxy hops {settings.proxy_hops}"
    )


def production_warnings() -> list[str]:
    """Return a warning for each setting that is rarely suitable for production."""
    warnings = {
        "MAIL_SERVER is not set: emails are written to files, and not sent": (
            settings.mail_server is None
        ),
        "S3_BUCKET_NAME is not set: pictures are files, which are lost with the "
        "container": settings.s3_bucket_name is None,
        "MAIL_FROM is at localhost: mail servers may reject the emails": (
            settings.mail_from.rstrip(">").endswith("@localhost")
        ),
        "REDIS_URL is not set: each process counts rate limits separately": (
            settings.redis_url is None and os.environ.get("WEB_CONCURRENCY", "1") != "1"
        ),
        "DATABASE_DIRECT_URL is not set: the response cache is off": (
            settings.direct_database_dsn is None
        ),
    }
    if not settings.is_production:
        return []
    return [text for text, applies in warnings.items() if applies]


class Outage:
    """Log when a service becomes unavailable, and when it is available again.

    While it is unavailable, log its cause once a minute, however many requests fail.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self._logged_at: float | None = None

    def report(self, cause: str) -> None:
        now = time.monotonic()
        if self._logged_at is None or now - self._logged_at >= OUTAGE_LOG_INTERVAL:
            self._logged_at = now
            logger.error("%s unavailable: %s", self.service, cause)

    def end(self) -> None:
        if self._logged_at is not None:
            self._logged_at = None
            logger.info("%s available again", self.service)
