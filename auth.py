"""Passwords, access tokens, reset tokens, and the current user."""

import hashlib
import re
import secrets
from datetime import timedelta
from typing import Annotated, Any

import jwt
from fastapi import Depends, Response
from fastapi.security import OAuth2PasswordBearer
from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.ext.asyncio import AsyncSession

import models
from config import settings
from database import MAX_ID, DbSession
from exceptions import INVALID_TOKEN, NOT_AUTHENTICATED
from executors import BoundedExecutor
from schemas import normalize_password

REQUIRED_CLAIMS = ["sub", "iat", "exp", "ver"]
# A NumericDate can have a fraction (RFC 7519, section 2).
NUMERIC_DATES = (int, float)
CLOCK_LEEWAY = timedelta(seconds=10)
# The time of the login (OpenID Connect Core, section 2). Older tokens don't have it.
LOGIN_TIME = "auth_time"
# Our tokens are about 200 characters long. A much longer one could contain JSON that is
# nested so deeply that parsing it exhausts the stack.
MAX_TOKEN_LENGTH = 1024
# PyJWT accepts padding, but RFC 7515 (section 2) doesn't allow it.
JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)

password_hasher = PasswordHash(
    (
        Argon2Hasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_cost,
            parallelism=settings.argon2_parallelism,
        ),
    )
)
# Verifying it takes as long as verifying a real hash, and always fails. Its salt and
# digest are zeros, because computing a hash would slow down every start.
DUMMY_HASH = (
    f"$argon2id$v=19$m={settings.argon2_memory_cost},t={settings.argon2_time_cost}"
    f",p={settings.argon2_parallelism}${'A' * 22}${'A' * 43}"
)

# Hashing is slow on purpose. With a queue of this length, a login waits at most a few
# seconds. One worker is enough, because Argon2 itself uses several threads. With a
# niceness of 19, a login took more than two seconds while other clients kept requesting
# pages. With 0, a flood of logins would slow down pages.
hashing = BoundedExecutor("hashing", max_workers=1, max_queue=63, niceness=10)

oauth2_scheme = OAuth2PasswordBearer(
    tokenUrl="/api/users/token",
    scheme_name="Password",
    description="The `username` is the email address of the account.",
    # get_current_user raises the 401, because its message depends on what is wrong.
    auto_error=False,
)


def hash_password(password: str) -> str:
    """Return the Argon2 hash of a password, with its salt and parameters.

    Slow on purpose. Async code must call `hash_password_async` instead.
    """
    return password_hasher.hash(normalize_password(password))


def verify_password(plain_password: str, hashed_password: str) -> bool:
    """Return whether a password matches a hash. Unknown hash types never match.

    Slow on purpose. Async code must call `verify_password_async` instead.
    """
    # Older hashes were computed without normalizing the password.
    forms = dict.fromkeys((normalize_password(plain_password), plain_password))
    try:
        return any(password_hasher.verify(form, hashed_password) for form in forms)
    except UnknownHashError:
        return False


async def hash_password_async(password: str) -> str:
    """Run `hash_password` in a thread, or raise `QueueFull` if too many are waiting."""
    return await hashing.run(hash_password, password)


async def verify_password_async(password: str, user: models.User | None) -> bool:
    """Return whether this is the user's password. If the user is None, return False.

    Raises:
        QueueFull: Too many calls are waiting for a thread.
    """
    # Verify a dummy hash for unknown users, so that timing doesn't reveal accounts.
    stored = user.password_hash if user else DUMMY_HASH
    matches = await hashing.run(verify_password, password, stored)
    return matches and user is not None


def needs_rehash(stored: str) -> bool:
    """Return whether a hash was computed with outdated parameters."""
    return password_hasher.current_hasher.check_needs_rehash(stored)


def create_access_token(
    data: dict[str, Any], expires_delta: timedelta | None = None
) -> str:
    """Return a signed JSON Web Token (RFC 7519) with the claims in `data`.

    Args:
        data: `sub`, the user's id as a string, `ver`, the user's `token_version`
            (default 0, the version of a new user), and `auth_time`, the time of the
            login in seconds (default now).
        expires_delta: Lifetime. Defaults to `ACCESS_TOKEN_EXPIRE_MINUTES`.
    """
    lifetime = expires_delta or timedelta(minutes=settings.access_token_expire_minutes)
    issued_at = models.utcnow()
    defaults = {"ver": 0, LOGIN_TIME: int(issued_at.timestamp())}
    claims = {**defaults, **data, "iat": issued_at, "exp": issued_at + lifetime}
    return jwt.encode(claims, settings.signing_key, algorithm=settings.algorithm)


def access_token_for(user: models.User, **claims: int) -> str:
    """Return an access token that is valid until it expires or the password changes."""
    data = {"sub": str(user.id), "ver": user.token_version, **claims}
    return create_access_token(data)


def verify_access_token(token: str) -> str | None:
    """Return the `sub` of a valid token, or None.

    Checks the signature and the expiration, but not whether the token was revoked.
    """
    claims = _read_claims(token)
    return claims["sub"] if claims else None


def _read_claims(token: str, *, may_be_expired: bool = False) -> dict[str, Any] | None:
    if len(token) > MAX_TOKEN_LENGTH or not JWT.fullmatch(token):
        return None
    options = {"require": REQUIRED_CLAIMS, "verify_exp": not may_be_expired}
    verified = (_verify(token, key, options) for key in settings.verification_keys)
    claims = next(filter(None, verified), None)
    if claims is None:
        return None
    # PyJWT accepts dates of any type that int() accepts, such as strings.
    is_typed = (
        type(claims["ver"]) is int
        and type(claims["iat"]) in NUMERIC_DATES
        and type(claims["exp"]) in NUMERIC_DATES
    )
    return claims if is_typed else None


def _verify(token: str, key: str, options: Any) -> dict[str, Any] | None:
    """Return the claims of a valid token that was signed with this key."""
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[settings.algorithm],
            leeway=CLOCK_LEEWAY,
            options=options,
        )
    # ValueError: PyJWT doesn't catch the errors of the JSON and UTF-8 decoders.
    except (jwt.PyJWTError, ValueError):
        return None


def generate_reset_token() -> str:
    """Return 256 random bits as a URL-safe string."""
    return secrets.token_urlsafe(32)


def hash_reset_token(token: str) -> str:
    """Return the SHA-256 hash of a reset token, in hex. Only this hash is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


async def get_current_user(
    token: Annotated[str | None, Depends(oauth2_scheme)],
    response: Response,
    db: DbSession,
) -> models.User:
    """Return the user who sent the request, and forbid caching of the response.

    Raises:
        HTTPException: 401 if the token is missing, forged, expired or revoked, or if
            its user has been deleted or deactivated.
    """
    user, _claims = await _authenticate(token, response, db)
    return user


async def _authenticate(
    token: str | None,
    response: Response,
    db: AsyncSession,
    *,
    may_be_expired: bool = False,
) -> tuple[models.User, dict[str, Any]]:
    if token is None:
        raise NOT_AUTHENTICATED.exception()
    claims = _read_claims(token, may_be_expired=may_be_expired)
    user_id = _row_id(claims["sub"]) if claims else None
    if claims is None or user_id is None:
        raise INVALID_TOKEN.exception()
    user = await db.get(models.User, user_id)
    if user is None or not user.is_active or user.token_version != claims["ver"]:
        raise INVALID_TOKEN.exception()
    response.headers["Cache-Control"] = "no-store"
    return user, claims


async def renew_access_token(
    token: Annotated[str | None, Depends(oauth2_scheme)],
    response: Response,
    db: DbSession,
) -> str:
    """Return a new token for one that may have expired. The login time stays the same.

    Raises:
        HTTPException: 401 if the login was more than `SESSION_MAX_DAYS` ago, or if the
            token is invalid for any reason other than its age.
    """
    user, claims = await _authenticate(token, response, db, may_be_expired=True)
    login_time = claims.get(LOGIN_TIME)
    if type(login_time) is not int or _has_ended(login_time):
        raise INVALID_TOKEN.exception()
    return access_token_for(user, **{LOGIN_TIME: login_time})


def _has_ended(login_time: int) -> bool:
    max_age = timedelta(days=settings.session_max_days).total_seconds()
    # If another server's clock is ahead, the login may appear to be in the future.
    return max(0, models.utcnow().timestamp() - login_time) >= max_age


def _row_id(sub: str) -> int | None:
    if not (sub.isascii() and sub.isdigit() and len(sub) <= len(str(MAX_ID))):
        return None
    number = int(sub)
    return number if number <= MAX_ID and str(number) == sub else None


CurrentUser = Annotated[models.User, Depends(get_current_user)]
RenewedToken = Annotated[str, Depends(renew_access_token)]
