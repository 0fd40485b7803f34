"""The pause of all recorders, and numbers that tell how fast events are parked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="There is one at most"),
        sa.Column("who", sa.Text(), nullable=False, comment="CASELOG_OPERATOR, the system's user name, or breaker"),
        sa.Column(
            "since",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock",
        ),
        sa.Column("why", sa.Text(), nullable=False, comment="The reason that was given; no case data"),
        sa.Column(
            "deploy", sa.Text(), nullable=True, comment="The breaker's: fingerprint of the code; another one lifts it"
        ),
        sa.PrimaryKeyConstraint("one", name=op.f("pause_pkey")),
        sa.CheckConstraint("one", name="pause_one_check"),
        comment="While there is a row, no recorder consumes",
    )
    op.add_column(
        "parked",
        sa.Column("arrival", sa.BigInteger(), sa.Identity(), nullable=False, comment="Counts arrivals, for their rate"),
    )


def downgrade() -> None:
    op.drop_column("parked", "arrival")
    op.drop_table("pause")
