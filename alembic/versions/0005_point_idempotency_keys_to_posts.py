"""Make idempotency keys refer to posts instead of storing responses."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("post_id", sa.Integer()))
    # A key gets no post_id if its post has been deleted. CASE prevents PostgreSQL from
    # parsing an empty `answer`, which isn't valid JSON.
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
    # The responses can't be restored, and keys expire after 24 hours anyway.
    op.execute("DELETE FROM idempotency_keys")
    op.add_column(
        "idempotency_keys",
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
    )
    # Dropping the column also drops its constraint and index.
    op.drop_column("idempotency_keys", "post_id")
