"""The Jinja2 environment: filters, globals, and templates."""

from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import models
import schemas
import search
from config import BASE_DIR, settings
from static_files import modulepreloads
from unicode_text import truncate, without_bidi_controls


def format_date(moment: datetime) -> str:
    """Return a date in UTC, such as "November 03, 2026"."""
    return moment.astimezone(UTC).strftime("%B %d, %Y")


def iso_date(moment: datetime) -> str:
    """Return a time in UTC, formatted according to RFC 3339."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def absolute_url(path: str) -> str:
    """Return the public URL of a path, or return a URL unchanged."""
    return settings.site_url + path if path.startswith("/") else path


class PlainGlobals(Environment):
    """An environment whose templates look up globals in a plain dict.

    Jinja's `ChainMap` is slow, and a page reads it dozens of times.
    """

    def make_globals(self, d: MutableMapping[str, Any] | None) -> dict[str, Any]:
        return self.globals if d is None else {**self.globals, **d}


environment = PlainGlobals(
    loader=FileSystemLoader(BASE_DIR / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # In production, files don't change while the app runs.
    auto_reload=not settings.is_production,
)
# Replace Jinja's own filter, which can split a character.
environment.filters["truncate"] = truncate
environment.filters["without_bidi_controls"] = without_bidi_controls
environment.filters["format_date"] = format_date
environment.filters["iso_date"] = iso_date


def render_fragment(template: str, **context: Any) -> Markup:
    """Render a part of a page that doesn't depend on the request."""
    html = environment.get_template(template).render(context)
    return Markup(html)  # noqa: S704 -- the template escapes its values


environment.globals.update(
    # Fragments make up most of a page, so each one is only rendered once in production.
    fragment=cache(render_fragment) if settings.is_production else render_fragment,
    absolute_url=absolute_url,
    modulepreloads=modulepreloads,
    site_name=settings.site_name,
    registration_open=settings.registration_open,
    limits={
        "title": models.MAX_TITLE_LENGTH,
        "username": models.MAX_USERNAME_LENGTH,
        "email": models.MAX_EMAIL_LENGTH,
        "bio": models.MAX_BIO_LENGTH,
        "content": schemas.MAX_CONTENT_LENGTH,
        "query": search.MAX_QUERY_LENGTH,
        "password_min": schemas.MIN_PASSWORD_LENGTH,
        "password_max": schemas.MAX_PASSWORD_LENGTH,
        "upload_bytes": settings.max_upload_size_bytes,
    },
)
templates = Jinja2Templates(env=environment)
