"""Add the format of posts: plain text or Markdown."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # With a constant default, PostgreSQL doesn't rewrite the table.
    op.add_column(
        "posts", sa.Column("format", sa.Text(), server_default="plain", nullable=False)
    )
    op.create_check_constraint("format", "posts", "format IN ('plain', 'markdown')")


def downgrade() -> None:
    op.drop_column("posts", "format")
