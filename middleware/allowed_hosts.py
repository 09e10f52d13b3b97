"""Rejection of requests to unknown hosts."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import HEALTH_PATH
from exceptions import INVALID_HOST


class AllowedHostsMiddleware(TrustedHostMiddleware):
    """Reject unknown hosts like Starlette, but in our error format.

    Health checks are exempt, because load balancers send them to an IP address.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        super().__init__(_accept, allowed_hosts, www_redirect=False)
        self.next_app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != HEALTH_PATH:
            # Of several headers, Starlette checks only the first.
            if not self.allow_any and len(Headers(scope=scope).getlist("host")) != 1:
                raise INVALID_HOST.exception()
            await super().__call__(scope, receive, _reject)
        await self.next_app(scope, receive, send)


async def _accept(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Do nothing if the host is allowed: the app is called afterwards."""


async def _reject(_message: Message) -> None:
    raise INVALID_HOST.exception()
