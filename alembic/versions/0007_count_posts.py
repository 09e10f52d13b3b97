"""Count posts with triggers, so that reading a total takes constant time."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

SQL = Path(__file__).parents[1] / "sql" / "0007_count_posts.sql"


def upgrade() -> None:
    op.create_table(
        "post_counts",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("posts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "shard", name="pk_post_counts"),
    )
    for statement in SQL.read_text(encoding="utf-8").split("\n\n"):
        op.execute(statement)
    op.execute("SELECT recount_posts()")


def downgrade() -> None:
    op.execute(
        "DROP FUNCTION count_posts, count_moved_post, delete_post_counts CASCADE"
    )
    op.execute("DROP FUNCTION recount_posts")
    op.drop_table("post_counts")
