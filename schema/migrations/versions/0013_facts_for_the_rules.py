"""Facts as the amended rules have them: what assignments were, and when a complaint has to be closed.

The allocation of cases to providers is counted from the assignments, which say by which code and in which category a
case was given, and whether operators were at work. A complaint is owed its closing, not a full response: the column
has another name, so that an aggregator of the version before, which computes callbacks by other rules, waits instead of
writing. What is stored is right once it is computed anew, which is noted (`outdated`): also in a database that was
taken back to before this, and then brought here again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

WHY = "the facts of assignments and complaints are other ones since 0013"
UNKNOWN = "; null where a version before 0013 wrote it"
NEW: tuple[tuple[str, sa.Text | sa.Boolean, str], ...] = (
    ("code", sa.Text(collation="C"), f"REFSP, MANALC, MANREF or SPOR{UNKNOWN}"),
    ("category", sa.Text(collation="C"), "The case's category at that log"),
    ("out_of_hours", sa.Boolean(), f"Operators were not at work then{UNKNOWN}"),
)
# Table, column, type, what it was said to be, what it is said to be.
COMMENTS = (
    (
        "callback",
        "next_outcome",
        sa.Text(collation="C"),
        "Of a CB1: code of the case's next outcome",
        "Of a CB1: code of the first contact",
    ),
    (
        "callback",
        "sla_15",
        sa.DateTime(timezone=True),
        "Of a CB1: 15 working minutes after callback_at, unless the event said otherwise",
        (
            "Of a CB1: 15 working minutes after callback_at, by SMS and voicemail after the case's creation, "
            "unless the event said otherwise"
        ),
    ),
    (
        "complaint",
        "closing_due_at",
        sa.DateTime(timezone=True),
        "15 working days after its creation",
        "When it is to be closed: 15 working days after its creation",
    ),
    (
        "report_sum",
        "category",
        sa.Text(collation="C"),
        "The case's category as folded at the log",
        "The case's category as folded at the log; its present one in reports that say so",
    ),
)


def upgrade() -> None:
    _replace("complaint", "full_response_due_at", "closing_due_at")
    for name, type_, said in NEW:
        op.add_column("assignment", sa.Column(name, type_, comment=said))
    for table, column, kind, before, after in COMMENTS:
        op.alter_column(table, column, existing_type=kind, comment=after, existing_comment=before)
    op.execute(
        sa.text(
            """
            insert into outdated (part, why)
            select 'reports', :why where exists (select 1 from log)
            on conflict do nothing
            """
        ).bindparams(why=WHY)
    )


def downgrade() -> None:
    for table, column, kind, before, after in COMMENTS:
        op.alter_column(table, column, existing_type=kind, comment=before, existing_comment=after)
    for name, _, _ in NEW:
        op.drop_column("assignment", name)
    _replace("complaint", "closing_due_at", "full_response_due_at")


def _replace(table: str, old: str, new: str) -> None:
    """Renamed, it would keep the old name in its constraint, where PostgreSQL names that."""
    op.add_column(table, sa.Column(new, sa.DateTime(timezone=True), comment="15 working days after its creation"))
    op.execute(f"update {table} set {new} = {old}")  # noqa: S608 - the names above
    op.alter_column(table, new, nullable=False)
    op.drop_column(table, old)
