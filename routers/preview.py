"""The API that renders a post without storing it.

It has its own path, because `/api/posts/{post_id}` also matches `/api/posts/preview`.
"""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

import rate_limit
from auth import CurrentUser
from config import settings
from exceptions import TOO_BUSY, error_responses
from rate_limit import RateLimit
from rendering import render
from schemas import PostPreview

router = APIRouter(tags=["posts"])


# This returns HTML, not JSON, because the content security policy keeps scripts from
# inserting strings as HTML. A browser can only parse an HTML response.
@router.post(
    "/api/preview",
    summary="Preview a post",
    response_class=HTMLResponse,
    responses=error_responses(TOO_BUSY),
)
async def preview_post(post_in: PostPreview, user: CurrentUser) -> HTMLResponse:
    """Get the HTML that `content_html` would contain, without storing anything."""
    limit = RateLimit(settings.rate_limit_previews_per_user, ("preview", str(user.id)))
    await rate_limit.hit(limit)
    return HTMLResponse(await render(post_in.content, post_in.format))
