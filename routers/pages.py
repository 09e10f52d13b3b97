"""HTML pages: the same for every visitor, because the login state is in the browser."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from config import settings
from content_security_policy import REDOC_POLICY, SWAGGER_UI_POLICY
from database import MAX_ID, DbSession
from dependencies import FoundPost, FoundUser
from pagination import PageRequest, PostPage, fetch_posts
from templating import templates

router = APIRouter(include_in_schema=False)

PageNumber = Annotated[int, Query(ge=1, le=MAX_ID // settings.posts_per_page)]


# FastAPI runs dependencies that are not async in a thread.
async def get_numbered_page(page: PageNumber = 1) -> PageRequest:
    """Convert a page number, starting at 1, to an offset and a limit."""
    limit = settings.posts_per_page
    return PageRequest(skip=(page - 1) * limit, limit=limit)


NumberedPage = Annotated[PageRequest, Depends(get_numbered_page)]


def pagination_context(listed: PostPage, path: str) -> dict[str, Any]:
    page = listed.skip // listed.limit + 1

    def numbered(number: int) -> str:
        return path if number == 1 else f"{path}?page={number}"

    return {
        "posts": listed.posts,
        "total": listed.total,
        "limit": listed.limit,
        "has_more": listed.has_more,
        "next_cursor": listed.next_cursor,
        "page": page,
        "canonical": numbered(page),
        "newer": numbered(page - 1) if page > 1 else None,
        "older": numbered(page + 1) if listed.has_more else None,
    }


@router.get("/site/posts")
@router.get("/")
async def home_page(request: Request, page: NumberedPage, db: DbSession) -> Response:
    listed = await fetch_posts(db, page)
    context = pagination_context(listed, request.app.url_path_for("home_page"))
    return templates.TemplateResponse(request, "home.html", context)


@router.get("/posts/{post_id}")
async def post_page(request: Request, post: FoundPost) -> Response:
    return templates.TemplateResponse(request, "post.html", {"post": post})


@router.get("/users/{user_id}/posts")
async def user_posts_page(
    request: Request, user: FoundUser, page: NumberedPage, db: DbSession
) -> Response:
    listed = await fetch_posts(db, page, user)
    path = request.app.url_path_for("user_posts_page", user_id=user.id)
    context = pagination_context(listed, path) | {"author": user}
    return templates.TemplateResponse(request, "user_posts.html", context)


@router.get("/login")
async def login_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "login.html")


@router.get("/register")
async def register_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "register.html")


@router.get("/account")
async def account_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "account.html")


@router.get("/forgot-password")
async def forgot_password_page(request: Request) -> Response:
    return templates.TemplateResponse(request, "forgot_password.html")


@router.get("/reset-password")
async def reset_password_page(request: Request) -> Response:
    # The URL has a token, which must not reach the sites that the page links to.
    return templates.TemplateResponse(
        request, "reset_password.html", headers={"Referrer-Policy": "no-referrer"}
    )


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": SWAGGER_UI_POLICY}
    return templates.TemplateResponse(request, "docs.html", headers=headers)


@router.get("/redoc")
async def redoc_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": REDOC_POLICY}
    return templates.TemplateResponse(request, "redoc.html", headers=headers)
