"""The same endpoints, built the way most FastAPI tutorials build them.

This app uses ORM sessions, `response_model`, Jinja2 and two subclasses of
`BaseHTTPMiddleware`. A list takes three queries: posts, authors and the total.
"""

import os
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

PAGE_SIZE = 10

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)
templates = Jinja2Templates(Path(__file__).with_name("templates"))


class Base(DeclarativeBase):
    """Base class for both models."""


class User(Base):
    """An author."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str]
    image_file: Mapped[str | None]


class Post(Base):
    """A blog post."""

    __tablename__ = "posts"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    content: Mapped[str]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    date_posted: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    date_updated: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    author: Mapped[User] = relationship()


class UserResponse(BaseModel):
    """The author of a post."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    image_file: str | None


class PostResponse(BaseModel):
    """A post with its author."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    content: str
    user_id: int
    date_posted: datetime
    date_updated: datetime | None
    author: UserResponse


class PostListResponse(BaseModel):
    """One page of posts."""

    posts: list[PostResponse]
    total: int
    skip: int
    limit: int


class SecurityHeadersMiddleware(BaseHTTPMiddleware):
    """Add security headers to every response."""

    async def dispatch(
        self, request: Request, call_next: RequestResponseEndpoint
    ) -> Response:
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
        return response


class TimingMiddleware(BaseHTTPMiddleware):
    """Report how long each request took."""

    async def dispatch(
        self, request: Request, call_next: RequestResponseEndpoint
    ) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Process-Time"] = f"{time.perf_counter() - start:.6f}"
        return response


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]

app = FastAPI()
app.add_middleware(SecurityHeadersMiddleware)
app.add_middleware(TimingMiddleware)


async def load_posts(
    session: AsyncSession, *, skip: int, limit: int
) -> tuple[list[Post], int]:
    """Return a page of posts with their authors, newest first, and the total."""
    total = await session.scalar(select(func.count()).select_from(Post))
    posts = await session.scalars(
        select(Post)
        .options(selectinload(Post.author))
        .order_by(Post.date_posted.desc(), Post.id.desc())
        .offset(skip)
        .limit(limit)
    )
    return list(posts), total or 0


async def load_post(session: AsyncSession, post_id: int) -> Post:
    statement = select(Post).options(joinedload(Post.author)).where(Post.id == post_id)
    post = await session.scalar(statement)
    if post is None:
        raise HTTPException(404, "Post not found")
    return post


@app.get("/api/posts", response_model=PostListResponse)
async def list_posts(
    session: Session,
    skip: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = PAGE_SIZE,
) -> dict[str, object]:
    posts, total = await load_posts(session, skip=skip, limit=limit)
    return {"posts": posts, "total": total, "skip": skip, "limit": limit}


@app.get("/api/posts/{post_id}", response_model=PostResponse)
async def read_post(session: Session, post_id: int) -> Post:
    return await load_post(session, post_id)


@app.get("/")
async def home_page(
    request: Request, session: Session, page: Annotated[int, Query(ge=1)] = 1
) -> Response:
    skip = (page - 1) * PAGE_SIZE
    posts, total = await load_posts(session, skip=skip, limit=PAGE_SIZE)
    has_more = skip + PAGE_SIZE < total
    context = {"posts": posts, "page": page, "has_more": has_more}
    return templates.TemplateResponse(request, "home.html", context)


@app.get("/posts/{post_id}")
async def post_page(request: Request, session: Session, post_id: int) -> Response:
    post = await load_post(session, post_id)
    return templates.TemplateResponse(request, "post.html", {"post": post})
