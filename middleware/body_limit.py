"""Limits on the size of request bodies and on the time they take to arrive."""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import MAX_BODY_BYTES, MIB, settings
from exceptions import BODY_TIMED_OUT, BODY_TOO_LARGE

MULTIPART_OVERHEAD = 64 * 1024
BODY_TIMEOUT_PER_MIB = 15.0
UPLOAD_PATH = re.compile(r"/api/users/[^/]+/picture")


def max_body_size(scope: Scope) -> int:
    if UPLOAD_PATH.fullmatch(scope["path"]):
        return settings.max_upload_size_bytes + MULTIPART_OVERHEAD
    return MAX_BODY_BYTES


class BodyLimitMiddleware:
    """Reject a request body as soon as it is too large or takes too long to arrive.

    Starlette's `max_body_size` would bypass our error handlers and security headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The body of a GET has no meaning (RFC 9110, section 9.3.1), and isn't read.
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.app(scope, receive, send)
            return
        max_size = max_body_size(scope)
        too_large = _declared_length(scope) > max_size
        received = 0
        timeout = BODY_TIMEOUT_PER_MIB * max_size / MIB
        deadline: float | None = asyncio.get_running_loop().time() + timeout

        async def receive_within_limits() -> Message:
            nonlocal received, deadline
            # Raised only when a route reads the body, so that 401 and 403 come first.
            if too_large:
                raise BODY_TOO_LARGE.exception()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise BODY_TIMED_OUT.exception() from error
            if not message.get("more_body", False):
                # The body is complete. The client may disconnect at any time.
                deadline = None
            received += len(message.get("body", b""))
            if received > max_size:
                raise BODY_TOO_LARGE.exception()
            return message

        await self.app(scope, receive_within_limits, send)


def _declared_length(scope: Scope) -> float:
    declared = Headers(scope=scope).get("content-length", "")
    # Use float, because int() raises ValueError for more than 4,300 digits.
    return float(declared) if declared.isdecimal() else 0
