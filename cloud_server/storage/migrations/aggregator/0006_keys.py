"""Devices renew their keys: which one they have, since when, and which they had before."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a table, and columns with the values of a device that has its first key."""
    op.create_table(
        "former_key",
        sa.Column("device", sa.String(), sa.ForeignKey("device.device"), primary_key=True),
        sa.Column("serial", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("identity_key", sa.LargeBinary(), nullable=False),
        sa.Column("until_s", sa.Float(), nullable=False),
        sa.Column("used_s", sa.Float(), nullable=False, server_default="0"),
    )
    op.add_column("device", sa.Column("serial", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("device", sa.Column("key_since_s", sa.Float(), nullable=False, server_default="0"))
