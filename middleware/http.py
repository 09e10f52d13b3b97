"""HEAD requests, trailing slashes, and the charset of forms."""

import re
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHARSET = re.compile(r"(?<=;)(\s*)charset", re.IGNORECASE)


class HeadMiddleware:
    """Respond to HEAD as to GET, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


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
        # Exactly one leading slash: two slashes, or a slash and a backslash (which
        # `quote` encodes), would redirect to another host.
        location = "/" + quote(path.strip("/"))
        if scope["query_string"]:
            location += "?" + scope["query_string"].decode("latin-1")
        await RedirectResponse(location)(scope, receive, send)


class FormCharsetMiddleware:
    """Ignore the charset of a form: forms are UTF-8 (RFC 7578, section 5.1.2).

    Starlette decodes them with any Python codec that the client names. Some take
    minutes for a megabyte, others raise unexpected errors.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(raw=list(scope["headers"]))
            content_type = headers.get("content-type", "")
            if CHARSET.search(content_type):
                headers["content-type"] = CHARSET.sub(r"\1x-charset", content_type)
                scope = {**scope, "headers": headers.raw}
        await self.app(scope, receive, send)
