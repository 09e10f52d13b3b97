"""Commands for operators: `python manage.py --help`."""

import asyncio
from collections.abc import Sequence
from typing import Any

import typer

from database import DatabaseUnavailable, connect, dispose_engine

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def describe() -> None:
    """Manage the blog's database."""


@app.command()
def recount() -> None:
    """Recount all posts, and correct the totals that are wrong.

    Triggers keep the totals up to date, so they are only wrong if a trigger was
    disabled.
    """
    try:
        corrected = asyncio.run(recount_posts())
    except DatabaseUnavailable as error:
        typer.echo(f"Database unavailable: {error}", err=True)
        raise typer.Exit(1) from None
    for user_id, stored, counted in corrected:
        scope = f"user {user_id}" if user_id else "the site"
        typer.echo(f"Posts of {scope}: {stored}, corrected to {counted}")
    typer.echo(f"Corrected totals: {len(corrected)}")


async def recount_posts() -> Sequence[Sequence[Any]]:
    connection = await connect(for_requests=False)
    try:
        rows: Sequence[Sequence[Any]] = await connection.fetch(
            "SELECT author_id, stored, counted FROM recount_posts()"
        )
        return rows
    finally:
        await connection.close()
        await dispose_engine()


if __name__ == "__main__":
    app()
