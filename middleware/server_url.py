"""The URL of the development server."""

from starlette.types import ASGIApp, Receive, Scope, Send

from config import settings


class ServerURLMiddleware:
    """Record the host and port of the development server for absolute URLs.

    They come from the socket rather than the `Host` header, which clients can forge.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A Unix socket has no port.
        if scope["type"] == "http" and scope.get("server") and scope["server"][1]:
            settings.set_server_url(*scope["server"])
        await self.app(scope, receive, send)
