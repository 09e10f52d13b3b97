"""API of the users: accounts, login, pictures, passwords."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, cast

from anyio import CapacityLimiter, to_thread
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    Form,
    HTTPException,
    Request,
    Response,
    status,
)
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from python_multipart.exceptions import FormParserError
from sqlalchemy import CursorResult, delete, exists, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.exc import StaleDataError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

import rate_limits
from auth import (
    CurrentUser,
    access_token_for,
    generate_reset_token,
    hash_reset_token,
    hashed,
    invalid_token,
    unauthorized,
    verified,
)
from config import settings
from database import MAX_ID, BackgroundDbSession, DatabaseUnavailable, DbSession
from email_utils import send_password_reset_email
from image_utils import (
    InvalidImage,
    StorageError,
    delete_profile_image,
    process_profile_image,
    upload_profile_image,
)
from models import PasswordResetToken, Post, User, now
from routers import MAX_PAGE_LENGTH, Limit, Skip, Window, errors
from routers.posts import PostPage, fetch_posts
from schemas import (
    ChangePasswordRequest,
    ForgotPasswordRequest,
    LoginForm,
    MessageResponse,
    PaginatedPostsResponse,
    PasswordChangedResponse,
    ResetPasswordRequest,
    Token,
    UserCreate,
    UserPrivateResponse,
    UserPublicResponse,
    UserUpdate,
    normalize_email,
)

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/users", tags=["users"])

DELETED_AT_ONCE = 5_000
INVALID_IMAGE = (
    "Invalid image file. Please upload a valid image (JPEG, PNG, GIF, WebP)."
)
UPLOAD_FAILED = "Failed to upload image. Please try again."
# One picture at a time: the largest that are accepted take some 400 MB while they are
# decoded.
decoders = CapacityLimiter(1)
RESET_REQUESTED = (
    "If an account exists for this email address, a message with a reset link is on "
    "its way."
)


def client_address(request: Request) -> str:
    """Where the request came from, as the outermost trusted proxy tells.

    Each proxy appends to `X-Forwarded-For` whom it was asked by, so what counts is as
    far from the end as there are proxies; before that is only what the client wrote.
    """
    if settings.proxy_hops:
        forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        if len(forwarded) >= settings.proxy_hops:
            address = forwarded[-settings.proxy_hops].strip()
            if address:
                return address
    return request.client.host if request.client else "unknown"


ClientAddress = Annotated[str, Depends(client_address)]


async def get_user(user_id: int, db: DbSession) -> User:
    """The user named in the path; 404 when no user has this id."""
    # Outside this range the driver fails instead of finding none.
    user = await db.get(User, user_id) if 0 < user_id <= MAX_ID else None
    if user is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "User not found")
    return user


FoundUser = Annotated[User, Depends(get_user)]


def own_account(action: str) -> Callable[..., Awaitable[User]]:
    """Make a dependency: the user named in the path, if that is the caller."""

    # Parameters are resolved from left to right: 401 before all else.
    async def get_own_account(user: CurrentUser, user_id: int) -> User:
        if user.id != user_id:
            raise HTTPException(
                status.HTTP_403_FORBIDDEN, f"Not authorized to {action}"
            )
        return user

    return get_own_account


UserToUpdate = Annotated[User, Depends(own_account("update this user"))]
UserToDelete = Annotated[User, Depends(own_account("delete this user"))]
UserToDepict = Annotated[User, Depends(own_account("update this user's picture"))]
UserToStrip = Annotated[User, Depends(own_account("delete this user's picture"))]


@router.post(
    "",
    response_model=UserPrivateResponse,
    status_code=status.HTTP_201_CREATED,
    responses=errors(400),
)
async def create_user(new: UserCreate, db: DbSession) -> User:
    """Sign up."""
    user = User(
        username=new.username,
        email=new.email,
        password_hash=await hashed(new.password),
    )
    db.add(user)
    await save_account(db, user)
    return user


async def save_account(
    db: AsyncSession, user: User, *, ends_reset_tokens: bool = False
) -> None:
    """Commit a new or changed account.

    Raises:
        HTTPException: 400, when another account has the name or the address; 401, when
            the account has been deleted meanwhile.
    """
    # Read before a rollback makes them unreadable.
    user_id, username = user.id, user.username
    try:
        await db.flush()
        if ends_reset_tokens:
            await delete_reset_tokens(db, user)
        await db.commit()
    except IntegrityError as error:
        await db.rollback()
        others = User.with_username(username).where(User.id != user_id)
        taken = await db.scalar(select(others.exists()))
        detail = "Username already exists" if taken else "Email already registered"
        raise HTTPException(status.HTTP_400_BAD_REQUEST, detail) from error
    except StaleDataError as error:
        await db.rollback()
        raise invalid_token() from error


async def delete_reset_tokens(db: AsyncSession, user: User) -> None:
    """Make the links in all reset mails of a user useless."""
    await db.execute(
        delete(PasswordResetToken).where(PasswordResetToken.user_id == user.id)
    )


@router.post("/token", response_model=Token, responses=errors(401, 429))
async def create_token(
    form: Annotated[LoginForm, Form()], address: ClientAddress, db: DbSession
) -> Token:
    """Log in: an access token for an email address (as `username`) and its password."""
    email = email_of(form)
    counted = (
        (settings.login_rate_account, "login", email, address),
        (settings.login_rate_address, "login", address),
    )
    for rate in counted:
        await rate_limits.check(*rate)
    user = await db.scalar(User.with_email(email))
    # The connection goes back while the password is hashed.
    await db.commit()
    if not await verified(form.password, user) or user is None:
        for rate in counted:
            await rate_limits.count(*rate)
        raise unauthorized("Incorrect email or password")
    return Token(access_token=access_token_for(user))


def email_of(form: LoginForm) -> str:
    """The address in the form in which it is stored; what is none stays as it is."""
    try:
        return normalize_email(form.username.strip())
    except ValueError:
        return form.username


@router.get("/me", response_model=UserPrivateResponse, responses=errors(401))
async def read_current_user(user: CurrentUser) -> User:
    """Read one's own account."""
    return user


@router.get("", response_model=list[UserPublicResponse], responses=errors(404))
async def list_users(
    request: Request,
    response: Response,
    db: DbSession,
    skip: Skip = 0,
    limit: Limit = MAX_PAGE_LENGTH,
) -> Sequence[User]:
    """List all users in the order in which they signed up."""
    statement = select(User).order_by(User.id).offset(skip).limit(limit + 1)
    users = (await db.scalars(statement)).all()
    if not users and not await db.scalar(select(exists(select(User.id)))):
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Users not found")
    if len(users) > limit:
        following = f"{request.url.path}?skip={skip + limit}&limit={limit}"
        response.headers["Link"] = f'<{following}>; rel="next"'
    return users[:limit]


@router.get("/{user_id}", response_model=UserPublicResponse, responses=errors(404))
async def read_user(user: FoundUser) -> User:
    """Read what is public of a user."""
    return user


@router.patch(
    "/{user_id}", response_model=UserPrivateResponse, responses=errors(400, 401, 403)
)
async def update_user(changes: UserUpdate, user: UserToUpdate, db: DbSession) -> User:
    """Change one's own name, address or both."""
    address = user.email
    for name, value in changes.model_dump(exclude_none=True).items():
        setattr(user, name, value)
    await save_account(db, user, ends_reset_tokens=user.email != address)
    return user


@router.delete(
    "/{user_id}", status_code=status.HTTP_204_NO_CONTENT, responses=errors(401, 403)
)
async def delete_user(user: UserToDelete, db: DbSession) -> None:
    """Delete one's own account, with its posts and its picture."""
    await delete_posts_of(db, user)
    statement = delete(User).where(User.id == user.id).returning(User.image_file)
    deleted = (await db.execute(statement)).first()
    await db.commit()
    if deleted is None:
        raise invalid_token()
    await discard_picture(deleted.image_file)


async def delete_posts_of(db: AsyncSession, user: User) -> None:
    """Delete the posts of a user part by part; the last part is not committed yet.

    Left to the cascade, many posts would take longer than a statement may.
    """
    some = select(Post.id).where(Post.user_id == user.id).limit(DELETED_AT_ONCE)
    statement = delete(Post).where(Post.id.in_(some))
    options = {"synchronize_session": False}
    while True:
        result = await db.execute(statement, execution_options=options)
        if cast("CursorResult[Any]", result).rowcount < DELETED_AT_ONCE:
            return
        await db.commit()


@router.get(
    "/{user_id}/posts",
    response_model=PaginatedPostsResponse,
    responses=errors(404),
)
async def list_user_posts(
    user: FoundUser, window: Annotated[Window, Depends()], db: DbSession
) -> PostPage:
    """List the posts of a user, newest first."""
    return await fetch_posts(db, Post.newest_first_of(user), window)


@router.patch(
    "/{user_id}/picture",
    response_model=UserPrivateResponse,
    responses=errors(400, 401, 403, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "string", "format": "binary"}},
                    }
                }
            },
        }
    },
)
async def upload_picture(request: Request, user: UserToDepict, db: DbSession) -> User:
    """Set one's own picture from a JPEG, PNG, GIF or WebP file."""
    # The connection goes back while the body arrives and the picture is made.
    await db.commit()
    content = await read_upload(request)
    try:
        picture, filename = await to_thread.run_sync(
            process_profile_image, content, limiter=decoders
        )
    except InvalidImage as error:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, INVALID_IMAGE) from error
    try:
        await run_in_threadpool(upload_profile_image, picture, filename)
    except StorageError as error:
        logger.error("Picture not stored: %s", error)
        # Nobody knows whether it was stored all the same.
        await discard_picture(filename)
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, UPLOAD_FAILED
        ) from error
    try:
        replaced = await replace_picture(db, user, filename)
    except Exception:
        await discard_picture(filename)
        raise
    await discard_picture(replaced)
    return user


async def read_upload(request: Request) -> bytes:
    """The file in a multipart form (RFC 7578).

    It is read here and not by a parameter of the route: those are read before the
    caller is known.

    Raises:
        HTTPException: 400, when the file is too large; 413, when the body is.
        RequestValidationError: It is no such form, or has no file.
    """
    limit = settings.max_upload_size_bytes
    media_type = request.headers.get("content-type", "").partition(";")[0]
    if media_type.strip().lower() != "multipart/form-data":
        raise missing_file("must be sent as multipart/form-data")
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=1, max_fields=10
    )
    # In memory: what is within the limit needs no file on the disk.
    parser.spool_max_size = limit + 1
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeDecodeError) as error:
        raise missing_file("cannot be found: the form is malformed") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise missing_file("is missing")
        if (file.size or 0) > limit:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, too_large(limit))
        return await file.read()
    finally:
        await form.close()


def too_large(limit: int) -> str:
    """What to say about a file of more than `limit` bytes."""
    return f"File too large. Maximum size is {round(limit / 1024**2, 2):g}MB"


def missing_file(message: str) -> RequestValidationError:
    """The 422 of an upload that has no readable file."""
    return RequestValidationError(
        [{"type": "missing", "loc": ("body", "file"), "msg": f"The file {message}"}]
    )


async def lock_user(db: AsyncSession, user: User) -> None:
    """Read a user again, and keep all others from changing it until the commit.

    Raises:
        HTTPException: 401, when the account has been deleted meanwhile.
    """
    try:
        await db.refresh(user, with_for_update=True)
    except InvalidRequestError as error:
        raise invalid_token() from error


async def replace_picture(
    db: AsyncSession, user: User, filename: str | None
) -> str | None:
    """Enter the name of a stored picture, or none, and return the one before it."""
    await lock_user(db, user)
    replaced, user.image_file = user.image_file, filename
    await db.commit()
    return replaced


async def discard_picture(filename: str | None) -> None:
    """Delete a stored picture that no row names any more; failing is only logged."""
    if filename is None:
        return
    try:
        await run_in_threadpool(delete_profile_image, filename)
    except StorageError as error:
        logger.warning("Picture %s is left over: %s", filename, error)


@router.delete(
    "/{user_id}/picture",
    response_model=UserPrivateResponse,
    responses=errors(400, 401, 403),
)
async def delete_picture(user: UserToStrip, db: DbSession) -> User:
    """Go back to the default picture."""
    replaced = await replace_picture(db, user, None)
    if replaced is None:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, "No profile picture to delete")
    await discard_picture(replaced)
    return user


@router.post(
    "/forgot-password",
    response_model=MessageResponse,
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(429),
)
async def forgot_password(
    forgotten: ForgotPasswordRequest,
    address: ClientAddress,
    db: BackgroundDbSession,
    background: BackgroundTasks,
) -> MessageResponse:
    """Ask for a mail with a link for a new password."""
    await rate_limits.count(settings.reset_rate_address, "reset", address)
    user = await db.scalar(User.with_email(forgotten.email))
    await db.commit()
    if user is not None:
        # After the answer, which therefore takes as long as for an unknown address.
        background.add_task(send_reset_link, db, user)
    return MessageResponse(message=RESET_REQUESTED)


async def send_reset_link(db: AsyncSession, user: User) -> None:
    """Mail a new reset token to a user; the ones before it end."""
    try:
        await rate_limits.count(settings.reset_rate_account, "reset", str(user.id))
        token = await replace_reset_token(db, user)
    except (rate_limits.LimitReached, HTTPException):
        return
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        logger.error("No reset token made: %s", type(error).__name__)
        return
    await send_password_reset_email(
        to_email=user.email, username=user.username, token=token
    )


async def replace_reset_token(db: AsyncSession, user: User) -> str:
    """Store the hash of a new reset token in place of all others of the user."""
    await lock_user(db, user)
    await delete_reset_tokens(db, user)
    token = generate_reset_token()
    lifetime = timedelta(minutes=settings.reset_token_expire_minutes)
    db.add(
        PasswordResetToken(
            user_id=user.id,
            token_hash=hash_reset_token(token),
            expires_at=now() + lifetime,
        )
    )
    await db.commit()
    return token


@router.post("/reset-password", response_model=MessageResponse, responses=errors(400))
async def reset_password(reset: ResetPasswordRequest, db: DbSession) -> MessageResponse:
    """Set a new password with the token from the mail."""
    invalid = HTTPException(
        status.HTTP_400_BAD_REQUEST, "Invalid or expired reset token"
    )
    token_hash = hash_reset_token(reset.token)
    user = await db.scalar(User.with_reset_token(token_hash))
    # The connection goes back while the password is hashed.
    await db.commit()
    if user is None:
        raise invalid
    password_hash = await hashed(reset.new_password)
    await lock_user(db, user)
    # Whoever deletes the token has used it; it may have been somebody else by now.
    used = await db.scalar(
        delete(PasswordResetToken)
        .where(PasswordResetToken.token_hash == token_hash)
        .returning(PasswordResetToken.id)
    )
    if used is None:
        raise invalid
    await set_password(db, user, password_hash)
    return MessageResponse(
        message="Password reset successfully. "
        "You can now log in with your new password."
    )


async def set_password(db: AsyncSession, user: User, password_hash: str) -> None:
    """Commit a new password; all access and reset tokens issued before it end."""
    user.password_hash = password_hash
    user.token_version += 1
    await db.flush()
    await delete_reset_tokens(db, user)
    await db.commit()


@router.patch(
    "/me/password",
    response_model=PasswordChangedResponse,
    responses=errors(400, 401),
)
async def change_password(
    change: ChangePasswordRequest, user: CurrentUser, db: DbSession
) -> PasswordChangedResponse:
    """Change one's own password; all other sessions end, this one gets a new token."""
    incorrect = HTTPException(
        status.HTTP_400_BAD_REQUEST, "Current password is incorrect"
    )
    # The connection goes back while the passwords are hashed.
    await db.commit()
    verified_hash = user.password_hash
    if not await verified(change.current_password, user):
        raise incorrect
    password_hash = await hashed(change.new_password)
    await lock_user(db, user)
    # Another change came first: what was verified is no longer the password.
    if user.password_hash != verified_hash:
        raise incorrect
    await set_password(db, user, password_hash)
    return PasswordChangedResponse(
        message="Password changed successfully", access_token=access_token_for(user)
    )
