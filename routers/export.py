"""Export of a user's profile and posts."""

from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession

import rate_limit
from auth import CurrentUser
from config import settings
from database import BackgroundDbSession
from models import User
from queries import fetch_page
from rate_limit import RateLimit
from schemas import PostResponse, UserExport, UserPrivateResponse

router = APIRouter(prefix="/api/users", tags=["users"])

# Number of posts in memory at a time, each of which can take up a megabyte.
BATCH_SIZE = 20
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Disposition": 'attachment; filename="export.json"',
}
posts_adapter = TypeAdapter(list[PostResponse])


@router.get("/me/export", summary="Export your data", response_model=UserExport)
async def export_user(user: CurrentUser, db: BackgroundDbSession) -> StreamingResponse:
    """Download your profile and all your posts, newest first, as one JSON document."""
    limit = RateLimit(settings.rate_limit_exports_per_user, ("export", str(user.id)))
    await rate_limit.hit(limit)
    return StreamingResponse(
        export_chunks(db, user), media_type="application/json", headers=HEADERS
    )


async def export_chunks(db: AsyncSession, user: User) -> AsyncIterator[str]:
    """Yield the parts of the JSON document. A slow client occupies no connection."""
    profile = UserPrivateResponse.model_validate(user)
    yield f'{{"profile":{profile.model_dump_json()},"posts":['
    posts, _total = await fetch_page(db, user, BATCH_SIZE)
    while posts:
        await db.commit()
        batch = posts_adapter.validate_python(posts)
        yield posts_adapter.dump_json(batch).decode()[1:-1]
        last = posts[-1].date_posted, posts[-1].id
        posts, _total = await fetch_page(db, user, BATCH_SIZE, after=last)
        yield "," if posts else ""
    yield "]}"
