"""Security headers, including HSTS."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import LOCAL_HOSTS
from content_security_policy import SITE_POLICY

HSTS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
LOCAL_HOST = re.compile(
    rf"({'|'.join(map(re.escape, LOCAL_HOSTS))})(:\d*)?".encode(), re.IGNORECASE
)
SECURITY_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        "X-Frame-Options": "SAMEORIGIN",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
        "Content-Security-Policy": SITE_POLICY,
    }.items()
]


class SecurityHeadersMiddleware:
    """Add security headers to every response, unless it already has them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                present = {name for name, _ in headers}
                headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
                if not is_local(scope):
                    headers.append(HSTS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def is_local(scope: Scope) -> bool:
    """Return whether the request was sent to a local host."""
    for name, value in scope["headers"]:
        if name == b"host":
            return LOCAL_HOST.fullmatch(value) is not None
    return False
