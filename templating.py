"""Jinja2 templates: the environment, and the error page."""

from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

import models
import schemas
from config import BASE_DIR, settings
from static_files import modulepreloads
from unicode_text import truncate, without_bidi_controls

# The title and the message of an error page; other errors get the standard's phrase.
ERROR_TEXTS = {
    404: ("Page not found", "We couldn't find that page."),
    405: ("Method not allowed", "This page doesn't support that kind of request."),
    413: ("Request too large", "Your request is larger than this site accepts."),
    422: ("Invalid URL", "Part of this URL isn't valid."),
    429: ("Too many requests", "Please wait a moment and try again."),
    500: (
        "Something went wrong",
        "An error occurred on our end. Please try again in a moment.",
    ),
    503: (
        "Temporarily unavailable",
        "The site is busy or unavailable. Please try again in a moment.",
    ),
}


def format_date(moment: datetime) -> str:
    """Return a date in UTC, such as "November 03, 2026"."""
    return moment.astimezone(UTC).strftime("%B %d, %Y")


def iso_date(moment: datetime) -> str:
    """Return a time for `<time datetime>`, in UTC (RFC 3339)."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def absolute_url(path: str) -> str:
    """Return the public URL of a path; a picture in a bucket has a URL already."""
    return settings.site_url + path if path.startswith("/") else path


environment = Environment(
    loader=FileSystemLoader(BASE_DIR / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # In production, files don't change while the app runs.
    auto_reload=not settings.is_production,
)
# In place of Jinja's own filter, which cuts within characters.
environment.filters["truncate"] = truncate
environment.filters["without_bidi_controls"] = without_bidi_controls
environment.globals.update(
    absolute_url=absolute_url,
    format_date=format_date,
    iso_date=iso_date,
    modulepreloads=modulepreloads,
    limits={
        "title": models.TITLE_LENGTH,
        "username": models.USERNAME_LENGTH,
        "email": models.EMAIL_LENGTH,
        "content": schemas.CONTENT_LENGTH,
        "password_min": schemas.PASSWORD_MIN_LENGTH,
        "password_max": schemas.PASSWORD_MAX_LENGTH,
        "upload_bytes": settings.max_upload_size_bytes,
    },
)
templates = Jinja2Templates(env=environment)


def error_page(
    request: Request, exc: HTTPException, *, last_page: str | None = None
) -> Response:
    """Return an error as an HTML page, with a link to the last page of a list."""
    phrase = HTTPStatus(exc.status_code).phrase
    title, message = ERROR_TEXTS.get(exc.status_code, (phrase, f"{phrase}."))
    return templates.TemplateResponse(
        request,
        "error.html",
        {
            "status_code": exc.status_code,
            "title": title,
            "message": message,
            "last_page": last_page,
        },
        status_code=exc.status_code,
        headers=exc.headers,
    )
