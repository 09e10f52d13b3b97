"""Add a column for the time of a post's last edit."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "posts", sa.Column("date_updated", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("posts", "date_updated")
