"""Passwords, access tokens, reset tokens, and who is asking."""

import hashlib
import secrets
from datetime import timedelta
from typing import Annotated, Any

import jwt
from fastapi import Depends, Response
from fastapi.security import OAuth2PasswordBearer
from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

import models
from config import settings
from database import MAX_ID, DbSession
from exceptions import APIError
from executors import BoundedExecutor

REQUIRED_CLAIMS = ["sub", "iat", "exp", "ver"]
# A NumericDate may have a fraction (RFC 7519, section 2).
NUMERIC_DATES = (int, float)
CLOCK_LEEWAY = timedelta(seconds=10)
# Ours have some 200 characters. Far longer ones could nest their header so deeply that
# reading it exhausts the stack.
MAX_TOKEN_LENGTH = 1024

password_hash = PasswordHash(
    (
        Argon2Hasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_cost,
            parallelism=settings.argon2_parallelism,
        ),
    )
)
DUMMY_HASH = password_hash.hash(secrets.token_urlsafe())

# Hashing is slow on purpose. What waits here is answered within the time that people
# and programs are ready to wait; more would only wait longer. As nice as can be: at 10
# a flood of logins made the slowest pages 2 to 4 times slower, at 19 less than twice.
_hashing = BoundedExecutor("hashing", threads=2, waiting=62, niceness=19)

oauth2_scheme = OAuth2PasswordBearer(
    tokenUrl="/api/users/token",
    scheme_name="Password",
    description="Log in: the `username` is the email address of the account.",
    # Its own error says nothing about what is wrong with a token that is there.
    auto_error=False,
)


def hash_password(password: str) -> str:
    """Return the Argon2 hash of a password, with its salt and parameters.

    It takes long on purpose: in requests, use `hash_password_async`.
    """
    return password_hash.hash(password)


def verify_password(plain_password: str, hashed_password: str) -> bool:
    """Whether the password is the one that was hashed. Slow: see `check_password`.

    No password is that of a hash of another kind, such as one that closes an account.
    """
    try:
        return password_hash.verify(plain_password, hashed_password)
    except UnknownHashError:
        return False


async def hash_password_async(password: str) -> str:
    """`hash_password`, off the event loop.

    Raises:
        QueueFull: Very many passwords are waiting to be hashed.
    """
    return await _hashing.run(hash_password, password)


async def check_password(password: str, user: models.User | None) -> bool:
    """Whether it is this user's password, off the event loop.

    Nobody's password is verified too: otherwise the time of the answer tells a stranger
    which addresses have an account.

    Raises:
        QueueFull: Very many passwords are waiting to be hashed.
    """
    stored = user.password_hash if user else DUMMY_HASH
    matches = await _hashing.run(verify_password, password, stored)
    return matches and user is not None


def needs_rehash(stored: str) -> bool:
    """Whether a hash was made with other parameters than the settings have now."""
    return password_hash.current_hasher.check_needs_rehash(stored)


def create_access_token(
    data: dict[str, Any], expires_delta: timedelta | None = None
) -> str:
    """Sign a JSON Web Token (RFC 7519) with the claims in `data`.

    Args:
        data: `sub`, the user's id as a string, and `ver`, the version of the tokens
            that the user's row has; 0, as every user begins, when it is left out.
        expires_delta: How long it lasts; `ACCESS_TOKEN_EXPIRE_MINUTES` by default.
    """
    lifetime = expires_delta or timedelta(minutes=settings.access_token_expire_minutes)
    issued_at = models.utcnow()
    claims = {"ver": 0, **data, "iat": issued_at, "exp": issued_at + lifetime}
    return jwt.encode(claims, settings.signing_key, algorithm=settings.algorithm)


def access_token_for(user: models.User) -> str:
    """An access token that lasts until it expires or the user's password changes."""
    return create_access_token({"sub": str(user.id), "ver": user.token_version})


def verify_access_token(token: str) -> str | None:
    """The `sub` of a well-formed, unexpired token that this application signed."""
    claims = _read_claims(token)
    return claims["sub"] if claims else None


def _read_claims(token: str) -> dict[str, Any] | None:
    if len(token) > MAX_TOKEN_LENGTH:
        return None
    try:
        claims = jwt.decode(
            token,
            settings.signing_key,
            algorithms=[settings.algorithm],
            leeway=CLOCK_LEEWAY,
            options={"require": REQUIRED_CLAIMS},
        )
    # ValueError: PyJWT lets through what the JSON and the UTF-8 decoder raise.
    except (jwt.PyJWTError, ValueError):
        return None
    # PyJWT takes for a date whatever Python makes a number of.
    is_typed = (
        type(claims["ver"]) is int
        and type(claims["iat"]) in NUMERIC_DATES
        and type(claims["exp"]) in NUMERIC_DATES
    )
    return claims if is_typed else None


def generate_reset_token() -> str:
    """A token for the mail: 256 random bits, safe in a URL."""
    return secrets.token_urlsafe(32)


def hash_reset_token(token: str) -> str:
    """What the database keeps of a reset token: its SHA-256, 64 hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def unauthorized(detail: str) -> APIError:
    """A 401 that says how to log in (RFC 6750, section 3)."""
    return APIError(401, detail, {"WWW-Authenticate": "Bearer"})


NOT_AUTHENTICATED = unauthorized("Not authenticated")
# The one answer to every flaw that a token can have.
INVALID_TOKEN = unauthorized("Invalid or expired token")


async def get_current_user(
    token: Annotated[str | None, Depends(oauth2_scheme)],
    response: Response,
    db: DbSession,
) -> models.User:
    """The user whose token came with the request; no cache may keep the answer.

    Raises:
        HTTPException: 401, when there is no token or anything is wrong with it: forged,
            expired, its user deleted, or the password changed since it was issued.
    """
    if token is None:
        raise NOT_AUTHENTICATED.exception()
    claims = _read_claims(token)
    user_id = _row_id(claims["sub"]) if claims else None
    if claims is None or user_id is None:
        raise INVALID_TOKEN.exception()
    user = await db.get(models.User, user_id)
    if user is None or user.token_version != claims["ver"]:
        raise INVALID_TOKEN.exception()
    response.headers["Cache-Control"] = "no-store"
    return user


def _row_id(sub: str) -> int | None:
    if not (sub.isascii() and sub.isdigit() and len(sub) <= len(str(MAX_ID))):
        return None
    number = int(sub)
    return number if number <= MAX_ID and str(number) == sub else None


CurrentUser = Annotated[models.User, Depends(get_current_user)]
