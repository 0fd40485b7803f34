"""The log, cases, timers, dead letters and the first report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("log_id_seq")))
    op.create_table(
        "case",
        sa.Column("reference", sa.Text(collation="C"), nullable=False, comment="As upstream apps name the case"),
        sa.Column("category", sa.Text(), nullable=True, comment="Category of law"),
        sa.Column("source", sa.Text(), nullable=True, comment="PHONE, VOICEMAIL, SMS or WEB"),
        sa.Column("organisation", sa.Text(), nullable=True, comment="Organisation that sent the client"),
        sa.Column(
            "outcome_code", sa.Text(), nullable=True, comment="Code of the latest unsuppressed outcome at level HIGH"
        ),
        sa.Column("outcome_code_id", sa.BigInteger(), nullable=True, comment="The log that set it"),
        sa.Column("level", sa.SmallInteger(), nullable=True, comment="Level of that log"),
        sa.Column("requires_action_by", sa.Text(), nullable=True, comment="Who has the next move; null: nobody"),
        sa.Column(
            "requires_action_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the client is to be called back",
        ),
        sa.Column("callback_attempt", sa.Integer(), nullable=False, comment="Callbacks arranged since the last reset"),
        sa.Column("provider", sa.Text(), nullable=True, comment="Specialist provider that has the case"),
        sa.Column(
            "provider_assigned_at", sa.DateTime(timezone=True), nullable=True, comment="When the provider got it"
        ),
        sa.Column(
            "provider_viewed",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="First viewed by the provider since the assignment",
        ),
        sa.Column(
            "provider_accepted",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Accepted by the provider since the assignment",
        ),
        sa.Column(
            "provider_closed", sa.DateTime(timezone=True), nullable=True, comment="Closed or rejected by the provider"
        ),
        sa.Column(
            "billable_time",
            sa.BigInteger(),
            nullable=False,
            comment="Seconds of its ended, not cancelled timers, each rounded up",
        ),
        sa.Column(
            "complaint_flag", sa.Boolean(), nullable=False, comment="A complaint is open, or the flag was set by hand"
        ),
        sa.Column("eligibility_state", sa.Text(), nullable=True, comment="State of the means test"),
        sa.Column("scope_state", sa.Text(), nullable=True, comment="State of the diagnosis"),
        sa.Column("from_case", sa.Text(), nullable=True, comment="The case that this one was split from"),
        sa.Column(
            "search_field",
            sa.Text(),
            nullable=False,
            comment="Reference without dashes and CASELOG_SEARCH_CONTEXT values",
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="new, opened, accepted, rejected or completed"),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, comment="Time of the event that created it"
        ),
        sa.Column(
            "modified_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when this row was last written",
        ),
        sa.Column(
            "last_log_time",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Order key of the last log folded, its creation aside: time",
        ),
        sa.Column("last_log_source", sa.Text(collation="C"), nullable=True, comment="Likewise: source"),
        sa.Column("last_log_event_id", sa.Text(collation="C"), nullable=True, comment="Likewise: id"),
        sa.Column(
            "memory",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="What else the fold remembers of it",
        ),
        sa.PrimaryKeyConstraint("reference", name=op.f("case_pkey")),
        comment="Each case as folded from its log",
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="One of the reasons in docs/dead-letters.md"),
        sa.Column("message", sa.Text(), nullable=False, comment="What is wrong and how to mend it; no case data"),
        sa.Column("source", sa.Text(), nullable=True, comment="CloudEvents source, where it could be read"),
        sa.Column("event_id", sa.Text(), nullable=True, comment="CloudEvents id, where it could be read"),
        sa.Column("key", sa.Text(), nullable=True, comment="Event key, where it could be read"),
        sa.Column("case_reference", sa.Text(), nullable=True, comment="Case, where it could be read"),
        sa.Column(
            "received_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when it was set aside",
        ),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="How often recording it was tried"),
        sa.Column("raw", sa.LargeBinary(), nullable=False, comment="The event's bytes as the sender wrote them"),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False, comment="SHA-256 of raw: a redelivery adds no row"),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letter_pkey")),
        sa.UniqueConstraint("fingerprint", name=op.f("dead_letter_fingerprint_key")),
        comment="Events that could not be recorded",
    )
    op.create_index(op.f("dead_letter_received_at_idx"), "dead_letter", ["received_at"], unique=False)
    op.create_table(
        "log",
        sa.Column(
            "id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Given by log_id_seq before the fold"
        ),
        sa.Column("source", sa.Text(collation="C"), nullable=False, comment="CloudEvents source: the upstream app"),
        sa.Column(
            "event_id", sa.Text(collation="C"), nullable=False, comment="CloudEvents id, unique within the source"
        ),
        sa.Column("key", sa.Text(), nullable=False, comment="Event key in the registry (CloudEvents type)"),
        sa.Column("code", sa.Text(), nullable=False, comment="Code under that key, resolved once when recorded"),
        sa.Column(
            "type", sa.Text(), nullable=False, comment="outcome, system or event; copied from the code's definition"
        ),
        sa.Column(
            "level", sa.SmallInteger(), nullable=False, comment="HIGH 29, MODERATE 21, MINOR 11; copied likewise"
        ),
        sa.Column(
            "case_reference", sa.Text(collation="C"), nullable=True, comment="The case; null for events about no case"
        ),
        sa.Column("actor", sa.Text(collation="C"), nullable=True, comment="Who did it"),
        sa.Column("role", sa.Text(), nullable=True, comment="The actor's role at that moment"),
        sa.Column("actor_provider", sa.Text(), nullable=True, comment="The provider that the actor works for"),
        sa.Column(
            "notes", sa.Text(), server_default="", nullable=False, comment="Personal data: never in messages or logs"
        ),
        sa.Column(
            "context",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="What rules and reports read",
        ),
        sa.Column(
            "patch",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Forwards and backwards JSON Patch (RFC 6902), as sent",
        ),
        sa.Column(
            "extensions",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="CloudEvents attributes that have no column, such as traceparent",
        ),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False, comment="The event's time"),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when the event was recorded",
        ),
        sa.Column("timer_id", sa.BigInteger(), nullable=True, comment="Derived: the actor's timer that ran"),
        sa.Column(
            "suppressed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Derived: kept without effect",
        ),
        sa.Column("category", sa.Text(), nullable=True, comment="Derived: the case's category as folded at this log"),
        sa.Column("provider", sa.Text(), nullable=True, comment="Derived: the case's provider as folded at this log"),
        sa.Column(
            "organisation", sa.Text(), nullable=True, comment="Derived: the case's organisation as folded at this log"
        ),
        sa.Column("case_source", sa.Text(), nullable=True, comment="Derived: the case's source as folded at this log"),
        sa.PrimaryKeyConstraint("id", name=op.f("log_pkey")),
        sa.UniqueConstraint("source", "event_id", name=op.f("log_source_event_id_key")),
        comment="What happened: one row an event, never deleted; only derived columns are ever rewritten",
    )
    op.create_index(op.f("log_actor_occurred_at_idx"), "log", ["actor", "occurred_at"], unique=False)
    op.create_index(op.f("log_case_reference_occurred_at_idx"), "log", ["case_reference", "occurred_at"], unique=False)
    op.create_table(
        "parked",
        sa.Column("source", sa.Text(collation="C"), nullable=False, comment="CloudEvents source"),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False, comment="CloudEvents id"),
        sa.Column("key", sa.Text(), nullable=False, comment="Event key"),
        sa.Column("case_reference", sa.Text(collation="C"), nullable=False, comment="The case that is not there yet"),
        sa.Column("raw", sa.LargeBinary(), nullable=False, comment="The event's bytes as the sender wrote them"),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="How often recording it was tried"),
        sa.Column(
            "parked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock when it was first parked",
        ),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it is tried again; moved to now once its case is created",
        ),
        sa.PrimaryKeyConstraint("source", "event_id", name=op.f("parked_pkey")),
        comment="Events that wait for their case to be created",
    )
    op.create_index(op.f("parked_case_reference_idx"), "parked", ["case_reference"], unique=False)
    op.create_index(op.f("parked_due_at_idx"), "parked", ["due_at"], unique=False)
    op.create_table(
        "report_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("report", sa.Text(), nullable=False, comment="Name of the report that the delta belongs to"),
        sa.Column(
            "dimensions", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Which row of the report"
        ),
        sa.Column(
            "measures", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="What to add to it; signed"
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="The database's clock, for the lag",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("report_outbox_pkey")),
        comment="Report deltas that the recorder wrote and the aggregator has not added up yet",
    )
    op.create_table(
        "report_outcomes",
        sa.Column("day", sa.Date(), nullable=False, comment="Local day of the outcome"),
        sa.Column("key", sa.Text(), nullable=False, comment="Event key"),
        sa.Column("code", sa.Text(), nullable=False, comment="Outcome code"),
        sa.Column("category", sa.Text(), nullable=True, comment="The case's category as folded at the log"),
        sa.Column("provider", sa.Text(), nullable=True, comment="The case's provider as folded at the log"),
        sa.Column("organisation", sa.Text(), nullable=True, comment="The case's organisation as folded at the log"),
        sa.Column("source", sa.Text(), nullable=True, comment="The case's source as folded at the log"),
        sa.Column("outcomes", sa.BigInteger(), nullable=False, comment="Unsuppressed outcome logs"),
        sa.UniqueConstraint(
            "day",
            "key",
            "code",
            "category",
            "provider",
            "organisation",
            "source",
            name="report_outcomes_row_key",
            postgresql_nulls_not_distinct=True,
        ),
        comment="Report `outcomes` (docs/rules.md §7), fed by the aggregator",
    )
    op.create_table(
        "timer",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="The log that started it"),
        sa.Column("actor", sa.Text(collation="C"), nullable=False, comment="Whose time it is"),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), nullable=False, comment="Time of the event that started it"
        ),
        sa.Column(
            "stopped_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Time of the event that ended it; null while it runs",
        ),
        sa.Column("cancelled", sa.Boolean(), nullable=False, comment="Ended without being billed"),
        sa.Column(
            "case_reference",
            sa.Text(collation="C"),
            nullable=True,
            comment="Case of its last log; the case that is billed once it has ended",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("timer_pkey")),
        comment="Stretches of operators' billable time, as folded from the log",
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(op.f("timer_actor_started_at_idx"), "timer", ["actor", "started_at"], unique=False)
    op.create_index(op.f("timer_case_reference_idx"), "timer", ["case_reference"], unique=False)
    op.create_index(
        "timer_running_idx", "timer", ["actor"], unique=True, postgresql_where=sa.text("stopped_at is null")
    )


def downgrade() -> None:
    op.drop_index("timer_running_idx", table_name="timer", postgresql_where=sa.text("stopped_at is null"))
    op.drop_index(op.f("timer_case_reference_idx"), table_name="timer")
    op.drop_index(op.f("timer_actor_started_at_idx"), table_name="timer")
    op.drop_table("timer")
    op.drop_table("report_outcomes")
    op.drop_table("report_outbox")
    op.drop_index(op.f("parked_due_at_idx"), table_name="parked")
    op.drop_index(op.f("parked_case_reference_idx"), table_name="parked")
    op.drop_table("parked")
    op.drop_index(op.f("log_case_reference_occurred_at_idx"), table_name="log")
    op.drop_index(op.f("log_actor_occurred_at_idx"), table_name="log")
    op.drop_table("log")
    op.drop_index(op.f("dead_letter_received_at_idx"), table_name="dead_letter")
    op.drop_table("dead_letter")
    op.drop_table("case")
    op.execute(sa.schema.DropSequence(sa.Sequence("log_id_seq")))
