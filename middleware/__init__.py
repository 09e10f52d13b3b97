"""The middleware that every request passes through, from the innermost outward."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette_compress import CompressMiddleware

from config import settings
from middleware.allowed_hosts import AllowedHostsMiddleware
from middleware.body_limit import BodyLimitMiddleware
from middleware.client_ip import ClientIPMiddleware
from middleware.errors import ServerErrorMiddleware, StartupErrorMiddleware
from middleware.etags import ConditionalGetMiddleware, ETagMiddleware
from middleware.form_charset import FormCharsetMiddleware
from middleware.head import HeadMiddleware
from middleware.request_limits import RequestLimitsMiddleware
from middleware.request_log import RequestLogMiddleware
from middleware.response_cache import ResponseCacheMiddleware
from middleware.security_headers import SecurityHeadersMiddleware
from middleware.server_url import ServerURLMiddleware
from middleware.trailing_slash import TrailingSlashMiddleware

# All methods and headers can be allowed, because the API doesn't use cookies.
CORS_OPTIONS: dict[str, Any] = {
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": [
        "ETag",
        "Link",
        "Location",
        "Retry-After",
        "WWW-Authenticate",
        "X-Request-ID",
    ],
}


def add_middleware(app: FastAPI) -> None:
    """Add all middleware, from the innermost to the outermost, which runs first."""
    # Innermost, because it only affects routes that read forms.
    app.add_middleware(FormCharsetMiddleware)
    # Close to the routes, because the limit only applies if a route reads the body.
    app.add_middleware(BodyLimitMiddleware)
    # Outside the two above, because a redirect doesn't need the body.
    app.add_middleware(TrailingSlashMiddleware)
    # Inside the compression, because ETags are hashes of unencoded bodies.
    app.add_middleware(ETagMiddleware)
    # Brotli levels above 5 are too slow for pages.
    app.add_middleware(CompressMiddleware, zstd=False, brotli_quality=5)
    # Outside the compression middleware, because each encoding has its own ETag.
    app.add_middleware(ConditionalGetMiddleware)
    # Outside the middleware above, which treats GET differently from other methods.
    app.add_middleware(HeadMiddleware)
    # Inside the rate limit, so that cached responses count toward it.
    app.add_middleware(ResponseCacheMiddleware)
    # Outside the middleware above, so that rejecting a request is cheap.
    app.add_middleware(RequestLimitsMiddleware)
    # Outside the rate limit, because requests to unknown hosts don't count.
    app.add_middleware(AllowedHostsMiddleware, allowed_hosts=settings.served_hosts)
    # Outside all middleware that raises errors, so that each error gets a response.
    app.add_middleware(ServerErrorMiddleware)
    # Outside the error handling, so that scripts from allowed origins can read errors.
    if settings.cors_origins:
        origins = settings.cors_origins
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS_OPTIONS)
    # Outside all middleware that responds, so that every response has these headers.
    app.add_middleware(SecurityHeadersMiddleware)
    # The order doesn't matter, because this only handles the lifespan.
    app.add_middleware(StartupErrorMiddleware)
    # The order doesn't matter, because only routes build absolute URLs.
    if settings.frontend_url is None and not settings.is_production:
        app.add_middleware(ServerURLMiddleware)
    # Outside all middleware that responds or logs, but inside the one that sets the
    # client IP, which is part of the log.
    app.add_middleware(RequestLogMiddleware)
    # Outermost, so that all other middleware sees the client IP that the load balancer
    # reports. The reported scheme doesn't matter, because no URL is built from it.
    app.add_middleware(
        ClientIPMiddleware, hops=settings.proxy_hops, may_warn=settings.is_production
    )
