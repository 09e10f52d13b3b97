"""Create the table for orphaned pictures."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "discarded_pictures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("delete_after", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_discarded_pictures"),
        sa.UniqueConstraint("filename", name="uq_discarded_pictures_filename"),
    )
    op.create_index(
        "ix_discarded_pictures_delete_after", "discarded_pictures", ["delete_after"]
    )


def downgrade() -> None:
    op.drop_table("discarded_pictures")
