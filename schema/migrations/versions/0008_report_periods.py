"""Reports of sums in order of their weeks and months, from indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

GROUPED = ("key", "code", "category", "provider", "organisation", "source")


def upgrade() -> None:
    for period in ("week", "month"):
        op.create_index(
            f"report_sum_{period}_idx",
            "report_sum",
            ["report", sa.text(f"(date_trunc('{period}', day::timestamp)::date)"), *GROUPED],
        )


def downgrade() -> None:
    for period in ("week", "month"):
        op.drop_index(f"report_sum_{period}_idx", "report_sum")
