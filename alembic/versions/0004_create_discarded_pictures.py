"""Create the table for orphaned pictures."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


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
