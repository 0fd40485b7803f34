"""Suspects: events whose rules took too long or ended their process, remembered from one process to the next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "suspect",
        sa.Column("source", sa.Text(collation="C"), nullable=False, comment="CloudEvents source"),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False, comment="CloudEvents id"),
        sa.Column("too_long", sa.Integer(), nullable=False, comment="How often its rules took too long"),
        sa.Column(
            "endings", sa.Integer(), nullable=False, comment="How often a worker's process ended within its rules"
        ),
        sa.Column("why", sa.Text(), nullable=False, comment="What happened the last time; no case data"),
        sa.Column(
            "struck_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock the last time",
        ),
        sa.PrimaryKeyConstraint("source", "event_id", name="suspect_pkey"),
        comment="Events whose rules took too long or ended their process; in the end they are dead letters",
    )


def downgrade() -> None:
    op.drop_table("suspect")
