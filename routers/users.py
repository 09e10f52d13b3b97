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
    HTTPException,
    Path,
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
    INVALID_TOKEN,
    CurrentUser,
    access_token_for,
    generate_reset_token,
    hash_reset_token,
    hashed,
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
from problems import TOO_MANY_ATTEMPTS, Problem, errors
from routers.documentation import (
    CHANGED_PASSWORD,
    CHANGED_USER,
    FORGOTTEN,
    LINK_HEADER,
    LOCATION_HEADER,
    LOGIN,
    NEW_USER,
    RESET,
    TAG_HEADER,
    answers,
)
from routers.paging import MAX_PAGE_LENGTH, Limit, QueriedWindow, Skip, link_to_next
from routers.posts import PostPage, answer_page
from schemas import (
    ChangePasswordRequest,
    ForgotPasswordRequest,
    LoginForm,
    MessageResponse,
    PaginatedPostsResponse,
    PasswordChangedResponse,
    ResetPasswordRequest,
    RowId,
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


# One picture at a time: the largest that are accepted take some 400 MB while they are
# decoded.
decoders = CapacityLimiter(1)

USER_NOT_FOUND = Problem(404, "User not found")
NO_USERS = Problem(404, "Users not found")
USERNAME_TAKEN = Problem(400, "Username already exists")
EMAIL_TAKEN = Problem(400, "Email already registered")
WRONG_LOGIN = unauthorized("Incorrect email or password")
WRONG_PASSWORD = Problem(400, "Current password is incorrect")
WRONG_RESET_TOKEN = Problem(400, "Invalid or expired reset token")
NOT_TO_UPDATE = Problem(403, "Not authorized to update this user")
NOT_TO_DELETE = Problem(403, "Not authorized to delete this user")
NOT_TO_DEPICT = Problem(403, "Not authorized to update this user's picture")
NOT_TO_STRIP = Problem(403, "Not authorized to delete this user's picture")
INVALID_IMAGE = Problem(
    400, "Invalid image file. Please upload a valid image (JPEG, PNG, GIF, WebP)."
)
UPLOAD_FAILED = Problem(503, "Failed to upload image. Please try again.")
NO_PICTURE = Problem(400, "No profile picture to delete")

RESET_REQUESTED = (
    "If an account exists for this email address, a message with a reset link is on "
    "its way."
)


def file_too_large() -> Problem:
    """What is said about a file above the limit, which is a setting."""
    megabytes = round(settings.max_upload_size_bytes / 1024**2, 2)
    return Problem(400, f"File too large. Maximum size is {megabytes:g}MB")


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


UserId = Annotated[RowId, Path(description="The `id` of a user.")]


async def get_user(user_id: UserId, db: DbSession) -> User:
    """The user named in the path; 404 when no user has this id."""
    # Outside this range the driver fails instead of finding none.
    user = await db.get(User, user_id) if 0 < user_id <= MAX_ID else None
    if user is None:
        raise USER_NOT_FOUND.error()
    return user


FoundUser = Annotated[User, Depends(get_user)]


def own_account(forbidden: Problem) -> Callable[..., Awaitable[User]]:
    """Make a dependency: the user named in the path, if that is the caller."""

    # Parameters are resolved from left to right: 401 before all else.
    async def get_own_account(user: CurrentUser, user_id: UserId) -> User:
        if user.id != user_id:
            raise forbidden.error()
        return user

    return get_own_account


UserToUpdate = Annotated[User, Depends(own_account(NOT_TO_UPDATE))]
UserToDelete = Annotated[User, Depends(own_account(NOT_TO_DELETE))]
UserToDepict = Annotated[User, Depends(own_account(NOT_TO_DEPICT))]
UserToStrip = Annotated[User, Depends(own_account(NOT_TO_STRIP))]


@router.post(
    "",
    summary="Sign up",
    response_model=UserPrivateResponse,
    status_code=status.HTTP_201_CREATED,
    responses=answers(LOCATION_HEADER, status=201)
    | errors(USERNAME_TAKEN, EMAIL_TAKEN),
)
async def create_user(
    request: Request,
    response: Response,
    new: Annotated[UserCreate, NEW_USER],
    db: DbSession,
) -> User:
    """A new account. No mail is sent; log in with the address and the password.

    Names and addresses are unique without regard to case. When both are taken, the name
    is reported.
    """
    user = User(
        username=new.username,
        email=new.email,
        password_hash=await hashed(new.password),
    )
    db.add(user)
    await save_account(db, user)
    response.headers["Location"] = str(
        request.app.url_path_for("read_user", user_id=user.id)
    )
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
        problem = USERNAME_TAKEN if taken else EMAIL_TAKEN
        raise problem.error() from error
    except StaleDataError as error:
        await db.rollback()
        raise INVALID_TOKEN.error() from error


async def delete_reset_tokens(db: AsyncSession, user: User) -> None:
    """Make the links in all reset mails of a user useless."""
    await db.execute(
        delete(PasswordResetToken).where(PasswordResetToken.user_id == user.id)
    )


@router.post(
    "/token",
    summary="Log in",
    response_model=Token,
    responses=errors(WRONG_LOGIN, TOO_MANY_ATTEMPTS),
)
async def create_token(
    form: Annotated[LoginForm, LOGIN], address: ClientAddress, db: DbSession
) -> Token:
    """An access token for an email address (as `username`) and its password.

    The token ends after the time that the site's operator has set, and as soon as the
    password changes.
    """
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
        raise WRONG_LOGIN.error()
    return Token(access_token=access_token_for(user))


def email_of(form: LoginForm) -> str:
    """The address in the form in which it is stored; what is none stays as it is."""
    try:
        return normalize_email(form.username.strip())
    except ValueError:
        return form.username


@router.get("/me", summary="Read one's own account", response_model=UserPrivateResponse)
async def read_current_user(user: CurrentUser) -> User:
    """The account that the token was issued for, with its address."""
    return user


@router.get(
    "",
    summary="List all users",
    response_model=list[UserPublicResponse],
    responses=answers(TAG_HEADER, LINK_HEADER) | errors(NO_USERS),
)
async def list_users(
    request: Request,
    response: Response,
    db: DbSession,
    skip: Skip = 0,
    limit: Limit = MAX_PAGE_LENGTH,
) -> Sequence[User]:
    """All users in the order in which they signed up. To read on, follow `Link`."""
    statement = select(User).order_by(User.id).offset(skip).limit(limit + 1)
    users = (await db.scalars(statement)).all()
    if not users and not await db.scalar(select(exists(select(User.id)))):
        raise NO_USERS.error()
    if len(users) > limit:
        query = {"skip": skip + limit, "limit": limit}
        response.headers["Link"] = link_to_next(request, query)
    return users[:limit]


@router.get(
    "/{user_id}",
    summary="Read a user",
    response_model=UserPublicResponse,
    responses=answers(TAG_HEADER) | errors(USER_NOT_FOUND),
)
async def read_user(user: FoundUser) -> User:
    """What is public of a user: name and picture."""
    return user


@router.patch(
    "/{user_id}",
    summary="Change one's own account",
    response_model=UserPrivateResponse,
    responses=errors(USERNAME_TAKEN, EMAIL_TAKEN, NOT_TO_UPDATE),
)
async def update_user(
    changes: Annotated[UserUpdate, CHANGED_USER], user: UserToUpdate, db: DbSession
) -> User:
    """Another name, another address or both.

    A new address makes the links in all mails that were sent to reset the password
    useless.
    """
    address = user.email
    for name, value in changes.model_dump(exclude_none=True).items():
        setattr(user, name, value)
    await save_account(db, user, ends_reset_tokens=user.email != address)
    return user


@router.delete(
    "/{user_id}",
    summary="Delete one's own account",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=errors(NOT_TO_DELETE),
)
async def delete_user(user: UserToDelete, db: DbSession) -> None:
    """The account goes for good, with its posts, its picture and all its tokens."""
    await delete_posts_of(db, user)
    statement = delete(User).where(User.id == user.id).returning(User.image_file)
    deleted = (await db.execute(statement)).first()
    await db.commit()
    if deleted is None:
        raise INVALID_TOKEN.error()
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
    summary="List the posts of a user",
    response_model=PaginatedPostsResponse,
    responses=answers(TAG_HEADER, LINK_HEADER) | errors(USER_NOT_FOUND),
)
async def list_user_posts(
    request: Request,
    response: Response,
    user: FoundUser,
    window: QueriedWindow,
    db: DbSession,
) -> PostPage:
    """What one user has written, the newest first, part by part.

    To read on, follow `Link`, or repeat the request with `next_cursor` as `cursor`.
    """
    return await answer_page(request, response, db, window, user)


@router.patch(
    "/{user_id}/picture",
    summary="Set one's own picture",
    response_model=UserPrivateResponse,
    responses=errors(NOT_TO_DEPICT, file_too_large(), INVALID_IMAGE, UPLOAD_FAILED),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {
                            "file": {
                                "type": "string",
                                "format": "binary",
                                "description": "The file, "
                                f"{settings.max_upload_size_bytes:,} bytes at most.",
                            }
                        },
                    }
                }
            },
        }
    },
)
async def upload_picture(request: Request, user: UserToDepict, db: DbSession) -> User:
    """A picture from a JPEG, PNG, GIF or WebP file, in place of the one before.

    The middle of it is cut out as a square, brought to 300 x 300 pixels and stored as a
    JPEG without what cameras note in their files. Up to 50 megapixels for JPEG, 20 for
    the others.
    """
    # The connection goes back while the body arrives and the picture is made.
    await db.commit()
    content = await read_upload(request)
    try:
        picture, filename = await to_thread.run_sync(
            process_profile_image, content, limiter=decoders
        )
    except InvalidImage as error:
        raise INVALID_IMAGE.error() from error
    try:
        await run_in_threadpool(upload_profile_image, picture, filename)
    except StorageError as error:
        logger.error("Picture not stored: %s", error)
        # Nobody knows whether it was stored all the same.
        await discard_picture(filename)
        raise UPLOAD_FAILED.error() from error
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
            raise file_too_large().error()
        return await file.read()
    finally:
        await form.close()


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
        raise INVALID_TOKEN.error() from error


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
    summary="Delete one's own picture",
    response_model=UserPrivateResponse,
    responses=errors(NO_PICTURE, NOT_TO_STRIP),
)
async def delete_picture(user: UserToStrip, db: DbSession) -> User:
    """The picture goes; the default one takes its place."""
    replaced = await replace_picture(db, user, None)
    if replaced is None:
        raise NO_PICTURE.error()
    await discard_picture(replaced)
    return user


@router.post(
    "/forgot-password",
    summary="Ask for a link that allows a new password",
    response_model=MessageResponse,
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(TOO_MANY_ATTEMPTS),
)
async def forgot_password(
    forgotten: Annotated[ForgotPasswordRequest, FORGOTTEN],
    address: ClientAddress,
    db: BackgroundDbSession,
    background: BackgroundTasks,
) -> MessageResponse:
    """A mail with a link goes to the address, if it is that of an account.

    The answer does not tell whether it is. A new link makes the ones before it useless.
    """
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


@router.post(
    "/reset-password",
    summary="Set a new password with a token from the mail",
    response_model=MessageResponse,
    responses=errors(WRONG_RESET_TOKEN),
)
async def reset_password(
    reset: Annotated[ResetPasswordRequest, RESET], db: DbSession
) -> MessageResponse:
    """A new password for an account whose owner has forgotten the old one.

    The token works once; all sessions of the account end.
    """
    token_hash = hash_reset_token(reset.token)
    user = await db.scalar(User.with_reset_token(token_hash))
    # The connection goes back while the password is hashed.
    await db.commit()
    if user is None:
        raise WRONG_RESET_TOKEN.error()
    password_hash = await hashed(reset.new_password)
    await lock_user(db, user)
    # Whoever deletes the token has used it; it may have been somebody else by now.
    used = await db.scalar(
        delete(PasswordResetToken)
        .where(PasswordResetToken.token_hash == token_hash)
        .returning(PasswordResetToken.id)
    )
    if used is None:
        raise WRONG_RESET_TOKEN.error()
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
    summary="Change one's own password",
    response_model=PasswordChangedResponse,
    responses=errors(WRONG_PASSWORD),
)
async def change_password(
    change: Annotated[ChangePasswordRequest, CHANGED_PASSWORD],
    user: CurrentUser,
    db: DbSession,
) -> PasswordChangedResponse:
    """A new password. All sessions end, and this one gets a new token in the answer."""
    # The connection goes back while the passwords are hashed.
    await db.commit()
    verified_hash = user.password_hash
    if not await verified(change.current_password, user):
        raise WRONG_PASSWORD.error()
    password_hash = await hashed(change.new_password)
    await lock_user(db, user)
    # Another change came first: what was verified is no longer the password.
    if user.password_hash != verified_hash:
        raise WRONG_PASSWORD.error()
    await set_password(db, user, password_hash)
    return PasswordChangedResponse(
        message="Password changed successfully", access_token=access_token_for(user)
    )
