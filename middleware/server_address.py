"""The address of the development server, for absolute URLs."""

from starlette.types import ASGIApp, Receive, Scope, Send

from config import settings


class ServerAddressMiddleware:
    """Build absolute URLs from the address that the development server listens on.

    It comes from the socket and not from the `Host` header, which the client chooses.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A Unix socket has no port.
        if scope["type"] == "http" and scope.get("server") and scope["server"][1]:
            settings.set_server_address(*scope["server"])
        await self.app(scope, receive, send)
