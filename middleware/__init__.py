"""Middleware: what happens to every request before the routes, and after them."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette_compress import CompressMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from config import ConfigurationError, settings
from database import DatabaseUnavailable
from exceptions import error_response
from middleware.allowed_hosts import AllowedHostsMiddleware
from middleware.body_limit import BodyLimitMiddleware
from middleware.client_ip import ClientIPMiddleware
from middleware.coalescing import CoalescingMiddleware
from middleware.errors import ServerErrorMiddleware, StartupErrorMiddleware
from middleware.etags import ConditionalGetMiddleware, ETagMiddleware
from middleware.http import (
    FormCharsetMiddleware,
    HeadMiddleware,
    TrailingSlashMiddleware,
)
from middleware.rate_limit import RateLimitMiddleware
from middleware.security_headers import SecurityHeadersMiddleware
from middleware.server_address import ServerAddressMiddleware

HEALTH_PATH = "/health"
# Any method and header: the API uses no cookies.
CORS_OPTIONS: dict[str, Any] = {
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": [
        "ETag",
        "Link",
        "Location",
        "Retry-After",
        "WWW-Authenticate",
        "X-Error-Id",
    ],
}


def add_middleware(app: FastAPI) -> None:
    """Add the middleware, from the innermost to the outermost: the last runs first."""
    # Next to the routes, which read forms and bodies through them.
    app.add_middleware(FormCharsetMiddleware)
    app.add_middleware(BodyLimitMiddleware)
    app.add_middleware(TrailingSlashMiddleware)
    # Inside the compression: the ETag is a hash of the identity encoding.
    app.add_middleware(ETagMiddleware)
    # Brotli at 5 makes the smallest files at a speed that pages allow.
    app.add_middleware(CompressMiddleware, zstd=False, brotli_quality=5)
    # Outside the compression: it compares the ETags of encoded bodies.
    app.add_middleware(ConditionalGetMiddleware)
    # Outside whatever distinguishes GET from other methods.
    app.add_middleware(HeadMiddleware)
    # Inside the limits, which count each client. Files are streamed, and a health check
    # must ask the database itself.
    app.add_middleware(
        CoalescingMiddleware, exempt_paths=("/static/", "/media/", HEALTH_PATH)
    )
    # Load balancers check the health often, and don't know the name of the site.
    app.add_middleware(RateLimitMiddleware, exempt_path=HEALTH_PATH)
    app.add_middleware(
        AllowedHostsMiddleware,
        allowed_hosts=settings.served_hosts,
        exempt_path=HEALTH_PATH,
    )
    # Outside whatever raises errors, and inside the security headers.
    app.add_middleware(ServerErrorMiddleware, error_response=error_response)
    # Responds to preflights itself: inside the security headers, and outside the
    # errors, which scripts of allowed origins can read.
    if settings.cors_origins:
        origins = settings.cors_origins
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS_OPTIONS)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(
        StartupErrorMiddleware, expected=(ConfigurationError, DatabaseUnavailable)
    )
    if settings.frontend_url is None and not settings.is_production:
        app.add_middleware(ServerAddressMiddleware)
    # Outermost, so that everything else sees the client and the scheme that the load
    # balancer reports. ProxyHeadersMiddleware runs first and sets both.
    app.add_middleware(ClientIPMiddleware, hops=settings.proxy_hops)
    if settings.proxy_hops:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts="*")
