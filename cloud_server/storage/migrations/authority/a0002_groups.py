"""Codes have groups."""

import sqlalchemy as sa
from alembic import op

revision = "a0002"
down_revision = "a0001"


def upgrade() -> None:
    """Add the column; codes of before have none."""
    op.add_column("code", sa.Column("code_group", sa.String(), nullable=False, server_default=""))
