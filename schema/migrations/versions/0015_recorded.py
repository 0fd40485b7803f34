"""How many events each run of a recorder has stored: what a failover or a restore took is told by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recorded",
        sa.Column(
            "run", sa.Text(collation="C"), nullable=False, comment="A process that records, or a part of its life"
        ),
        sa.Column(
            "events",
            sa.BigInteger(),
            nullable=False,
            comment="Events that it has recorded, parked or made dead letters",
        ),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock at its newest batch",
        ),
        sa.PrimaryKeyConstraint("run", name="recorded_pkey"),
        comment="How many events were stored, by whom: compared with what Redis remembers of it (continuity)",
        postgresql_with={"fillfactor": 10},
    )


def downgrade() -> None:
    op.drop_table("recorded")
