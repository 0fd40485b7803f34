"""The audit of what people did by hand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when the action began",
        ),
        sa.Column("who", sa.Text(), nullable=False, comment="CASELOG_OPERATOR, or the operating system's user name"),
        sa.Column("action", sa.Text(), nullable=False, comment="What was done, such as dead.discard"),
        sa.Column("why", sa.Text(), nullable=True, comment="The reason that was given, if any"),
        sa.Column(
            "detail", postgresql.JSONB(), nullable=False, comment="Filters, ids, how many, outcome; no event's contents"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_pkey")),
        comment="What people did by hand: one row an action, never changed",
    )
    op.create_index(op.f("audit_at_idx"), "audit", ["at"])


def downgrade() -> None:
    op.drop_table("audit")
