"""Security headers, HSTS included."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import LOCAL_HOSTS
from content_security_policy import SITE_POLICY

HSTS = "max-age=63072000; includeSubDomains"
LOCAL_HOST = re.compile(
    rf"({'|'.join(map(re.escape, LOCAL_HOSTS))})(:\d*)?", re.IGNORECASE
)


SECURITY_HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Content-Security-Policy": SITE_POLICY,
}


class SecurityHeadersMiddleware:
    """Add security headers to every response, unless it sets them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    response_headers.setdefault(name, value)
                if not LOCAL_HOST.fullmatch(Headers(scope=scope).get("host", "")):
                    response_headers["Strict-Transport-Security"] = HSTS
            await send(message)

        await self.app(scope, receive, send_with_headers)
