"""Middleware: what happens before and after the routes, for every request."""

import asyncio
import ipaddress
import logging
import re
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rate_limit
from config import settings
from problems import BODY_TIMED_OUT, BODY_TOO_LARGE, INVALID_HOST, TOO_BUSY

logger = logging.getLogger(__name__)

HSTS = "max-age=63072000; includeSubDomains"
LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1])(:\d*)?", re.IGNORECASE)
CHARSET = re.compile(r"(?<=;)(\s*)charset", re.IGNORECASE)
BODY_TIMEOUT_PER_MIB = 15.0
MIB = 1024 * 1024
# Clients whose IP is unknown count together, as this machine.
UNKNOWN_IP = "127.0.0.1"


class StartupErrorMiddleware:
    """Let the server print expected startup errors as one line, without a traceback."""

    def __init__(self, app: ASGIApp, expected: tuple[type[Exception], ...]) -> None:
        self.app = app
        self.expected = expected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one_line(message: Message) -> None:
            error = sys.exception()
            if isinstance(error, self.expected) and "message" in message:
                message = {**message, "message": str(error)}
            await send(message)

        is_lifespan = scope["type"] == "lifespan"
        await self.app(scope, receive, send_one_line if is_lifespan else send)


def content_security_policy(
    media_url: str, *, style_hashes: Sequence[str] = (), policies: Sequence[str] = ()
) -> str:
    """Return a content security policy (CSP Level 3) for pages with these pictures.

    It allows inline styles with these SHA-256 hashes (base64), and the Trusted Types
    policies with these names.
    """
    media = urlsplit(media_url)
    pictures = f" {media.scheme}://{media.netloc}" if media.netloc else ""
    styles = "".join(f" 'sha256-{digest}'" for digest in style_hashes)
    makers = " ".join(policies) or "'none'"
    directives = [
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self'{styles}",
        f"img-src 'self'{pictures}",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "require-trusted-types-for 'script'",
        f"trusted-types {makers}",
    ]
    return "; ".join(directives)


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """Return the options of `CORSMiddleware`; the API uses no cookies."""
    return {
        "allow_origins": origins,
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


class SecurityHeadersMiddleware:
    """Add security headers to every response, unless it sets them itself."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app = app
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    response_headers.setdefault(name, value)
                if not LOCAL_HOST.fullmatch(Headers(scope=scope).get("host", "")):
                    response_headers["Strict-Transport-Security"] = HSTS
            await send(message)

        await self.app(scope, receive, send_with_headers)


class ClientIPMiddleware:
    """Set `scope["client"]` to the client IP that the trusted proxies report.

    Each proxy appends the IP that it received the request from to `X-Forwarded-For`;
    what comes before the entries of the trusted proxies is written by the client.
    """

    def __init__(self, app: ASGIApp, hops: int) -> None:
        self.app = app
        self.hops = hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope.get("client") or (UNKNOWN_IP, 0)
            ip = self._client_ip(peer[0], Headers(scope=scope))
            # In the server's own dict, which the access log is written from.
            scope["client"] = peer if ip == peer[0] else (ip, 0)
        await self.app(scope, receive, send)

    def _client_ip(self, peer: str, headers: Headers) -> str:
        forwarded = ",".join(headers.getlist("x-forwarded-for"))
        if self.hops == 0:
            # By default, uvicorn believes the header if the peer is 127.0.0.1, and
            # sets the client to one of its entries.
            return UNKNOWN_IP if peer in forwarded else peer
        if "x-forwarded-for" not in headers:
            return peer
        entries = forwarded.split(",")
        return (
            parse_ip(entries[-self.hops]) if self.hops <= len(entries) else UNKNOWN_IP
        )


def parse_ip(entry: str) -> str:
    """Return the IP in an entry of `X-Forwarded-For`, without port and brackets."""
    host = entry.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return UNKNOWN_IP


class ServerAddressMiddleware:
    """Build absolute URLs from the address that the development server listens on.

    It comes from the socket and not from the `Host` header, which the client chooses.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A Unix socket has no port.
        if scope["type"] == "http" and scope.get("server") and scope["server"][1]:
            settings.set_server_address(*scope["server"])
        await self.app(scope, receive, send)


class AllowedHostsMiddleware(TrustedHostMiddleware):
    """Starlette's check of the host, with this site's error response."""

    def __init__(
        self, app: ASGIApp, allowed_hosts: Sequence[str], exempt_path: str
    ) -> None:
        super().__init__(_accept, allowed_hosts, www_redirect=False)
        self.next_app = app
        self.exempt_path = exempt_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != self.exempt_path:
            # Starlette looks at the first of several headers only.
            if not self.allow_any and len(Headers(scope=scope).getlist("host")) != 1:
                raise INVALID_HOST.error()
            await super().__call__(scope, receive, _reject)
        await self.next_app(scope, receive, send)


async def _accept(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand in for the app while the host is checked."""


async def _reject(_message: Message) -> None:
    raise INVALID_HOST.error()


class RateLimitMiddleware:
    """Limit how many requests a client makes, and how many are in progress at once."""

    def __init__(self, app: ASGIApp, exempt_path: str) -> None:
        self.app = app
        self.exempt_path = exempt_path
        self.in_progress: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_exempt = scope["type"] != "http" or scope["path"] == self.exempt_path
        if is_exempt or not settings.rate_limit_enabled:
            await self.app(scope, receive, send)
            return
        ip = rate_limit.client_network(scope["client"][0])
        if self.in_progress[ip] >= settings.rate_limit_concurrent_requests:
            # Otherwise the server would wait for the rest of a slow body.
            raise TOO_BUSY.error(Connection="close")
        with ExitStack() as stack:
            self.in_progress[ip] += 1
            stack.callback(self._end, ip)

            async def send_until_complete(message: Message) -> None:
                await send(message)
                if is_end(message):
                    # What goes on after the response doesn't count.
                    stack.close()

            limit = rate_limit.RateLimit(settings.rate_limit_default, ("request", ip))
            await rate_limit.count(limit)
            await self.app(scope, receive, send_until_complete)

    def _end(self, ip: str) -> None:
        self.in_progress[ip] -= 1
        if not self.in_progress[ip]:
            del self.in_progress[ip]


def is_end(message: Message) -> bool:
    """Return whether a response is complete with this message."""
    is_body = message["type"] == "http.response.body"
    return is_body and not message.get("more_body", False)


class ServerErrorMiddleware:
    """Respond to errors that nothing else has handled, such as those of middleware.

    Starlette's own is outside of all other middleware, so that its responses have no
    security headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        error_response: Callable[[Request, HTTPException], Response],
    ) -> None:
        self.app = app
        self.error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = complete = False

        async def track_response(message: Message) -> None:
            nonlocal started, complete
            started = True
            complete = is_end(message)
            await send(message)

        try:
            await self.app(scope, receive, track_response)
        except ClientDisconnect:
            return
        except Exception as error:
            if isinstance(error, HTTPException) and not started:
                response = self.error_response(Request(scope), error)
            else:
                error_id = uuid.uuid4().hex
                # The path without its query, which may contain a reset token, even if
                # its question mark is encoded.
                path = quote(scope["path"].partition("?")[0])
                logger.exception("Error %s on %s %s", error_id, scope["method"], path)
                if complete:
                    # It failed in the background: response and connection are fine.
                    return
                if started:
                    raise
                response = self.error_response(Request(scope), HTTPException(500))
                response.headers["X-Error-Id"] = error_id
            await response(scope, receive, send)


class BodyLimitMiddleware:
    """Reject a request body as soon as it is known to be too large, or too slow.

    Starlette's `max_body_size` responds outside of the error handlers and without the
    security headers.
    """

    def __init__(self, app: ASGIApp, max_body_size: Callable[[Scope], int]) -> None:
        self.app = app
        self.max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The body of a GET means nothing (RFC 9110, section 9.3.1) and isn't kept.
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.app(scope, receive, send)
            return
        max_size = self.max_body_size(scope)
        too_large = _declared_length(scope) > max_size
        received = 0
        timeout = BODY_TIMEOUT_PER_MIB * max_size / MIB
        deadline: float | None = asyncio.get_running_loop().time() + timeout

        async def receive_within_limits() -> Message:
            nonlocal received, deadline
            # Raised here, where the error handling of the route sees it, and only if
            # the route reads the body.
            if too_large:
                raise BODY_TOO_LARGE.error()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise BODY_TIMED_OUT.error() from error
            if not message.get("more_body", False):
                # The only message left is that the client disconnects.
                deadline = None
            received += len(message.get("body", b""))
            if received > max_size:
                raise BODY_TOO_LARGE.error()
            return message

        await self.app(scope, receive_within_limits, send)


def _declared_length(scope: Scope) -> float:
    declared = Headers(scope=scope).get("content-length", "")
    # As float: Python refuses to read an integer of thousands of digits.
    return float(declared) if declared.isdecimal() else 0


class FormCharsetMiddleware:
    """Ignore the charset of a form: forms are UTF-8 (RFC 7578, section 5.1.2).

    Starlette decodes them with any codec of Python's that the client names. Some of
    these take minutes for a megabyte, others raise unexpected errors.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(raw=list(scope["headers"]))
            content_type = headers.get("content-type", "")
            if CHARSET.search(content_type):
                headers["content-type"] = CHARSET.sub(r"\1x-charset", content_type)
                scope = {**scope, "headers": headers.raw}
        await self.app(scope, receive, send)


class HeadMiddleware:
    """Respond to HEAD as to GET, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


class TrailingSlashMiddleware:
    """Redirect `/path/` to `/path`.

    Starlette's own redirect builds an absolute URL from the `Host` header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "/")
        if scope["type"] != "http" or path == "/" or not path.endswith("/"):
            await self.app(scope, receive, send)
            return
        # One slash at the start: two would name a host, as would a backslash, which
        # `quote` encodes.
        location = "/" + quote(path.strip("/"))
        if scope["query_string"]:
            location += "?" + scope["query_string"].decode("latin-1")
        await RedirectResponse(location)(scope, receive, send)
