"""Partial sums, the audit log, and what is known of devices that must not go on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two tables, and columns with the values of a device that did nothing wrong."""
    op.create_table(
        "partial_sum",
        sa.Column("cohort", sa.String(), sa.ForeignKey("cohort.id"), primary_key=True),
        sa.Column("members", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
    )
    for column in (
        sa.Column("state", sa.String(), nullable=False, server_default="active"),
        sa.Column("state_reason", sa.String(), nullable=False, server_default=""),
        sa.Column("behind", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("behind_counter", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("vectors", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("last_vector_s", sa.Float(), nullable=False, server_default="0"),
    ):
        op.add_column("device", column)
