"""Rejection of requests to unknown hosts."""

from collections.abc import Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import HEALTH_PATHS
from exceptions import INVALID_HOST

# Maximum number of accepted hosts to remember.
MAX_ACCEPTED_HOSTS = 100


class AllowedHostsMiddleware(TrustedHostMiddleware):
    """Reject requests to unknown hosts, with our own error responses.

    Health checks are exempt, because load balancers send them to an IP address.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        super().__init__(_accept, allowed_hosts, www_redirect=False)
        self.next_app = app
        self._accepted: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_exempt = scope["type"] != "http" or scope["path"] in HEALTH_PATHS
        if not (is_exempt or self.allow_any):
            await self._check(scope, receive)
        await self.next_app(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive) -> None:
        """Raise a 400 unless there is one `Host` header, with an allowed host."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        # If there are several headers, Starlette only checks the first.
        if len(hosts) != 1:
            raise INVALID_HOST.exception()
        if hosts[0] not in self._accepted:
            await super().__call__(scope, receive, _reject)
            # Clients can vary the port, so the number of remembered hosts is limited.
            if len(self._accepted) < MAX_ACCEPTED_HOSTS:
                self._accepted.add(hosts[0])


async def _accept(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand in for the app. Starlette calls this if the host is allowed."""


async def _reject(_message: Message) -> None:
    raise INVALID_HOST.exception()
