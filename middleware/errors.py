"""Responses to unhandled errors, and messages for startup errors."""

import asyncio
import logging
import sys

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import ConfigurationError
from database import DatabaseUnavailable
from exceptions import TOO_BUSY, http_error_response
from middleware.request_log import loggable_path

logger = logging.getLogger(__name__)


class StartupErrorMiddleware:
    """Make the server print expected startup errors on one line, with no traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_one_line(message: Message) -> None:
            error = sys.exception()
            is_expected = isinstance(error, (ConfigurationError, DatabaseUnavailable))
            if is_expected and "message" in message:
                message = {**message, "message": str(error)}
            await send(message)

        await self.app(scope, receive, send_one_line)


class ServerErrorMiddleware:
    """Respond to errors that no exception handler handles.

    Exception handlers don't see errors raised by middleware. Starlette's class of the
    same name runs outside all other middleware, so its responses would have no security
    headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = complete = False

        async def track_response(message: Message) -> None:
            nonlocal started, complete
            started = True
            complete = is_end(message)
            try:
                await send(message)
            except RuntimeError as error:
                # Raised by uvloop if the connection is closed, for example because
                # uvicorn has rejected an invalid request that followed this one.
                if "handler is closed" in str(error):
                    raise ClientDisconnect from error
                raise

        try:
            await self.app(scope, receive, track_response)
        except ClientDisconnect:
            return
        except (Exception, asyncio.CancelledError) as error:
            http_error = log_error(scope, error, started=started)
            if not started:
                response = http_error_response(Request(scope), http_error)
                await response(scope, receive, send)
            elif not complete and isinstance(error, Exception):
                raise
            # Otherwise, a background task failed, and the response is complete.


def log_error(scope: Scope, error: BaseException, *, started: bool) -> HTTPException:
    """Log an unhandled error, and return the response to send if there is none yet."""
    if isinstance(error, HTTPException) and not started:
        return error
    if isinstance(error, asyncio.CancelledError):
        # Otherwise, uvicorn would log a traceback.
        logger.warning("Canceled after the timeout for a graceful shutdown")
        return TOO_BUSY.exception()
    path = loggable_path(scope["path"])
    logger.error("Unhandled error on %s %s", scope["method"], path, exc_info=error)
    return HTTPException(500)


def is_end(message: Message) -> bool:
    is_body = message["type"] == "http.response.body"
    return is_body and not message.get("more_body", False)
