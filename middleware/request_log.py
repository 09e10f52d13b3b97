"""Request ids, and a log line for each request."""

import logging
import os
import re
import time
from functools import lru_cache
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import HEALTH_PATHS
from logs import request_id

logger = logging.getLogger(__name__)

HEADER = b"x-request-id"
REQUEST_ID = re.compile(rb"[\w.:=+/-]{1,128}", re.ASCII)


class RequestLogMiddleware:
    """Log each request except health checks, and send its id in `X-Request-ID`.

    The line contains the path without its query, which may contain a reset token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at = time.perf_counter()
        current_id = requested_id(scope) or os.urandom(8).hex().encode()
        # Reset below, because requests can share a task if there is no server.
        token = request_id.set(current_id.decode())
        status = size_bytes = 0
        ended_at = started_at

        async def send_and_measure(message: Message) -> None:
            nonlocal status, size_bytes, ended_at
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((HEADER, current_id))
            else:
                size_bytes += len(message.get("body", b""))
            await send(message)
            ended_at = time.perf_counter()

        try:
            await self.app(scope, receive, send_and_measure)
        finally:
            if scope["path"] not in HEALTH_PATHS:
                log_request(scope, status, size_bytes, ended_at - started_at)
            request_id.reset(token)


def requested_id(scope: Scope) -> bytes | None:
    """Return the request id that the client or the load balancer sent."""
    for name, value in scope["headers"]:
        if name == HEADER and REQUEST_ID.fullmatch(value):
            found: bytes = value
            return found
    return None


@lru_cache(maxsize=1000)
def loggable_path(path: str) -> str:
    """Return the path, encoded and without its query.

    Some email clients and users encode the question mark.
    """
    return quote(path.partition("?")[0])


def log_request(scope: Scope, status: int, size_bytes: int, seconds: float) -> None:
    """Log a request; the status is 0 if the client got no response."""
    if not logger.isEnabledFor(logging.INFO):
        return
    path = loggable_path(scope["path"])
    client_ip = scope["client"][0]
    route = getattr(scope.get("route"), "path", None)
    fields = {
        "method": scope["method"],
        "route": route,
        "path": path,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "bytes": size_bytes,
        "client_ip": client_ip,
    }
    text = '%s "%s %s" %d %.1f ms'
    arguments = (client_ip, scope["method"], path, status, seconds * 1000)
    logger.info(text, *arguments, extra={"fields": fields})
