"""The hosts that the site is served at."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exceptions import INVALID_HOST


class AllowedHostsMiddleware(TrustedHostMiddleware):
    """Starlette's check of the host, with this site's error response."""

    def __init__(
        self, app: ASGIApp, allowed_hosts: Sequence[str], exempt_path: str
    ) -> None:
        super().__init__(_accept, allowed_hosts, www_redirect=False)
        self.next_app = app
        self.exempt_path = exempt_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != self.exempt_path:
            # Starlette looks at the first of several headers only.
            if not self.allow_any and len(Headers(scope=scope).getlist("host")) != 1:
                raise INVALID_HOST.exception()
            await super().__call__(scope, receive, _reject)
        await self.next_app(scope, receive, send)


async def _accept(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand in for the app while the host is checked."""


async def _reject(_message: Message) -> None:
    raise INVALID_HOST.exception()
