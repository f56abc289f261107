"""Who is asked to train, what is known of devices for it, and how many come at each hour."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add two tables, and columns with the values of a device of which nothing is known."""
    op.create_table(
        "invitation",
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), primary_key=True),
        sa.Column("device", sa.String(), sa.ForeignKey("device.device"), primary_key=True),
        sa.Column("invited_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "arrival",
        sa.Column("hour", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("devices", sa.Float(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
    )
    for column in (
        sa.Column("code_group", sa.String(), nullable=False, server_default=""),
        sa.Column("memory_mib", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("contributions", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("last_contribution_s", sa.Float(), nullable=False, server_default="0"),
    ):
        op.add_column("device", column)
    op.add_column("round", sa.Column("invited", sa.Integer(), nullable=False, server_default="0"))
