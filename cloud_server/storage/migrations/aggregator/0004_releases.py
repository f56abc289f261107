"""What devices use, how it got there, and cohorts that evaluate."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add three tables and what tells evaluating cohorts; open invitations are forgotten, and made again."""
    op.drop_table("invitation")
    op.create_table(
        "invitation",
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), primary_key=True),
        sa.Column("purpose", sa.String(), primary_key=True, server_default="training"),
        sa.Column("device", sa.String(), sa.ForeignKey("device.device"), primary_key=True),
        sa.Column("invited_s", sa.Float(), nullable=False),
    )
    op.add_column("cohort", sa.Column("purpose", sa.String(), nullable=False, server_default="training"))
    op.add_column("cohort", sa.Column("baseline", sa.Integer()))
    op.create_table(
        "task_release",
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), primary_key=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("released", sa.Integer(), nullable=False),
        sa.Column("pinned", sa.Integer()),
        sa.Column("promotion", sa.Integer(), nullable=False),
        sa.Column("decision", sa.LargeBinary()),
        sa.Column("sequence", sa.Integer(), nullable=False),
    )
    op.create_table(
        "promotion",
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("candidate", sa.Integer(), nullable=False),
        sa.Column("baseline", sa.Integer(), nullable=False),
        sa.Column("rule", sa.LargeBinary(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("place_limit", sa.BigInteger(), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False),
        sa.Column("cohort", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("promoted_by", sa.String(), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
        sa.Column("ended_s", sa.Float()),
    )
    op.create_table(
        "evaluation",
        sa.Column("cohort", sa.String(), primary_key=True),
        sa.Column("task", sa.String(), sa.ForeignKey("task.name"), nullable=False),
        sa.Column("promotion", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Integer(), nullable=False),
        sa.Column("baseline", sa.Integer(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("passed", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("judged_s", sa.Float(), nullable=False),
    )
    op.create_index("ix_evaluation_task", "evaluation", ["task"])
