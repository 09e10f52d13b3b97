"""What happens to every request before the routes, and to every answer after them."""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi.exceptions import RequestValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import LOCAL_HOSTS, settings
from problems import BODY_TOO_LARGE

logger = logging.getLogger(__name__)

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d*)?", re.ASCII)
# For 5 MB over the slowest lines, and for a line to come back. Without an end, those
# who send nothing any more would keep the memory that their uploads take from others.
ARRIVAL_SECONDS = 120.0
SILENCE_SECONDS = 20.0
HSTS = "max-age=63072000; includeSubDomains"


class PlainStartupErrors:
    """Let the server print expected start-up errors as one line, not as a traceback."""

    def __init__(self, app: ASGIApp, expected: tuple[type[Exception], ...]) -> None:
        self.app = app
        self.expected = expected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        failures: list[Message] = []

        async def hold_failure(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failures.append(message)
            else:
                await send(message)

        try:
            await self.app(scope, receive, hold_failure)
        except self.expected as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        except BaseException:
            for message in failures:
                await send(message)
            raise


def content_security_policy(
    media_url: str, *, style_hashes: Sequence[str] = (), policies: Sequence[str] = ()
) -> str:
    """What a page may load, run and send, and to whom (CSP Level 3).

    Args:
        media_url: Where pictures come from; another host's origin is allowed for them.
        style_hashes: SHA-256 of inline styles that are allowed, in base64.
        policies: Trusted Types policies, by name, that may make HTML out of strings.
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


def cross_origin_options(origins: Sequence[str]) -> dict[str, Any]:
    """What scripts of other origins may send and read (the Fetch standard's CORS).

    Cookies are out of the question: the API knows none.
    """
    return {
        "allow_origins": origins,
        "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": [
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-Match",
            "If-None-Match",
        ],
        "expose_headers": [
            "ETag",
            "Link",
            "Location",
            "Retry-After",
            "WWW-Authenticate",
            "X-Error-Id",
        ],
    }


class SecurityHeaders:
    """Give every HTTP response these headers, unless it sets them itself."""

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
                if host_name(Headers(scope=scope).get("host", "")) not in LOCAL_HOSTS:
                    response_headers["Strict-Transport-Security"] = HSTS
            await send(message)

        await self.app(scope, receive, send_with_headers)


def host_name(host: str) -> str:
    """The name in a `Host` header (RFC 9110, section 7.2), without port and brackets.

    Empty when there is none, or anything else that no host can have.
    """
    match = HOST.fullmatch(host)
    return match[1].strip("[]").lower().removesuffix(".") if match else ""


class NameClient:
    """Let the access log name the client by the address that counts.

    uvicorn's own reading of `X-Forwarded-For`, where every proxy is trusted, gives the
    first address in it, which is the client's to write.
    """

    def __init__(self, app: ASGIApp, address: Callable[[Headers], str | None]) -> None:
        self.app = app
        self.address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            address = self.address(Headers(scope=scope))
            if address is not None:
                # In the server's own scope: it is what the log is written from.
                scope["client"] = (address, 0)
        await self.app(scope, receive, send)


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


class RefuseHosts:
    """Refuse requests for other sites than this one.

    Not `TrustedHostMiddleware`: it answers bare text, without the security headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed: Sequence[str],
        answer: Callable[[Request], Response],
        exempt: Sequence[str] = (),
    ) -> None:
        """Name the hosts.

        Args:
            app: What comes after.
            allowed: Host names; `*.example.com` stands for all under it, `*` for all.
            answer: Makes the refusal.
            exempt: Paths that are served under any name.
        """
        self.app = app
        self.allowed = tuple(host for host in allowed if not host.startswith("*"))
        self.suffixes = tuple(host[1:] for host in allowed if host.startswith("*"))
        self.answer = answer
        self.exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.serves(scope):
            await self.answer(Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def serves(self, scope: Scope) -> bool:
        """Whether the one host that a request names is one of ours."""
        if scope["path"] in self.exempt:
            return True
        hosts = [host_name(host) for host in Headers(scope=scope).getlist("host")]
        return len(hosts) == 1 and (
            hosts[0] in self.allowed
            or any(hosts[0].endswith(suffix) for suffix in self.suffixes)
        )


class LimitRequests:
    """Ask about every request, before anything is done for it, whether it may be."""

    def __init__(
        self,
        app: ASGIApp,
        check: Callable[[Request], Awaitable[Response | None]],
        exempt: Sequence[str] = (),
    ) -> None:
        """Name the question.

        Args:
            app: What comes after.
            check: Gives the answer to a request that may not be.
            exempt: Paths about which nobody is asked.
        """
        self.app = app
        self.check = check
        self.exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self.exempt:
            refusal = await self.check(Request(scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class CatchErrors:
    """Answer whatever nothing else has caught, so that the answer has its headers too.

    Starlette's own last line stands outside all middleware that an application adds.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Request], Response]) -> None:
        self.app = app
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = complete = False

        async def watch(message: Message) -> None:
            nonlocal started, complete
            started = True
            is_body = message["type"] == "http.response.body"
            complete = is_body and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except ClientDisconnect:
            # In the midst of its request: nobody is there to be answered.
            return
        except Exception:
            error_id = uuid.uuid4().hex
            # The path without its query, which may carry a reset token, even where its
            # question mark was encoded.
            path = quote(scope["path"].partition("?")[0])
            logger.exception("Error %s on %s %s", error_id, scope["method"], path)
            if complete:
                # It failed in the background: the answer and the connection are good.
                return
            if started:
                raise
            response = self.answer(Request(scope))
            response.headers["X-Error-Id"] = error_id
            await response(scope, receive, send)


class LimitBodies:
    """Refuse a request body as soon as it is known to be too large, or too slow.

    Starlette's `max_body_size` does the same, but its answer bypasses the error
    handlers and the security headers.
    """

    def __init__(self, app: ASGIApp, limit_for: Callable[[Scope], int]) -> None:
        self.app = app
        self.limit_for = limit_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A body means nothing here (RFC 9110, section 9.3.1): nobody keeps it, and what
        # sends files looks into it only to learn whether the client has gone.
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.app(scope, receive, send)
            return
        limit = self.limit_for(scope)
        too_large = _declared_length(scope) > limit
        received = 0
        now = asyncio.get_running_loop().time
        deadline = now() + ARRIVAL_SECONDS
        arrived = False

        async def receive_within_limit() -> Message:
            nonlocal received, arrived
            # Raised here and not above: only for a route that wants the body, and where
            # that route's error handling sees it.
            if too_large:
                raise BODY_TOO_LARGE.error()
            # Then there is nothing to wait for any more but that the client goes.
            patience = None if arrived else min(deadline, now() + SILENCE_SECONDS)
            try:
                async with asyncio.timeout_at(patience):
                    message = await receive()
            except TimeoutError as error:
                raise _unreadable("The body did not arrive in time") from error
            arrived = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit:
                raise BODY_TOO_LARGE.error()
            return message

        await self.app(scope, receive_within_limit, send)


def _unreadable(message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "body", "loc": ("body",), "msg": message}])


def _declared_length(scope: Scope) -> float:
    declared = Headers(scope=scope).get("content-length", "")
    # As float: Python refuses to read an integer of thousands of digits.
    return float(declared) if declared.isdecimal() else 0


class FormsInUtf8:
    """Read forms as UTF-8, whatever they call themselves (RFC 7578, section 5.1.2).

    Starlette decodes them with any codec of Python's that a client names. Some of these
    take minutes for a megabyte, and others fail as nobody expects.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kind = Headers(scope=scope).get("content-type", "")
            media_type, parameters = parse_options_header(kind)
            if media_type == b"multipart/form-data" and b"charset" in parameters:
                boundary = parameters.get(b"boundary", b"").decode("latin-1")
                quoted = re.sub(r'(["\\])', r"\\\1", boundary)
                headers = Headers(scope=scope).mutablecopy()
                headers["content-type"] = f'multipart/form-data; boundary="{quoted}"'
                scope = {**scope, "headers": headers.raw}
        await self.app(scope, receive, send)


class HeadAsGet:
    """Answer HEAD as GET without its body (RFC 9110, section 9.3.2)."""

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


class DropTrailingSlash:
    """Lead from a path with a slash at its end to the one without.

    Starlette's own redirect builds an absolute URL from the `Host` header, which is the
    client's to write.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "/")
        if scope["type"] != "http" or path == "/" or not path.endswith("/"):
            await self.app(scope, receive, send)
            return
        # One slash at the start: two would name a host, as would the backslash that
        # `quote` encodes.
        location = "/" + quote(path.strip("/"))
        if scope["query_string"]:
            location += "?" + scope["query_string"].decode("latin-1")
        await RedirectResponse(location)(scope, receive, send)
