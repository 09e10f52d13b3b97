"""Let idempotency keys point to the post instead of storing the response."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("idempotency_keys", sa.Column("post_id", sa.Integer()))
    # A post that has been deleted since leaves its key without one. An empty answer is
    # no JSON, and CASE keeps PostgreSQL from reading it.
    op.execute(
        """
        UPDATE idempotency_keys SET post_id = posts.id FROM posts
        WHERE posts.id
            = CASE WHEN answer <> '' THEN (answer::json ->> 'id')::integer END
        """
    )
    op.create_foreign_key(
        "fk_idempotency_keys_post_id_posts",
        "idempotency_keys",
        "posts",
        ["post_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.create_index("ix_idempotency_keys_post_id", "idempotency_keys", ["post_id"])
    op.drop_column("idempotency_keys", "answer")


def downgrade() -> None:
    """Go back to the revision before."""
    # The responses cannot be restored; keys are kept for 24 hours only.
    op.execute("DELETE FROM idempotency_keys")
    op.add_column(
        "idempotency_keys",
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
    )
    # The constraint and the index go with their column.
    op.drop_column("idempotency_keys", "post_id")
