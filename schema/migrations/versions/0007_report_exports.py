"""Reports exported in the background."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_export",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False, comment="Name of the report"),
        sa.Column(
            "parameters",
            postgresql.JSONB(),
            nullable=False,
            comment="Days, period, conditions, the moment of asking and the zone",
        ),
        sa.Column("format", sa.Text(), nullable=False, comment="jsonl, csv or parquet"),
        sa.Column(
            "target",
            sa.Text(),
            nullable=False,
            comment="Directory or URL that the file goes to; never holds credentials",
        ),
        sa.Column("who", sa.Text(), nullable=False, comment="Who asked: CASELOG_OPERATOR, or the system's user name"),
        sa.Column(
            "status",
            sa.Text(),
            nullable=False,
            comment="queued, running, done, failed, cancelled, deleted or expired",
        ),
        sa.Column(
            "requested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when it was asked for",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True, comment="When a worker first began it"),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was done, failed or was cancelled",
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="How often a worker began it"),
        sa.Column(
            "holder", sa.Text(), nullable=True, comment="Told anew at each beginning: only who knows it may go on"
        ),
        sa.Column(
            "held_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Nobody else takes it up or tidies up after it before; renewed while it runs",
        ),
        sa.Column("rows", sa.BigInteger(), server_default="0", nullable=False, comment="Rows written so far"),
        sa.Column("bytes", sa.BigInteger(), nullable=True, comment="Size of the file once it is done"),
        sa.Column(
            "failure",
            sa.Text(),
            nullable=True,
            comment="Why it failed, or why its file could not be removed, and the remedy",
        ),
        sa.Column(
            "removed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When nothing of it was left at the target; null: there is or may be a file",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("report_export_pkey")),
        comment="Reports exported in the background: one row an export, never deleted, what a lost message cannot lose",
    )
    op.create_index("report_export_left_idx", "report_export", ["id"], postgresql_where=sa.text("removed_at is null"))


def downgrade() -> None:
    op.drop_table("report_export")
