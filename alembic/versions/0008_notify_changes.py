"""Add triggers that notify the response caches of changes to public data."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"

SQL = Path(__file__).parents[1] / "sql" / "0008_notify_changes.sql"


def upgrade() -> None:
    for statement in SQL.read_text(encoding="utf-8").split("\n\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION notify_changed_posts, notify_change CASCADE")
