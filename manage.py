"""Commands for operators: `python manage.py --help`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from fastapi import HTTPException
from pydantic import ValidationError
from sqlalchemy import Row, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

import orphaned_pictures
from account_deletion import delete_account, delete_posts_of
from auth import hash_password
from database import DATABASE_ERRORS, MAX_ID, command_session, error_cause
from image_utils import delete_profile_image
from logs import configure_logging
from models import PasswordResetToken, Post, User
from routers.users import commit_user
from schemas import UserCreate
from storage import StorageError

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False)

UserArgument = Annotated[str, typer.Argument(help="The id or email address of a user.")]
Since = Annotated[datetime | None, typer.Option(help="Start of the period, in UTC.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")]


@app.callback()
def describe() -> None:
    """Manage the blog's users, posts and pictures."""
    configure_logging()


def run(operation: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
    """Call a function with a session, and commit; print expected errors."""
    try:
        return asyncio.run(_run(operation))
    except DATABASE_ERRORS as error:
        fail(f"Database unavailable: {error_cause(error)}")
    except HTTPException as error:
        fail(str(error.detail))
    except StorageError as error:
        fail(f"Storage unavailable: {error}")


async def _run(operation: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
    async with command_session() as db:
        result = await operation(db)
        await db.commit()
        return result


def fail(message: str) -> NoReturn:
    """Print an error and exit with status 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)


def confirm(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True)


async def find_user(name: str, db: AsyncSession) -> User:
    """Return the user with an id or email address, or exit with an error."""
    by_id = name.isdecimal() and int(name) <= MAX_ID
    user = await db.scalar(
        select(User).where(User.id == int(name))
        if by_id
        else User.with_email(name.lower())
    )
    if user is None:
        fail(f"There is no user {name}")
    return user


def describe_user(user: User) -> str:
    state = "active" if user.is_active else "deactivated"
    return f"{user.id}\t{user.email}\t{user.username}\t{state}"


# Users


@app.command()
def create_user(
    username: str,
    email: str,
    password: Annotated[
        str,
        typer.Option(
            prompt=True, hide_input=True, confirmation_prompt=True, envvar="PASSWORD"
        ),
    ],
) -> None:
    """Create a user, even if registration is closed."""
    try:
        user_in = UserCreate(username=username, email=email, password=password)
    except ValidationError as error:
        fail("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors()))

    async def create(db: AsyncSession) -> User:
        user = User(
            username=user_in.username,
            email=user_in.email,
            password_hash=hash_password(user_in.password),
        )
        db.add(user)
        await commit_user(db, user)
        return user

    logger.info("User %d created", run(create).id)


@app.command()
def list_users(skip: int = 0, limit: int = 100) -> None:
    """List users by id, with their email address, username and state."""
    statement = select(User).order_by(User.id).offset(skip).limit(limit)

    async def fetch(db: AsyncSession) -> Sequence[User]:
        return (await db.scalars(statement)).all()

    for user in run(fetch):
        typer.echo(describe_user(user))


@app.command()
def show_user(user: UserArgument) -> None:
    """Show a user, and how many posts they have."""

    async def fetch(db: AsyncSession) -> tuple[User, int]:
        found = await find_user(user, db)
        posts = select(func.count()).where(Post.user_id == found.id)
        return found, await db.scalar(posts) or 0

    found, posts = run(fetch)
    typer.echo(f"{describe_user(found)}\t{posts} posts")


@app.command()
def deactivate_user(user: UserArgument, *, yes: Yes = False) -> None:
    """Log out a user and prevent further logins. Their posts stay."""
    confirm(f"Deactivate user {user}?", yes=yes)

    async def deactivate(db: AsyncSession) -> int:
        found = await find_user(user, db)
        found.is_active = False
        # Earlier tokens must not work again if the user is reactivated.
        found.token_version += 1
        await db.execute(PasswordResetToken.deletion_for(found.id))
        return found.id

    logger.info("User %d deactivated", run(deactivate))


@app.command()
def reactivate_user(user: UserArgument) -> None:
    """Let a deactivated user log in again."""

    async def reactivate(db: AsyncSession) -> int:
        found = await find_user(user, db)
        found.is_active = True
        return found.id

    logger.info("User %d reactivated", run(reactivate))


@app.command()
def delete_user(user: UserArgument, *, yes: Yes = False) -> None:
    """Permanently delete a user, with their posts, picture and tokens."""
    confirm(f"Permanently delete user {user} and everything they own?", yes=yes)

    async def delete_found(db: AsyncSession) -> int:
        found = await find_user(user, db)
        await delete_account(db, found.id)
        return found.id

    logger.info("User %d deleted", run(delete_found))


@app.command()
def log_out_user(user: UserArgument) -> None:
    """Revoke all of a user's access tokens."""

    async def revoke(db: AsyncSession) -> int:
        found = await find_user(user, db)
        found.token_version += 1
        return found.id

    logger.info("User %d logged out", run(revoke))


@app.command()
def log_out_everyone(*, yes: Yes = False) -> None:
    """Revoke all access tokens of all users."""
    confirm("Log out all users?", yes=yes)

    async def revoke(db: AsyncSession) -> None:
        await db.execute(update(User).values(token_version=User.token_version + 1))

    run(revoke)
    logger.info("All users logged out")


# Posts


@app.command()
def delete_post(post_id: int, *, yes: Yes = False) -> None:
    """Permanently delete a post."""
    confirm(f"Permanently delete post {post_id}?", yes=yes)

    async def delete_found(db: AsyncSession) -> int | None:
        statement = delete(Post).where(Post.id == post_id).returning(Post.user_id)
        return await db.scalar(statement)

    author_id = run(delete_found)
    if author_id is None:
        fail(f"There is no post {post_id}")
    logger.info("Post %d of user %d deleted", post_id, author_id)


@app.command()
def delete_posts(user: UserArgument, *, since: Since = None, yes: Yes = False) -> None:
    """Permanently delete a user's posts, or only those published since a given time."""
    period = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
    confirm(f"Permanently delete all posts of user {user}{period}?", yes=yes)
    start = since.replace(tzinfo=UTC) if since else None

    async def delete_found(db: AsyncSession) -> tuple[int, int]:
        found = await find_user(user, db)
        return found.id, await delete_posts_of(db, found.id, since=start)

    user_id, count = run(delete_found)
    logger.info("%d posts of user %d deleted", count, user_id)


@app.command()
def recount() -> None:
    """Recount all posts, and correct the totals that are wrong.

    Triggers keep the totals up to date, so they are only wrong if a trigger was
    disabled.
    """
    statement = text("SELECT author_id, stored, counted FROM recount_posts()")

    async def correct(db: AsyncSession) -> Sequence[Row[*tuple[Any, ...]]]:
        return (await db.execute(statement)).all()

    corrected = run(correct)
    for user_id, stored, counted in corrected:
        scope = f"user {user_id}" if user_id else "the site"
        typer.echo(f"Posts of {scope}: {stored}, corrected to {counted}")
    typer.echo(f"Corrected totals: {len(corrected)}")


# Pictures


@app.command()
def remove_orphaned_pictures(*, yes: Yes = False) -> None:
    """Delete stored pictures that no user has and that are older than an hour."""
    run(orphaned_pictures.delete_orphans)
    unused, total = run(orphaned_pictures.find_unused)
    if unused:
        question = f"Permanently delete {len(unused)} of {total} stored pictures?"
        confirm(question, yes=yes)

    async def delete_unused(_db: AsyncSession) -> None:
        for filename in unused:
            delete_profile_image(filename)

    run(delete_unused)
    logger.info("%d orphaned pictures deleted", len(unused))


if __name__ == "__main__":
    app()
