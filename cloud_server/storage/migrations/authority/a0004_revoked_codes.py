"""Codes can be revoked, and are listed newest first."""

import sqlalchemy as sa
from alembic import op

revision = "a0004"
down_revision = "a0003"


def upgrade() -> None:
    """Add the column; no code of before is revoked."""
    op.add_column("code", sa.Column("revoked_s", sa.Float()))
    op.create_index("code_by_time", "code", ["created_s", "secret_sha256"])
