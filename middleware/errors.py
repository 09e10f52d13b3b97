"""Errors at startup, and errors of requests that nothing else has handled."""

import logging
import sys
import uuid
from collections.abc import Callable
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


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


def is_end(message: Message) -> bool:
    is_body = message["type"] == "http.response.body"
    return is_body and not message.get("more_body", False)
