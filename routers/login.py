"""Login with an email address and a password, and renewal of access tokens."""

from typing import Annotated

from fastapi import APIRouter, Form
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

import rate_limit
from auth import (
    RenewedToken,
    access_token_for,
    hash_password_async,
    needs_rehash,
    verify_password_async,
)
from database import DbSession
from dependencies import ClientIP
from exceptions import INCORRECT_LOGIN, TOO_BUSY, error_responses
from executors import QueueFull
from models import User
from schemas import LoginForm, Token, normalize_email

router = APIRouter(prefix="/api/users", tags=["users"])


@router.post(
    "/token",
    summary="Log in",
    response_model=Token,
    responses=error_responses(INCORRECT_LOGIN, TOO_BUSY),
)
async def create_token(
    form: Annotated[LoginForm, Form()], client_ip: ClientIP, db: DbSession
) -> Token:
    """Get an access token for an email address (as `username`) and a password.

    The token is valid for a limited time, and only until the password changes.
    """
    email = normalized_email(form)
    async with rate_limit.login_attempt(email, client_ip) as keep_count:
        user = await db.scalar(User.active_with_email(email))
        # Return the connection to the pool while the password is verified.
        await db.commit()
        if not await verify_password_async(form.password, user) or user is None:
            keep_count()
            raise INCORRECT_LOGIN.exception()
    if needs_rehash(user.password_hash):
        await rehash_password(db, user, form.password)
    return Token(access_token=access_token_for(user))


@router.post("/me/token", summary="Renew a token", response_model=Token)
async def renew_token(access_token: RenewedToken) -> Token:
    """Get a new access token in exchange for one that may have expired.

    This works for a limited time after login, 14 days by default, and only until
    the password changes.
    """
    return Token(access_token=access_token)


async def rehash_password(db: AsyncSession, user: User, password: str) -> None:
    """Hash a password with the current parameters. Existing tokens stay valid."""
    try:
        password_hash = await hash_password_async(password)
    except QueueFull:
        # The next login will try again.
        return
    statement = update(User).where(
        User.id == user.id, User.password_hash == user.password_hash
    )
    await db.execute(statement.values(password_hash=password_hash))
    await db.commit()


def normalized_email(form: LoginForm) -> str:
    """Return the email address as it is stored. Leave invalid input unchanged."""
    try:
        return normalize_email(form.username.strip(), is_new=False)
    except ValueError:
        return form.username
