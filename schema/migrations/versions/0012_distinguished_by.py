"""What tells two outcomes of a code apart, kept with its definition: their logs fold by it.

Of the definitions that were kept until now, none had it, which is what the default says.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "code_definition",
        sa.Column(
            "distinguished_by",
            postgresql.JSONB(),
            server_default=sa.text("'[]'"),
            nullable=False,
            comment="Context members that tell two of its outcomes on one day apart",
        ),
    )


def downgrade() -> None:
    op.drop_column("code_definition", "distinguished_by")
