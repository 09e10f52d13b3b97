"""The charset that a client declares for a form."""

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

CHARSET = re.compile(r"(?<=;)(\s*)charset", re.IGNORECASE)


class FormCharsetMiddleware:
    """Ignore the charset that a client declares, and decode forms as UTF-8.

    UTF-8 is the default (RFC 7578, section 5.1.2). Starlette would use any Python codec
    that the client names. Some codecs take minutes for a megabyte, and others raise
    unexpected errors.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "GET":
            headers = MutableHeaders(raw=list(scope["headers"]))
            content_type = headers.get("content-type", "")
            if CHARSET.search(content_type):
                headers["content-type"] = CHARSET.sub(r"\1x-charset", content_type)
                scope = {**scope, "headers": headers.raw}
        await self.app(scope, receive, send)
