"""Reports of sums in order of their weeks and months, from indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PERIODS = {"week": "(day - mod(day - date '0001-01-01', 7))", "month": "(date_trunc('month', day::timestamp)::date)"}
GROUPED = ("key", "code", "category", "provider", "organisation", "source")


def upgrade() -> None:
    for name, period in PERIODS.items():
        op.create_index(f"report_sum_{name}_idx", "report_sum", ["report", sa.text(period), *GROUPED])


def downgrade() -> None:
    for name in PERIODS:
        op.drop_index(f"report_sum_{name}_idx", "report_sum")
