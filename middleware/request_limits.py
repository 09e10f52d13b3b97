"""Rate limit and concurrency limit per client IP."""

from collections import Counter
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rate_limit
from config import HEALTH_PATH, settings
from exceptions import TOO_BUSY
from middleware.errors import is_end


class RateLimitMiddleware:
    """Limit the requests of each client IP, in total and concurrently.

    Health checks are exempt, because load balancers send them often.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.in_progress: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_exempt = scope["type"] != "http" or scope["path"] == HEALTH_PATH
        if is_exempt or not settings.rate_limit_enabled:
            await self.app(scope, receive, send)
            return
        ip = rate_limit.client_network(scope["client"][0])
        if self.in_progress[ip] >= settings.rate_limit_concurrent_requests:
            # Without this header, uvicorn would read the rest of a slow body.
            raise TOO_BUSY.exception(Connection="close")
        with ExitStack() as stack:
            self.in_progress[ip] += 1
            stack.callback(self._end, ip)

            async def send_until_complete(message: Message) -> None:
                await send(message)
                if is_end(message):
                    # Background tasks don't count.
                    stack.close()

            limit = rate_limit.RateLimit(settings.rate_limit_default, ("request", ip))
            await rate_limit.hit(limit)
            await self.app(scope, receive, send_until_complete)

    def _end(self, ip: str) -> None:
        self.in_progress[ip] -= 1
        if not self.in_progress[ip]:
            del self.in_progress[ip]
