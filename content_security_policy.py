"""Content Security Policies (CSP Level 3) for the site and its API docs."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from config import settings


def content_security_policy(
    *, style_hashes: Sequence[str] = (), trusted_types: Sequence[str] = ()
) -> str:
    """Return a policy that only allows files from this site and pictures from storage.

    Args:
        style_hashes: SHA-256 hashes (base64) of the inline styles to allow.
        trusted_types: Names of the Trusted Types policies to allow.
    """
    media = urlsplit(settings.media_url)
    pictures = f" {media.scheme}://{media.netloc}" if media.netloc else ""
    styles = "".join(f" 'sha256-{digest}'" for digest in style_hashes)
    names = " ".join(trusted_types) or "'none'"
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
        f"trusted-types {names}",
    ]
    return "; ".join(directives)


SITE_POLICY = content_security_policy()

# Swagger UI and ReDoc build HTML from strings. The "default" policy in trusted-types.js
# sanitizes the HTML with DOMPurify, which creates its own policy. Swagger UI contains
# another copy of DOMPurify, with another policy.
SWAGGER_UI_POLICY = content_security_policy(
    trusted_types=("default", "dompurify", "dompurify#swagger-ui")
)
# ReDoc adds inline styles. The first hash allows empty ones, which ReDoc fills later.
REDOC_POLICY = content_security_policy(
    style_hashes=(
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc=",
    ),
    trusted_types=("default", "dompurify"),
)
