"""API of the users: accounts, login, pictures, passwords."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, cast

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    Form,
    HTTPException,
    Path,
    Request,
    Response,
    status,
)
from sqlalchemy import CursorResult, delete, exists, select, true, update
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    SQLAlchemyError,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.exc import StaleDataError

import rate_limit
from auth import (
    INVALID_TOKEN,
    CurrentUser,
    access_token_for,
    check_password,
    generate_reset_token,
    hash_password_async,
    hash_reset_token,
    needs_rehash,
    unauthorized,
)
from config import settings
from database import (
    DEADLOCK_DETECTED,
    MAX_ID,
    BackgroundDbSession,
    DatabaseUnavailable,
    DbSession,
    sqlstate,
)
from email_utils import (
    AccountChange,
    send_notification,
    send_password_reset_email,
)
from models import PasswordResetToken, Post, User, utcnow
from problems import TOO_BUSY, Problem, errors
from rate_limit import ClientIP, RateLimit
from routers import pictures
from routers.documentation import answers
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
from workers import QueueFull

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/users", tags=["users"])

# Of the longest posts a statement deletes so many within a second.
DELETED_AT_ONCE = 1_000
MAIL_PAUSE_SECONDS = 0.25
chance = secrets.SystemRandom()

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
NO_PICTURE = Problem(400, "No profile picture to delete")

RESET_REQUESTED = (
    "If an account exists for this email address, a message with a reset link is on "
    "its way."
)


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
    responses=answers("Location", status=201)
    | errors(USERNAME_TAKEN, EMAIL_TAKEN, TOO_BUSY),
)
async def create_user(
    request: Request,
    response: Response,
    new: UserCreate,
    client_ip: ClientIP,
    db: DbSession,
) -> User:
    """A new account. No mail is sent; log in with the address and the password.

    Names and addresses are unique without regard to case. When both are taken, the name
    is reported.
    """
    limit = RateLimit(settings.rate_limit_sign_up_per_ip, ("sign-up", client_ip))
    async with rate_limit.attempt(limit) as keep_count:
        # Before the password is hashed, which costs far more. The index decides all the
        # same: others sign up meanwhile.
        await check_not_taken(db, new.username, new.email)
        await db.commit()
        user = User(
            username=new.username,
            email=new.email,
            password_hash=await hash_password_async(new.password),
        )
        db.add(user)
        await save_account(db, user)
        keep_count()
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
    user_id, username, address = user.id, user.username, user.email
    try:
        await db.flush()
        if ends_reset_tokens:
            await delete_reset_tokens(db, user)
        await db.commit()
    except StaleDataError as error:
        await db.rollback()
        raise INVALID_TOKEN.error() from error
    except DBAPIError as error:
        # Two who want each other's name at once wait for each other until one is told.
        is_deadlock = sqlstate(error) == DEADLOCK_DETECTED
        if not (is_deadlock or isinstance(error, IntegrityError)):
            raise
        await db.rollback()
        await check_not_taken(db, username, address, but=user_id)
        # Whoever had it has gone in between.
        raise EMAIL_TAKEN.error() from error


async def check_not_taken(
    db: AsyncSession, username: str, email: str, *, but: int | None = None
) -> None:
    """See to it that no account has a name or an address, but for one's own.

    Raises:
        HTTPException: 400, when one has.
    """
    others = User.id != but if but is not None else true()
    name_taken, address_taken = (
        await db.execute(
            select(
                User.with_username(username).where(others).exists(),
                User.with_email(email).where(others).exists(),
            )
        )
    ).one()
    if name_taken:
        raise USERNAME_TAKEN.error()
    if address_taken:
        raise EMAIL_TAKEN.error()


async def delete_reset_tokens(db: AsyncSession, user: User) -> None:
    """Make the links in all reset mails of a user useless."""
    await db.execute(
        delete(PasswordResetToken).where(PasswordResetToken.user_id == user.id)
    )


@router.post(
    "/token",
    summary="Log in",
    response_model=Token,
    responses=errors(WRONG_LOGIN, TOO_BUSY),
)
async def create_token(
    form: Annotated[LoginForm, Form()], client_ip: ClientIP, db: DbSession
) -> Token:
    """An access token for an email address (as `username`) and its password.

    The token ends after the time that the site's operator has set, and as soon as the
    password changes.
    """
    async with rate_limit.login_attempt(email_of(form), client_ip) as keep_count:
        user = await db.scalar(User.with_email(email_of(form)))
        # The connection goes back while the password is hashed.
        await db.commit()
        if not await check_password(form.password, user) or user is None:
            keep_count()
            raise WRONG_LOGIN.error()
    if needs_rehash(user.password_hash):
        await rehash(db, user, form.password)
    return Token(access_token=access_token_for(user))


async def rehash(db: AsyncSession, user: User, password: str) -> None:
    """Hash a password anew; its tokens stay, as it is the same."""
    try:
        password_hash = await hash_password_async(password)
    except QueueFull:
        # The next login will do as well.
        return
    statement = update(User).where(
        User.id == user.id, User.password_hash == user.password_hash
    )
    await db.execute(statement.values(password_hash=password_hash))
    await db.commit()


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
    responses=answers("ETag", "Link") | errors(NO_USERS),
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
    responses=answers("ETag") | errors(USER_NOT_FOUND),
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
    changes: UserUpdate,
    user: UserToUpdate,
    db: DbSession,
    background: BackgroundTasks,
) -> User:
    """Another name, another address or both.

    A new address makes the links in all mails that were sent to reset the password
    useless; a note about it goes to the old one.
    """
    username, address = user.username, user.email
    for name, value in changes.model_dump(exclude_none=True).items():
        setattr(user, name, value)
    is_moved = user.email != address
    await save_account(db, user, ends_reset_tokens=is_moved)
    if is_moved:
        background.add_task(
            send_note, "address_changed", to_email=address, username=username
        )
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
    if deleted is None:
        raise INVALID_TOKEN.error()
    if deleted.image_file is not None:
        pictures.schedule_deletion(db, deleted.image_file)
    await db.commit()
    await pictures.delete_stored(deleted.image_file)


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
    responses=answers("ETag", "Link") | errors(USER_NOT_FOUND, TOO_BUSY),
)
async def list_user_posts(
    request: Request,
    response: Response,
    # Before the user is looked up, which takes a connection: it may have to wait.
    window: QueriedWindow,
    user: FoundUser,
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
    responses=errors(
        NOT_TO_DEPICT,
        pictures.file_too_large(),
        pictures.INVALID_IMAGE,
        pictures.UPLOAD_FAILED,
        TOO_BUSY,
    ),
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
    limit = RateLimit(settings.rate_limit_uploads_per_user, ("upload", str(user.id)))
    await rate_limit.count(limit)
    picture, filename = await pictures.picture_from(request)
    await pictures.upload(db, picture, filename)
    try:
        replaced = await enter_picture(db, user, filename)
    except Exception:
        await pictures.delete_stored(filename)
        raise
    # When this fails, nobody knows whether it was done.
    await db.commit()
    await pictures.delete_stored(replaced)
    return user


async def enter_picture(
    db: AsyncSession, user: User, filename: str | None
) -> str | None:
    """Name a stored picture, or none, in the user's row; gives the one before it.

    Raises:
        HTTPException: 401, when the account has been deleted meanwhile.
    """
    await lock_user(db, user)
    replaced = user.image_file
    await pictures.replace_picture(db, user, filename)
    return replaced


async def lock_user(db: AsyncSession, user: User) -> None:
    """Read a user again, and keep all others from changing it until the commit.

    Raises:
        HTTPException: 401, when the account has been deleted meanwhile.
    """
    try:
        await db.refresh(user, with_for_update=True)
    except InvalidRequestError as error:
        raise INVALID_TOKEN.error() from error


@router.delete(
    "/{user_id}/picture",
    summary="Delete one's own picture",
    response_model=UserPrivateResponse,
    responses=errors(NO_PICTURE, NOT_TO_STRIP),
)
async def delete_picture(user: UserToStrip, db: DbSession) -> User:
    """The picture goes; the default one takes its place."""
    replaced = await enter_picture(db, user, None)
    await db.commit()
    if replaced is None:
        raise NO_PICTURE.error()
    await pictures.delete_stored(replaced)
    return user


@router.post(
    "/forgot-password",
    summary="Ask for a link that allows a new password",
    response_model=MessageResponse,
    status_code=status.HTTP_202_ACCEPTED,
)
async def forgot_password(
    forgotten: ForgotPasswordRequest,
    client_ip: ClientIP,
    db: BackgroundDbSession,
    background: BackgroundTasks,
) -> MessageResponse:
    """A mail with a link goes to the address, if it is that of an account.

    The answer does not tell whether it is. A new link makes the ones before it useless.
    """
    limit = RateLimit(settings.rate_limit_reset_per_ip, ("reset from", client_ip))
    await rate_limit.count(limit)
    user = await db.scalar(User.with_email(forgotten.email))
    await db.commit()
    if user is not None:
        # After the answer, which therefore takes as long as for an unknown address.
        background.add_task(send_reset_link, db, user, client_ip)
    return MessageResponse(message=RESET_REQUESTED)


async def send_reset_link(db: AsyncSession, user: User, client_ip: str) -> None:
    """Send an email with a new reset token, which replaces older ones.

    Trusted clients aren't limited: others can't use up the user's emails of a day.
    """
    # Whoever asks for something else at once would be answered later while a mail is
    # made, and so learn that there is an account. When it is made nobody can know.
    await asyncio.sleep(chance.uniform(0, MAIL_PAUSE_SECONDS))
    limit = RateLimit(settings.rate_limit_emails_per_account, ("reset", str(user.id)))
    try:
        if not await rate_limit.is_trusted_client(user.email, client_ip):
            await rate_limit.count(limit)
        token = await replace_reset_token(db, user)
    except HTTPException:
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
            expires_at=utcnow() + lifetime,
        )
    )
    await db.commit()
    return token


@router.post(
    "/reset-password",
    summary="Set a new password with a token from the mail",
    response_model=MessageResponse,
    responses=errors(WRONG_RESET_TOKEN, TOO_BUSY),
)
async def reset_password(
    reset: ResetPasswordRequest,
    client_ip: ClientIP,
    db: DbSession,
    background: BackgroundTasks,
) -> MessageResponse:
    """A new password for an account whose owner has forgotten the old one.

    The token works once; all sessions of the account end, and a note about it goes to
    the owner.
    """
    token_hash = hash_reset_token(reset.token)
    user = await db.scalar(User.with_reset_token(token_hash))
    # The connection goes back while the password is hashed.
    await db.commit()
    if user is None:
        raise WRONG_RESET_TOKEN.error()
    password_hash = await hash_password_async(reset.new_password)
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
    # This is the user, who can log in now, however many logins failed before.
    await rate_limit.trust_client(user.email, client_ip)
    await rate_limit.clear_failed_logins(user.email, client_ip)
    note_new_password(background, user)
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
    responses=errors(WRONG_PASSWORD, TOO_BUSY),
)
async def change_password(
    change: ChangePasswordRequest,
    user: CurrentUser,
    db: DbSession,
    background: BackgroundTasks,
) -> PasswordChangedResponse:
    """A new password. All sessions end, and this one gets a new token in the answer.

    A note about it goes to the owner.
    """
    # The connection goes back while the passwords are hashed.
    await db.commit()
    verified_hash = user.password_hash
    limit = RateLimit(settings.rate_limit_password_per_user, ("password", str(user.id)))
    async with rate_limit.attempt(limit) as keep_count:
        if not await check_password(change.current_password, user):
            keep_count()
            raise WRONG_PASSWORD.error()
    password_hash = await hash_password_async(change.new_password)
    await lock_user(db, user)
    # Another change came first: what was verified is no longer the password.
    if user.password_hash != verified_hash:
        raise WRONG_PASSWORD.error()
    await set_password(db, user, password_hash)
    note_new_password(background, user)
    return PasswordChangedResponse(
        message="Password changed successfully", access_token=access_token_for(user)
    )


def note_new_password(background: BackgroundTasks, user: User) -> None:
    """Tell the owner of an account, after the answer, that its password is new."""
    background.add_task(
        send_note,
        "password_changed",
        to_email=user.email,
        username=user.username,
    )


async def send_note(change: AccountChange, *, to_email: str, username: str) -> None:
    """Mail a note about an account, unless the address got as many as it may.

    It need not be that of whoever makes the changes: nobody is to be flooded with them.
    """
    limit = RateLimit(settings.rate_limit_emails_per_account, ("note", to_email))
    try:
        await rate_limit.count(limit)
    except rate_limit.RateLimitExceeded:
        return
    await send_notification(change, to_email=to_email, username=username)
