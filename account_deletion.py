"""Delete accounts and posts, in batches if there are many posts."""

from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

import orphaned_pictures
from models import Post, User

# Deleting this many posts takes about 0.1 seconds.
BATCH_SIZE = 5_000


async def delete_account(db: AsyncSession, user_id: int) -> bool:
    """Delete a user and all their data. Return False if the user doesn't exist."""
    await delete_posts_of(db, user_id)
    statement = delete(User).where(User.id == user_id).returning(User.image_file)
    deleted = (await db.execute(statement)).first()
    if deleted is None:
        return False
    if deleted.image_file is not None:
        orphaned_pictures.schedule_deletion(db, deleted.image_file)
    await db.commit()
    if deleted.image_file is not None:
        await orphaned_pictures.delete_now(deleted.image_file)
    return True


async def delete_posts_of(
    db: AsyncSession, user_id: int, *, since: datetime | None = None
) -> int:
    """Delete a user's posts in batches, and leave the last batch uncommitted.

    If there are many posts, a cascade would exceed the statement timeout. With `since`,
    older posts are kept. Returns the number of deleted posts.
    """
    posts = select(Post.date_posted, Post.id).where(Post.user_id == user_id)
    if since is not None:
        posts = posts.where(Post.date_posted >= since)
    posts = posts.order_by(Post.date_posted.desc(), Post.id.desc()).limit(BATCH_SIZE)
    remaining: ColumnElement[bool] = true()
    total = 0
    while True:
        chosen = posts.where(remaining).cte("chosen")
        deleted = delete(Post).where(Post.id.in_(select(chosen.c.id))).cte("deleted")
        oldest = select(chosen, func.count().over()).add_cte(deleted)
        oldest = oldest.order_by(chosen.c.date_posted, chosen.c.id).limit(1)
        row = (await db.execute(oldest)).first()
        if row is None:
            return total
        date_posted, post_id, count = row
        total += int(count)
        if count < BATCH_SIZE:
            return total
        await db.commit()
        # Otherwise, each batch would read the index entries of all deleted posts again.
        remaining = tuple_(Post.date_posted, Post.id) < tuple_(date_posted, post_id)
