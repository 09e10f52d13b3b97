"""Index the words of posts for full-text search."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"

SQL = Path(__file__).parents[1] / "sql" / "0011_search.sql"


def upgrade() -> None:
    for statement in SQL.read_text(encoding="utf-8").split("\n\n"):
        op.execute(statement)
    # This rewrites the table, and blocks reads and writes of posts until it ends.
    op.add_column(
        "posts",
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("search_vector(title::text, content)", persisted=True),
            nullable=True,
        ),
    )
    op.create_index("ix_posts_search", "posts", ["search"], postgresql_using="gin")


def downgrade() -> None:
    op.drop_column("posts", "search")
    op.execute("DROP FUNCTION search_vector, fold_text")
