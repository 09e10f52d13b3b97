"""Add the format of posts: plain text or Markdown."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | Sequence[str] | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # With a constant default, PostgreSQL doesn't rewrite the table.
    op.add_column(
        "posts",
        sa.Column("format", sa.Text(), server_default="plain", nullable=False),
    )
    op.create_check_constraint("format", "posts", "format IN ('plain', 'markdown')")


def downgrade() -> None:
    op.drop_column("posts", "format")
