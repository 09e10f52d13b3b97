"""Change a password, using either a reset token or the current password.

The route that sends reset links is in `users.py`.
"""

from fastapi import APIRouter, BackgroundTasks
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

import rate_limit
from auth import (
    CurrentUser,
    access_token_for,
    hash_password_async,
    hash_reset_token,
    verify_password_async,
)
from config import settings
from database import DbSession
from dependencies import ClientIP, lock_user
from exceptions import INVALID_RESET_TOKEN, TOO_BUSY, WRONG_PASSWORD, error_responses
from models import PasswordResetToken, User
from notifications import notify
from rate_limit import RateLimit
from schemas import (
    ChangePasswordRequest,
    MessageResponse,
    PasswordChangedResponse,
    ResetPasswordRequest,
)

router = APIRouter(prefix="/api/users", tags=["users"])


@router.post(
    "/reset-password",
    summary="Reset the password",
    response_model=MessageResponse,
    responses=error_responses(INVALID_RESET_TOKEN, TOO_BUSY),
)
async def reset_password(
    body: ResetPasswordRequest,
    client_ip: ClientIP,
    db: DbSession,
    background: BackgroundTasks,
) -> MessageResponse:
    """Set a new password with the token from a reset email.

    The token only works once. All access tokens are revoked, and the user is notified
    by email.
    """
    token_hash = hash_reset_token(body.token)
    user = await db.scalar(User.with_reset_token(token_hash))
    # Return the connection to the pool while the password is hashed.
    await db.commit()
    if user is None:
        raise INVALID_RESET_TOKEN.exception()
    password_hash = await hash_password_async(body.new_password)
    await lock_user(db, user)
    # If several requests use the same token, only one of them deletes it.
    used = await db.scalar(
        delete(PasswordResetToken)
        .where(PasswordResetToken.token_hash == token_hash)
        .returning(PasswordResetToken.id)
    )
    if used is None:
        raise INVALID_RESET_TOKEN.exception()
    await set_password(db, user, password_hash)
    # The user has access to the email address, so earlier failed logins must not lock
    # them out.
    await rate_limit.trust_client(user.email, client_ip)
    await rate_limit.clear_failed_logins(user.email, client_ip)
    notify_password_changed(background, user)
    return MessageResponse(
        message="Password reset successfully. "
        "You can now log in with your new password."
    )


@router.patch(
    "/me/password",
    summary="Change the password",
    response_model=PasswordChangedResponse,
    responses=error_responses(WRONG_PASSWORD, TOO_BUSY),
)
async def change_password(
    body: ChangePasswordRequest,
    user: CurrentUser,
    db: DbSession,
    background: BackgroundTasks,
) -> PasswordChangedResponse:
    """Change your password.

    All access tokens are revoked, and the response contains a new one. You are notified
    by email.
    """
    # Return the connection to the pool while the passwords are hashed.
    await db.commit()
    verified_hash = user.password_hash
    limit = RateLimit(settings.rate_limit_password_per_user, ("password", str(user.id)))
    async with rate_limit.attempt(limit) as keep_count:
        if not await verify_password_async(body.current_password, user):
            keep_count()
            raise WRONG_PASSWORD.exception()
    password_hash = await hash_password_async(body.new_password)
    await lock_user(db, user)
    # Another request has changed the password since it was verified.
    if user.password_hash != verified_hash:
        raise WRONG_PASSWORD.exception()
    await set_password(db, user, password_hash)
    notify_password_changed(background, user)
    return PasswordChangedResponse(
        message="Password changed successfully", access_token=access_token_for(user)
    )


async def set_password(db: AsyncSession, user: User, password_hash: str) -> None:
    """Commit a new password, and revoke all earlier access tokens and reset tokens."""
    user.password_hash = password_hash
    user.token_version += 1
    await db.flush()
    await db.execute(PasswordResetToken.deletion_for(user.id))
    await db.commit()


def notify_password_changed(background: BackgroundTasks, user: User) -> None:
    background.add_task(
        notify, "password_changed", to_email=user.email, username=user.username
    )
