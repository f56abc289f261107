"""The authority's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "a0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "certificate_log",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("issued_s", sa.Float(), nullable=False),
        sa.UniqueConstraint("device"),
    )
    op.create_table(
        "code",
        sa.Column("secret_sha256", sa.LargeBinary(), primary_key=True),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
        sa.Column("expires_s", sa.Float(), nullable=False),
        sa.Column("device", sa.String()),
        sa.Column("identity_key", sa.LargeBinary()),
        sa.Column("certificate", sa.LargeBinary()),
    )
    op.create_table(
        "seed_log",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("cohort", sa.String(), nullable=False),
        sa.Column("roster_root", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("drawn_s", sa.Float(), nullable=False),
        sa.UniqueConstraint("cohort"),
    )
