"""ETags, and 304 (Not Modified) responses to conditional GET requests."""

import asyncio
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conditional_requests import etag_matches, etag_of

ENCODING_SUFFIX = re.compile('-(?:br|gzip)(?=")')
CONDITIONS = (b"if-match", b"if-none-match", b"if-modified-since")
# Compressing this much takes a few milliseconds.
CHUNK_BYTES = 128 * 1024
# These headers describe a body, which a 304 doesn't have (RFC 9110, section 15.4.5).
BODY_HEADERS = ("content-type", "content-length", "content-encoding")


class ETagMiddleware:
    """Add an ETag to cacheable responses, and a default `Cache-Control` to all.

    By default, caches must revalidate a response to GET before each use, and must not
    store any other response (RFC 9111).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_get = scope["method"] == "GET"
        start: Message = {}
        body = b""

        async def send_with_etag(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                if _needs_etag(message, is_get=is_get):
                    start = message
                else:
                    await send(message)
            elif not start:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    MutableHeaders(scope=start)["ETag"] = await _hash(body)
                    await send(start)
                    await send_chunks(body, send)

        await self.app(scope, receive, send_with_etag)


def _needs_etag(start: Message, *, is_get: bool) -> bool:
    """Set the default `Cache-Control`, and return whether to add an ETag."""
    headers = MutableHeaders(scope=start)
    may_store = is_get and start["status"] in {200, 304}
    headers.setdefault("Cache-Control", "no-cache" if may_store else "no-store")
    is_stored = "no-store" not in headers["cache-control"]
    return is_get and start["status"] == 200 and is_stored and "etag" not in headers


async def _hash(body: bytes) -> str:
    if len(body) > CHUNK_BYTES:
        return await asyncio.to_thread(etag_of, body)
    return etag_of(body)


async def send_chunks(
    body: bytes, send: Send, is_connected: Callable[[], bool] = lambda: True
) -> None:
    """Send a body in chunks, and stop if the client disconnects.

    The event loop serves other requests between chunks. Compressing 30 MB at once would
    block it for a second.
    """
    # Send views instead of copies, so that all slow clients share one body.
    view = memoryview(body)
    for start in range(0, len(body) or 1, CHUNK_BYTES):
        end = start + CHUNK_BYTES
        more_body = end < len(body)
        chunk = {"body": view[start:end], "more_body": more_body}
        await send({"type": "http.response.body", **chunk})
        if more_body:
            await asyncio.sleep(0)
            if not is_connected():
                return


class ConditionalGetMiddleware:
    """Respond with 304 if the client has the current version of a resource.

    See RFC 9110, section 13.1.2. This middleware runs outside the compression, because
    each encoding needs its own ETag (section 8.8.3.3).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_get = scope["method"] == "GET"
        if_none_match = ""
        if any(name in CONDITIONS for name, _ in scope["headers"]):
            request = Headers(scope=scope).mutablecopy()
            if is_get:
                if_none_match = ", ".join(request.getlist("if-none-match"))
            _remove_handled_conditions(request, is_revalidation=bool(if_none_match))
            scope = {**scope, "headers": request.raw}
        is_not_modified = False

        async def send_unless_not_modified(message: Message) -> None:
            nonlocal is_not_modified
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                _add_encoding_suffix(headers)
                is_not_modified = (
                    is_get
                    and message["status"] == 200
                    and "etag" in headers
                    and etag_matches(if_none_match, headers["etag"], weakly=True)
                )
                if is_not_modified:
                    await _send_not_modified(message, send)
            if not is_not_modified:
                await send(message)

        await self.app(scope, receive, send_unless_not_modified)


def _remove_handled_conditions(
    request: MutableHeaders, *, is_revalidation: bool
) -> None:
    """Remove the conditions handled here, and the encoding suffixes in `If-Match`."""
    if is_revalidation:
        # If-None-Match takes precedence over a date (RFC 9110, section 13.1.3).
        del request["if-none-match"]
        del request["if-modified-since"]
    if "if-match" in request:
        etags = ", ".join(request.getlist("if-match"))
        request["if-match"] = ENCODING_SUFFIX.sub("", etags)


def _add_encoding_suffix(headers: MutableHeaders) -> None:
    etag, encoding = headers.get("etag"), headers.get("content-encoding")
    if etag and encoding:
        headers["ETag"] = f'{etag[:-1]}-{encoding}"'


async def _send_not_modified(start: Message, send: Send) -> None:
    headers = MutableHeaders(scope=start)
    for name in BODY_HEADERS:
        del headers[name]
    await send({**start, "status": 304, "headers": headers.raw})
    await send({"type": "http.response.body", "body": b""})
