"""Add a column for author bios, and notify the response caches of changes."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    # With a constant default, PostgreSQL doesn't rewrite the table.
    op.add_column(
        "users", sa.Column("bio", sa.String(160), server_default="", nullable=False)
    )
    trigger = SQL / "0012_notify_changed_bios.sql"
    op.execute(trigger.read_text(encoding="utf-8"))


def downgrade() -> None:
    op.execute("DROP TRIGGER notify_updated_user ON users")
    statements = (SQL / "0008_notify_changes.sql").read_text(encoding="utf-8")
    op.execute(statements.split("\n\n")[-1])
    op.drop_column("users", "bio")
