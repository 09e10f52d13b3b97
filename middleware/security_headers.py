"""Security headers, the content security policy and HSTS."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import settings

HSTS = "max-age=63072000; includeSubDomains"
LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1])(:\d*)?", re.IGNORECASE)


def content_security_policy(
    media_url: str, *, style_hashes: Sequence[str] = (), policies: Sequence[str] = ()
) -> str:
    """Return a content security policy (CSP Level 3) for pages with these pictures.

    It allows inline styles with these SHA-256 hashes (base64), and the Trusted Types
    policies with these names.
    """
    media = urlsplit(media_url)
    pictures = f" {media.scheme}://{media.netloc}" if media.netloc else ""
    styles = "".join(f" 'sha256-{digest}'" for digest in style_hashes)
    makers = " ".join(policies) or "'none'"
    directives = [
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self'{styles}",
        f"img-src 'self'{pictures}",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "require-trusted-types-for 'script'",
        f"trusted-types {makers}",
    ]
    return "; ".join(directives)


SECURITY_HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Content-Security-Policy": content_security_policy(settings.media_url),
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
