"""Add a column for the time of a post's last edit."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "posts", sa.Column("date_updated", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("posts", "date_updated")
