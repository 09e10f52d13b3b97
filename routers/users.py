"""The users API: sign-up, profiles, account deletion and forgotten passwords."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    HTTPException,
    Request,
    Response,
    status,
)
from sqlalchemy import exists, insert, literal, select, true
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.exc import StaleDataError

import rate_limit
from account_deletion import delete_account
from auth import (
    CurrentUser,
    generate_reset_token,
    hash_password_async,
    hash_reset_token,
)
from config import settings
from database import (
    DATABASE_ERRORS,
    DEADLOCK_DETECTED,
    BackgroundDbSession,
    DbSession,
    sqlstate,
)
from dependencies import (
    ClientIP,
    FoundUser,
    PageParams,
    own_user,
    require_open_registration,
)
from email_utils import send_password_reset_email, simulate_password_reset_email
from exceptions import (
    DELETE_USER_FORBIDDEN,
    EMAIL_TAKEN,
    INVALID_TOKEN,
    REGISTRATION_CLOSED,
    TOO_BUSY,
    UPDATE_USER_FORBIDDEN,
    USER_NOT_FOUND,
    USERNAME_TAKEN,
    USERS_NOT_FOUND,
    error_responses,
    openapi_headers,
)
from models import PasswordResetToken, User, utcnow
from notifications import notify
from pagination import MAX_LIMIT, Limit, PostPage, Skip, next_link, paginated_response
from paths import path_for
from queries import UserRow
from rate_limit import RateLimit
from schemas import (
    ForgotPasswordRequest,
    MessageResponse,
    PaginatedPostsResponse,
    UserCreate,
    UserPrivateResponse,
    UserPublicResponse,
    UserUpdate,
)

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/users", tags=["users"])

MAX_EMAIL_DELAY = 0.25
rng = secrets.SystemRandom()

RESET_REQUESTED = (
    "If an account exists for this email address, we've sent a reset link to it."
)

UserToUpdate = Annotated[User, Depends(own_user(UPDATE_USER_FORBIDDEN))]
UserToDelete = Annotated[User, Depends(own_user(DELETE_USER_FORBIDDEN))]


@router.post(
    "",
    summary="Sign up",
    response_model=UserPrivateResponse,
    status_code=status.HTTP_201_CREATED,
    responses=openapi_headers("Location", status=201)
    | error_responses(REGISTRATION_CLOSED, USERNAME_TAKEN, EMAIL_TAKEN, TOO_BUSY),
    dependencies=[Depends(require_open_registration)],
)
async def create_user(
    request: Request,
    response: Response,
    user_in: UserCreate,
    client_ip: ClientIP,
    db: DbSession,
) -> User:
    """Create an account. No email is sent, and you can log in right away.

    Usernames and email addresses are unique regardless of case. If both are taken, the
    error names the username.
    """
    limit = RateLimit(settings.rate_limit_sign_up_per_ip, ("sign-up", client_ip))
    async with rate_limit.attempt(limit) as keep_count:
        # Check before hashing, which is slow. The unique indexes still decide, because
        # another user may be signing up at the same time.
        await check_unique(db, user_in.username, user_in.email)
        await db.commit()
        user = User(
            username=user_in.username,
            email=user_in.email,
            password_hash=await hash_password_async(user_in.password),
        )
        db.add(user)
        await commit_user(db, user)
        keep_count()
    response.headers["Location"] = path_for(request.app, "read_user", user_id=user.id)
    return user


async def commit_user(
    db: AsyncSession, user: User, *, ends_reset_tokens: bool = False
) -> None:
    """Commit a new or updated user.

    Raises:
        HTTPException: 400 if the username or email address is taken, 401 if the user
            has been deleted.
    """
    # Read these attributes first, because a rollback expires them.
    user_id, username, email = user.id, user.username, user.email
    try:
        await db.flush()
        if ends_reset_tokens:
            await db.execute(PasswordResetToken.deletion_for(user.id))
        await db.commit()
    except StaleDataError as exc:
        await db.rollback()
        raise INVALID_TOKEN.exception() from exc
    except DBAPIError as exc:
        # Two users who take each other's names at the same time cause a deadlock.
        is_deadlock = sqlstate(exc) == DEADLOCK_DETECTED
        if not (is_deadlock or isinstance(exc, IntegrityError)):
            raise
        await db.rollback()
        await check_unique(db, username, email, exclude_id=user_id)
        # The other user has been deleted or renamed since the conflict.
        raise EMAIL_TAKEN.exception() from exc


async def check_unique(
    db: AsyncSession, username: str, email: str, *, exclude_id: int | None = None
) -> None:
    """Raise a 400 if another user already has this username or email address."""
    others = User.id != exclude_id if exclude_id is not None else true()
    username_taken, email_taken = (
        await db.execute(
            select(
                User.with_username(username).where(others).exists(),
                User.with_email(email).where(others).exists(),
            )
        )
    ).one()
    if username_taken:
        raise USERNAME_TAKEN.exception()
    if email_taken:
        raise EMAIL_TAKEN.exception()


@router.get("/me", summary="Get the current user", response_model=UserPrivateResponse)
async def read_current_user(user: CurrentUser) -> User:
    """Get the user that the token belongs to, including the email address."""
    return user


@router.get(
    "",
    summary="List users",
    response_model=list[UserPublicResponse],
    responses=openapi_headers("ETag", "Link") | error_responses(USERS_NOT_FOUND),
)
async def list_users(
    request: Request,
    response: Response,
    db: DbSession,
    skip: Skip = 0,
    limit: Limit = MAX_LIMIT,
) -> Sequence[User]:
    """List users in order of registration.

    To get the next page, follow the `Link` header.
    """
    statement = select(User).order_by(User.id).offset(skip).limit(limit + 1)
    users = (await db.scalars(statement)).all()
    if not users and not await db.scalar(select(exists(select(User.id)))):
        raise USERS_NOT_FOUND.exception()
    if len(users) > limit:
        query = {"skip": skip + limit, "limit": limit}
        response.headers["Link"] = next_link(request, query)
    return users[:limit]


@router.get(
    "/{user_id}",
    summary="Get a user",
    response_model=UserPublicResponse,
    responses=openapi_headers("ETag") | error_responses(USER_NOT_FOUND),
)
async def read_user(user: FoundUser) -> UserRow:
    """Get a user's public profile."""
    return user


@router.patch(
    "/{user_id}",
    summary="Update a user",
    response_model=UserPrivateResponse,
    responses=error_responses(USERNAME_TAKEN, EMAIL_TAKEN, UPDATE_USER_FORBIDDEN),
)
async def update_user(
    user_in: UserUpdate, user: UserToUpdate, db: DbSession, background: BackgroundTasks
) -> User:
    """Update your username, your email address, or your bio.

    If the email address changes, all password reset links become invalid, and the old
    email address gets a notification.
    """
    old_username, old_email = user.username, user.email
    for name, value in user_in.model_dump(exclude_none=True).items():
        setattr(user, name, value)
    email_changed = user.email != old_email
    await commit_user(db, user, ends_reset_tokens=email_changed)
    if email_changed:
        background.add_task(
            notify, "email_changed", to_email=old_email, username=old_username
        )
    return user


@router.delete(
    "/{user_id}",
    summary="Delete a user",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=error_responses(DELETE_USER_FORBIDDEN),
)
async def delete_user(user: UserToDelete, db: DbSession) -> None:
    """Permanently delete your account, including its posts, picture and tokens."""
    if not await delete_account(db, user.id):
        raise INVALID_TOKEN.exception()


@router.get(
    "/{user_id}/posts",
    summary="List a user's posts",
    response_model=PaginatedPostsResponse,
    responses=openapi_headers("ETag", "Link")
    | error_responses(USER_NOT_FOUND, TOO_BUSY),
)
async def list_user_posts(
    request: Request,
    response: Response,
    # This parameter comes first, because its dependency may have to wait, and must not
    # occupy a database connection while it waits.
    page: PageParams,
    user: FoundUser,
    db: DbSession,
) -> PostPage:
    """List the posts of one user, newest first.

    To get the next page, follow the `Link` header, or send `next_cursor` as `cursor`.
    """
    return await paginated_response(request, response, db, page, user)


@router.post(
    "/forgot-password",
    summary="Request a password reset",
    response_model=MessageResponse,
    status_code=status.HTTP_202_ACCEPTED,
)
async def forgot_password(
    body: ForgotPasswordRequest,
    client_ip: ClientIP,
    db: BackgroundDbSession,
    background: BackgroundTasks,
) -> MessageResponse:
    """Send a reset link to an email address if it belongs to an account.

    The response doesn't reveal whether an account exists. A new link replaces all older
    links.
    """
    limit = RateLimit(settings.rate_limit_reset_per_ip, ("reset from", client_ip))
    await rate_limit.hit(limit)
    user = await db.scalar(User.active_with_email(body.email))
    await db.commit()
    background.add_task(send_reset_link, db, body.email, user, client_ip)
    return MessageResponse(message=RESET_REQUESTED)


async def send_reset_link(
    db: AsyncSession, email: str, user: User | None, client_ip: str
) -> None:
    """Send an email with a new reset token, which replaces older ones.

    For an unknown email address, do the same work but send nothing, so that the timing
    of concurrent requests reveals nothing. Trusted clients are exempt from the daily
    limit. Otherwise, an attacker could lock the user out by using it up.
    """
    await asyncio.sleep(rng.uniform(0, MAX_EMAIL_DELAY))
    limit = RateLimit(settings.rate_limit_emails_per_account, ("reset", email))
    try:
        if not await rate_limit.is_trusted_client(email, client_ip):
            await rate_limit.hit(limit)
        token = await replace_reset_token(db, user.id if user else 0)
    except HTTPException:
        return
    except DATABASE_ERRORS as exc:
        logger.error("Reset token not created: %s", type(exc).__name__)
        return
    if user is None:
        await simulate_password_reset_email(to_email=email, token=token)
    else:
        await send_password_reset_email(
            to_email=user.email, username=user.username, token=token
        )


async def replace_reset_token(db: AsyncSession, user_id: int) -> str:
    """Replace a user's reset tokens and return the new one. Only its hash is stored."""
    token = generate_reset_token()
    expires_at = utcnow() + timedelta(minutes=settings.reset_token_expire_minutes)
    user = select(User.id).where(User.id == user_id)
    await db.execute(user.with_for_update())
    await db.execute(PasswordResetToken.deletion_for(user_id))
    values = user.add_columns(literal(hash_reset_token(token)), literal(expires_at))
    columns = ["user_id", "token_hash", "expires_at"]
    await db.execute(insert(PasswordResetToken).from_select(columns, values))
    await db.commit()
    return token
