"""Compare usernames by NFKC_Casefold, with whitespace collapsed."""

import unicodedata
from collections.abc import Callable

import regex
import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

BATCH_SIZE = 10_000
CONSTRAINT = "uq_users_username_key"
IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")

users = sa.table(
    "users", sa.column("id"), sa.column("username"), sa.column("username_key")
)


def new_key(username: str) -> str:
    """Return what `unicode_text.caseless_key` returned at the time of this revision."""
    for _ in range(2):
        username = unicodedata.normalize("NFKC", username).casefold()
        username = IGNORABLE.sub("", username)
    return " ".join(unicodedata.normalize("NFKC", username).split())


def old_key(username: str) -> str:
    return unicodedata.normalize("NFC", username.casefold())


def upgrade() -> None:
    op.drop_constraint(CONSTRAINT, "users")
    op.alter_column("users", "username_key", type_=sa.String(900))
    replace_keys(new_key)
    # If several users have the same key, the oldest user keeps it. The others get a key
    # that starts with a newline, which no username can produce.
    op.execute(
        r"""
        UPDATE users SET username_key = E'\n' || users.id
        FROM users AS older
        WHERE older.username_key = users.username_key AND older.id < users.id
        """
    )
    op.create_unique_constraint(CONSTRAINT, "users", ["username_key"])


def downgrade() -> None:
    op.drop_constraint(CONSTRAINT, "users")
    replace_keys(old_key)
    op.alter_column("users", "username_key", type_=sa.String(150))
    op.create_unique_constraint(CONSTRAINT, "users", ["username_key"])


def replace_keys(key_of: Callable[[str], str]) -> None:
    # PostgreSQL can't compute the keys, so `--sql` only prints the schema changes.
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    batch = sa.select(users).order_by(users.c.id).limit(BATCH_SIZE)
    update = (
        sa.update(users)
        .where(users.c.id == sa.bindparam("user_id"))
        .values(username_key=sa.bindparam("key"))
    )
    last_id = 0
    while rows := connection.execute(batch.where(users.c.id > last_id)).all():
        last_id = rows[-1].id
        changed = [
            {"user_id": row.id, "key": key_of(row.username)}
            for row in rows
            if row.username_key != key_of(row.username)
        ]
        if changed:
            connection.execute(update, changed)
