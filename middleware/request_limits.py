"""Limits on the rate and concurrency of requests from each client IP."""

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rate_limit
from config import HEALTH_PATHS, settings
from exceptions import TOO_BUSY
from middleware.errors import is_end


class RequestLimitsMiddleware:
    """Limit the rate and the number of concurrent requests from each client IP.

    Health checks are exempt, because load balancers send them often.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.in_progress: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_exempt = scope["type"] != "http" or scope["path"] in HEALTH_PATHS
        if is_exempt or not settings.rate_limit_enabled:
            await self.app(scope, receive, send)
            return
        network = rate_limit.client_network(scope["client"][0])
        if self.in_progress[network] >= settings.rate_limit_concurrent_requests:
            # Without this header, uvicorn would wait for the rest of a slow body.
            raise TOO_BUSY.exception(Connection="close")
        await rate_limit.count_request(network)
        is_in_progress = True
        self.in_progress[network] += 1

        def end() -> None:
            nonlocal is_in_progress
            if is_in_progress:
                is_in_progress = False
                self.in_progress[network] -= 1
                if not self.in_progress[network]:
                    del self.in_progress[network]

        async def send_until_complete(message: Message) -> None:
            await send(message)
            if is_end(message):
                # Background tasks don't count as requests.
                end()

        try:
            await self.app(scope, receive, send_until_complete)
        finally:
            end()
