"""The aggregator's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "device",
        sa.Column("device", sa.String(), primary_key=True),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("identity_key", sa.LargeBinary(), nullable=False),
        sa.Column("enrolled_s", sa.Float(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("last_request", sa.String(), nullable=False),
        sa.Column("last_seen_s", sa.Float(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("expires_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.String(), nullable=False),
    )
    op.create_table(
        "task",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "cohort",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), nullable=False, index=True),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("base_version", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False),
        sa.Column("expires_at_s", sa.Integer(), nullable=False),
        sa.Column("roster", sa.LargeBinary()),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("sharers", sa.LargeBinary()),
        sa.Column("survivors", sa.LargeBinary()),
        sa.Column("failure", sa.String(), nullable=False),
    )
    op.create_table(
        "round",
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("base_version", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("opened_s", sa.Float(), nullable=False),
        sa.Column("closed_s", sa.Float()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("result", sa.LargeBinary()),
    )
    op.create_table(
        "version",
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("release", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("model_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("master_sha256", sa.String(), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "box",
        sa.Column("cohort", sa.String(), sa.ForeignKey("cohort.id"), primary_key=True),
        sa.Column("receiver", sa.Integer(), primary_key=True),
        sa.Column("sender", sa.Integer(), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "commitment",
        sa.Column("cohort", sa.String(), sa.ForeignKey("cohort.id"), primary_key=True),
        sa.Column("member", sa.Integer(), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "privacy_event",
        sa.Column("cohort", sa.String(), sa.ForeignKey("cohort.id"), primary_key=True),
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), nullable=False, index=True),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("survivors", sa.Integer(), nullable=False),
        sa.Column("loss", sa.LargeBinary(), nullable=False),
        sa.Column("charged_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "step",
        sa.Column("cohort", sa.String(), sa.ForeignKey("cohort.id"), primary_key=True),
        sa.Column("device", sa.String(), sa.ForeignKey("device.device"), primary_key=True),
        sa.Column("step", sa.String(), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received_s", sa.Float(), nullable=False),
    )
