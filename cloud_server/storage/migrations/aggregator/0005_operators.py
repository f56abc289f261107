"""Operators' accounts, and indexes for the pages that list devices, rounds and charges."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add four tables and six indexes."""
    op.create_table(
        "operator",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "operator_session",
        sa.Column("secret_sha256", sa.LargeBinary(), primary_key=True),
        sa.Column("operator", sa.String(), sa.ForeignKey("operator.name"), nullable=False, index=True),
        sa.Column("form_token", sa.String(), nullable=False),
        sa.Column("began_s", sa.Float(), nullable=False),
        sa.Column("used_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "operator_token",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("operator", sa.String(), sa.ForeignKey("operator.name"), nullable=False, index=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
        sa.Column("expires_s", sa.Float(), nullable=False),
        sa.Column("revoked_s", sa.Float()),
    )
    op.create_table(
        "sign_in_attempt",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False, index=True),
    )
    op.create_index("device_by_state", "device", ["task", "state", "device"])
    op.create_index("device_by_group", "device", ["task", "code_group", "device"])
    op.create_index("device_by_task", "device", ["task", "device"])
    op.create_index("round_by_base", "round", ["task", "base_version"])
    op.create_index("cohort_by_round", "cohort", ["task", "round", "attempt"])
    op.create_index("privacy_event_by_time", "privacy_event", ["task", "charged_s"])
