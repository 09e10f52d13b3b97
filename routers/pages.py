"""HTML pages: the same for every visitor, because the login state is in the browser."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from config import settings
from database import MAX_ID, DbSession
from dependencies import FoundPost, FoundUser
from middleware.security_headers import content_security_policy
from pagination import PageRequest, PostPage, fetch_posts
from templating import path_of, templates

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
    context = pagination_context(listed, path_of(request, "home_page"))
    return templates.TemplateResponse(request, "home.html", context)


@router.get("/posts/{post_id}")
async def post_page(request: Request, post: FoundPost) -> Response:
    return templates.TemplateResponse(request, "post.html", {"post": post})


@router.get("/users/{user_id}/posts")
async def user_posts_page(
    request: Request, user: FoundUser, page: NumberedPage, db: DbSession
) -> Response:
    listed = await fetch_posts(db, page, user)
    path = path_of(request, "user_posts_page", user_id=user.id)
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


# Swagger UI and ReDoc build HTML from strings. The policy "default" (trusted-types.js)
# sanitizes them with DOMPurify, which needs a policy of its own, as does the copy of it
# in Swagger UI. ReDoc adds style elements, of which all but one are empty at first.
SANITIZER_POLICIES = ("default", "dompurify")
DOCS_POLICY = content_security_policy(
    settings.media_url, policies=(*SANITIZER_POLICIES, "dompurify#swagger-ui")
)
REDOC_POLICY = content_security_policy(
    settings.media_url,
    style_hashes=(
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc=",
    ),
    policies=SANITIZER_POLICIES,
)


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": DOCS_POLICY}
    return templates.TemplateResponse(request, "docs.html", headers=headers)


@router.get("/redoc")
async def redoc_page(request: Request) -> Response:
    headers = {"Content-Security-Policy": REDOC_POLICY}
    return templates.TemplateResponse(request, "redoc.html", headers=headers)
