"""ETags and conditional requests (RFC 9110, sections 8.8.3 and 13)."""

import hashlib
import re

from models import Post
from queries import PostRow
from rendering import render
from schemas import PostResponse

ETAG = re.compile('(?:W/)?"[!\x23-\x7e\x80-\xff]*"')


def etag_of(body: bytes) -> str:
    """Return a strong ETag, which changes whenever the body changes."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


async def post_response(post: Post | PostRow) -> PostResponse:
    """Return a post with its content as HTML.

    Raises:
        QueueFull: Too many posts are waiting to be rendered.
    """
    response = PostResponse.model_validate(post)
    response.content_html = await render(post.content, post.format)
    return response


def post_etag(post: PostResponse) -> str:
    """Return the ETag that a GET request for this post returns."""
    return etag_of(post.model_dump_json().encode())


def etag_matches(condition: str, etag: str, *, weakly: bool = False) -> bool:
    """Return whether an `If-Match` or `If-None-Match` header matches an ETag.

    The comparison is strong unless `weakly` is true (RFC 9110, section 8.8.3.2).
    """
    if condition.strip() == "*":
        return True
    listed: list[str] = ETAG.findall(condition)
    if weakly:
        return etag.removeprefix("W/") in (each.removeprefix("W/") for each in listed)
    return etag in listed and not etag.startswith("W/")


def meets_conditions(
    etag: str, if_match: str | None, if_none_match: str | None
) -> bool:
    """Return whether both conditions allow a change (RFC 9110, section 13.2.2)."""
    if if_match is not None and not etag_matches(if_match, etag):
        return False
    return if_none_match is None or not etag_matches(if_none_match, etag, weakly=True)
