"""Reports of sums in order of their weeks and months, from indexes; and smaller numbers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SUMS = ("n1", "n2", "n3")
GROUPED = ("key", "code", "category", "provider", "organisation", "source")


def upgrade() -> None:
    _sums_are("integer")
    for period in ("week", "month"):
        op.create_index(
            f"report_sum_{period}_idx",
            "report_sum",
            ["report", sa.text(f"(date_trunc('{period}', day::timestamp)::date)"), *GROUPED],
        )


def downgrade() -> None:
    for period in ("week", "month"):
        op.drop_index(f"report_sum_{period}_idx", "report_sum")
    _sums_are("bigint")


def _sums_are(kind: str) -> None:
    """In one statement, so that the table is written once."""
    op.execute(f"alter table report_sum {', '.join(f'alter column {name} type {kind}' for name in SUMS)}")
