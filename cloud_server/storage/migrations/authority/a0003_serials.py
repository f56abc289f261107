"""A device may have several certificates, with a serial number each."""

import sqlalchemy as sa
from alembic import op

revision = "a0003"
down_revision = "a0002"


def upgrade() -> None:
    """Make the log anew, for SQLite cannot drop a constraint; certificates of before are each device's first."""
    op.rename_table("certificate_log", "certificate_log_before")
    op.create_table(
        "certificate_log",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("issued_s", sa.Float(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False, server_default="0"),
        sa.UniqueConstraint("device", "serial"),
    )
    columns = "number, device, body, issued_s"
    op.execute(f"INSERT INTO certificate_log ({columns}) SELECT {columns} FROM certificate_log_before")  # noqa: S608
    op.drop_table("certificate_log_before")
