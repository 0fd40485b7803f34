"""Thirteen reports: sums in one table, facts of cases in three, and one row a batch in the outbox.

What the reports held is computed anew: run `caselog rebuild reports` after this.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "assignment",
        sa.Column(
            "log_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="The log that assigned the case"
        ),
        sa.Column("case_reference", sa.Text(collation="C"), nullable=False, comment="The case"),
        sa.Column("provider", sa.Text(collation="C"), nullable=True, comment="The provider that was given the case"),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=False, comment="When"),
        sa.Column("viewed_at", sa.DateTime(timezone=True), nullable=True, comment="First viewed by the provider"),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True, comment="Accepted by the provider"),
        sa.Column("rejected_at", sa.DateTime(timezone=True), nullable=True, comment="Rejected by the provider"),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True, comment="Closed by the provider"),
        sa.PrimaryKeyConstraint("log_id", name=op.f("assignment_pkey")),
        comment="Cases' stays with providers (docs/rules.md §7), computed from each case's log by the aggregator",
    )
    op.create_index(op.f("assignment_assigned_at_idx"), "assignment", ["assigned_at"], unique=False)
    op.create_index(op.f("assignment_case_reference_idx"), "assignment", ["case_reference"], unique=False)
    op.create_table(
        "callback",
        sa.Column("log_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="The log that arranged it"),
        sa.Column("case_reference", sa.Text(collation="C"), nullable=False, comment="The case"),
        sa.Column("code", sa.Text(collation="C"), nullable=False, comment="CB1, CB2, CB3 or PCB"),
        sa.Column(
            "attempt",
            sa.Integer(),
            nullable=False,
            comment="The case's callbacks since the last reset, this one included",
        ),
        sa.Column("logged_at", sa.DateTime(timezone=True), nullable=False, comment="When it was arranged"),
        sa.Column(
            "callback_at", sa.DateTime(timezone=True), nullable=False, comment="When the client was promised a call"
        ),
        sa.Column("source", sa.Text(collation="C"), nullable=True, comment="The case's source at that log"),
        sa.Column("organisation", sa.Text(collation="C"), nullable=True, comment="The case's organisation at that log"),
        sa.Column(
            "first_contact_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Of a CB1: first later log by an operator that counts as contact",
        ),
        sa.Column(
            "next_outcome", sa.Text(collation="C"), nullable=True, comment="Of a CB1: code of the case's next outcome"
        ),
        sa.Column(
            "call_started_at", sa.DateTime(timezone=True), nullable=True, comment="Of a CB1: first later CALL_STARTED"
        ),
        sa.Column(
            "resolved_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Of a CB1: first later log with a code that settles it",
        ),
        sa.Column(
            "sla_15",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Of a CB1: 15 working minutes after callback_at, unless the event said otherwise",
        ),
        sa.Column("sla_30", sa.DateTime(timezone=True), nullable=True, comment="Likewise: 30 working minutes"),
        sa.Column("sla_120", sa.DateTime(timezone=True), nullable=True, comment="Likewise: 120 working minutes"),
        sa.Column("sla_480", sa.DateTime(timezone=True), nullable=True, comment="Likewise: 480 working minutes"),
        sa.Column("sla_72h", sa.DateTime(timezone=True), nullable=True, comment="Likewise: 4,320 working minutes"),
        sa.PrimaryKeyConstraint("log_id", name=op.f("callback_pkey")),
        comment="Callbacks of cases (docs/rules.md §7), computed from each case's log by the aggregator",
    )
    op.create_index(op.f("callback_callback_at_idx"), "callback", ["callback_at"], unique=False)
    op.create_index(op.f("callback_case_reference_idx"), "callback", ["case_reference"], unique=False)
    op.create_table(
        "complaint",
        sa.Column(
            "log_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="The log that first opened it"
        ),
        sa.Column("case_reference", sa.Text(collation="C"), nullable=False, comment="The case"),
        sa.Column(
            "complaint",
            sa.Text(collation="C"),
            nullable=True,
            comment="Its name; null: the case's one unnamed complaint",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="When it was created"),
        sa.Column("holding_letter_due_at", sa.DateTime(timezone=True), nullable=False, comment="1 working day later"),
        sa.Column(
            "full_response_due_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="15 working days after its creation",
        ),
        sa.Column("owner", sa.Text(collation="C"), nullable=True, comment="Who looks after it, as last set"),
        sa.Column(
            "holding_letter_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the first holding letter was sent",
        ),
        sa.Column(
            "full_response_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the first full response was sent",
        ),
        sa.Column(
            "closed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was closed or voided; null while it is open",
        ),
        sa.Column("voided", sa.Boolean(), nullable=False, comment="It was voided"),
        sa.PrimaryKeyConstraint("log_id", name=op.f("complaint_pkey")),
        comment="Complaints (docs/rules.md §7), computed from each case's log by the aggregator",
    )
    op.create_index(op.f("complaint_case_reference_idx"), "complaint", ["case_reference"], unique=False)
    op.create_index(op.f("complaint_created_at_idx"), "complaint", ["created_at"], unique=False)
    op.create_table(
        "report_sum",
        sa.Column("report", sa.Text(collation="C"), nullable=False, comment="Name of the report"),
        sa.Column(
            "day",
            sa.Date(),
            nullable=False,
            comment="Local day of the log, or first day of the month of its case's creation",
        ),
        sa.Column(
            "key",
            sa.Text(collation="C"),
            nullable=True,
            comment="Event key; this and the other dimensions are null where the report has them not",
        ),
        sa.Column("code", sa.Text(collation="C"), nullable=True, comment="Code"),
        sa.Column(
            "category", sa.Text(collation="C"), nullable=True, comment="The case's category as folded at the log"
        ),
        sa.Column(
            "provider", sa.Text(collation="C"), nullable=True, comment="The case's provider as folded at the log"
        ),
        sa.Column(
            "organisation",
            sa.Text(collation="C"),
            nullable=True,
            comment="The case's organisation as folded at the log",
        ),
        sa.Column("source", sa.Text(collation="C"), nullable=True, comment="The case's source as folded at the log"),
        sa.Column("operator", sa.Text(collation="C"), nullable=True, comment="The log's actor"),
        sa.Column(
            "n1", sa.BigInteger(), nullable=False, comment="The report's first sum; see caselog report --describe"
        ),
        sa.Column("n2", sa.BigInteger(), nullable=False, comment="Its second sum, or 0"),
        sa.Column("n3", sa.BigInteger(), nullable=False, comment="Its third sum, or 0"),
        sa.UniqueConstraint(
            "report",
            "day",
            "key",
            "code",
            "category",
            "provider",
            "organisation",
            "source",
            "operator",
            name="report_sum_row_key",
            postgresql_nulls_not_distinct=True,
        ),
        comment="The reports that are sums (docs/rules.md §7), fed by the aggregator; a row may have come to nothing",
        postgresql_with={"fillfactor": 70},
    )
    op.drop_table("report_outcomes")
    op.execute("delete from report_outbox")
    op.add_column(
        "log",
        sa.Column(
            "case_created_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Derived: when the case was created, as folded at this log",
        ),
    )
    op.create_index(
        "log_outcome_idx", "log", ["occurred_at"], unique=False, postgresql_where=sa.text("type = 'outcome'")
    )
    op.add_column(
        "report_outbox",
        sa.Column("deltas", sa.Integer(), nullable=False, comment="How many rows of sums and cases it holds"),
    )
    op.add_column(
        "report_outbox",
        sa.Column(
            "sums",
            sa.JSON(),
            nullable=False,
            comment="Rows of report_sum in the order of its columns; sums are to be added",
        ),
    )
    op.add_column(
        "report_outbox",
        sa.Column("cases", sa.ARRAY(sa.Text()), nullable=False, comment="Cases whose facts are to be computed anew"),
    )
    op.create_table_comment(
        "report_outbox",
        "What batches do to the reports and the aggregator has not added up yet: one row a batch",
        existing_comment="Report deltas that the recorder wrote and the aggregator has not added up yet",
        schema=None,
    )
    op.drop_column("report_outbox", "measures")
    op.drop_column("report_outbox", "dimensions")
    op.drop_column("report_outbox", "report")
    op.create_index(op.f("timer_stopped_at_idx"), "timer", ["stopped_at"], unique=False)
    # ### end Alembic commands ###
    op.execute(
        """
        update log set case_created_at = "case".created_at from "case"
        where "case".reference = log.case_reference
        """
    )


def downgrade() -> None:
    op.drop_index(op.f("timer_stopped_at_idx"), table_name="timer")
    op.add_column(
        "report_outbox",
        sa.Column(
            "report",
            sa.TEXT(),
            autoincrement=False,
            nullable=False,
            comment="Name of the report that the delta belongs to",
        ),
    )
    op.add_column(
        "report_outbox",
        sa.Column(
            "dimensions",
            postgresql.JSONB(astext_type=sa.Text()),
            autoincrement=False,
            nullable=False,
            comment="Which row of the report",
        ),
    )
    op.add_column(
        "report_outbox",
        sa.Column(
            "measures",
            postgresql.JSONB(astext_type=sa.Text()),
            autoincrement=False,
            nullable=False,
            comment="What to add to it; signed",
        ),
    )
    op.create_table_comment(
        "report_outbox",
        "Report deltas that the recorder wrote and the aggregator has not added up yet",
        existing_comment="What batches do to the reports and the aggregator has not added up yet: one row a batch",
        schema=None,
    )
    op.execute("delete from report_outbox")
    op.drop_column("report_outbox", "cases")
    op.drop_column("report_outbox", "sums")
    op.drop_column("report_outbox", "deltas")
    op.drop_index("log_outcome_idx", table_name="log", postgresql_where=sa.text("type = 'outcome'"))
    op.drop_column("log", "case_created_at")
    op.create_table(
        "report_outcomes",
        sa.Column("day", sa.DATE(), autoincrement=False, nullable=False, comment="Local day of the outcome"),
        sa.Column("key", sa.TEXT(), autoincrement=False, nullable=False, comment="Event key"),
        sa.Column("code", sa.TEXT(), autoincrement=False, nullable=False, comment="Outcome code"),
        sa.Column(
            "category",
            sa.TEXT(),
            autoincrement=False,
            nullable=True,
            comment="The case's category as folded at the log",
        ),
        sa.Column(
            "provider",
            sa.TEXT(),
            autoincrement=False,
            nullable=True,
            comment="The case's provider as folded at the log",
        ),
        sa.Column(
            "organisation",
            sa.TEXT(),
            autoincrement=False,
            nullable=True,
            comment="The case's organisation as folded at the log",
        ),
        sa.Column(
            "source", sa.TEXT(), autoincrement=False, nullable=True, comment="The case's source as folded at the log"
        ),
        sa.Column("outcomes", sa.BIGINT(), autoincrement=False, nullable=False, comment="Unsuppressed outcome logs"),
        sa.UniqueConstraint(
            "day",
            "key",
            "code",
            "category",
            "provider",
            "organisation",
            "source",
            name=op.f("report_outcomes_row_key"),
            postgresql_include=[],
            postgresql_nulls_not_distinct=True,
        ),
        comment="Report `outcomes` (docs/rules.md §7), fed by the aggregator",
    )
    op.drop_table("report_sum")
    op.drop_index(op.f("complaint_created_at_idx"), table_name="complaint")
    op.drop_index(op.f("complaint_case_reference_idx"), table_name="complaint")
    op.drop_table("complaint")
    op.drop_index(op.f("callback_case_reference_idx"), table_name="callback")
    op.drop_index(op.f("callback_callback_at_idx"), table_name="callback")
    op.drop_table("callback")
    op.drop_index(op.f("assignment_case_reference_idx"), table_name="assignment")
    op.drop_index(op.f("assignment_assigned_at_idx"), table_name="assignment")
    op.drop_table("assignment")
