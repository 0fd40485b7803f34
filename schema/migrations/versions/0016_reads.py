"""Reads in the audit: each once, and found by the case that was read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "audit",
        sa.Column("read_id", postgresql.UUID(), nullable=True, comment="Of a read alone: tells it from any other"),
    )
    op.create_index(op.f("audit_read_id_idx"), "audit", ["read_id"], unique=True)
    op.create_index(
        op.f("audit_detail_idx"),
        "audit",
        ["detail"],
        postgresql_using="gin",
        postgresql_ops={"detail": "jsonb_path_ops"},
    )
    op.create_table_comment(
        "audit",
        "What people did by hand: one row an action, never changed; and who read what of cases, kept for so long",
        existing_comment="What people did by hand: one row an action, never changed",
    )


def downgrade() -> None:
    op.create_table_comment(
        "audit",
        "What people did by hand: one row an action, never changed",
        existing_comment="What people did by hand: one row an action, never changed; and who read what of cases, kept "
        "for so long",
    )
    op.drop_index(op.f("audit_detail_idx"), "audit")
    op.drop_index(op.f("audit_read_id_idx"), "audit")
    op.drop_column("audit", "read_id")
