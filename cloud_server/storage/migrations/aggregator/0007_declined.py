"""Devices say in which round they do not take part; operators see it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add a column with the value of a device that declined nothing."""
    op.add_column("device", sa.Column("declined", sa.Integer(), nullable=False, server_default="0"))
