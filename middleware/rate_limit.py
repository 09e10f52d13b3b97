"""Limits for all requests of a client: how many, and how many at once."""

from collections import Counter
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rate_limit
from config import settings
from exceptions import TOO_BUSY
from middleware.errors import is_end


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
            raise TOO_BUSY.exception(Connection="close")
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
