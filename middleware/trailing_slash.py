"""Redirection of paths that end in a slash."""

from urllib.parse import quote

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlashMiddleware:
    """Redirect `/path/` to `/path`.

    Starlette's own redirect builds an absolute URL from the `Host` header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "/")
        if scope["type"] != "http" or path == "/" or not path.endswith("/"):
            await self.app(scope, receive, send)
            return
        # The location must have exactly one leading slash. Two slashes, or a slash and
        # a backslash (which `quote` encodes), would redirect to another host.
        location = "/" + quote(path.strip("/"))
        if scope["query_string"]:
            location += "?" + scope["query_string"].decode("latin-1")
        await RedirectResponse(location)(scope, receive, send)
