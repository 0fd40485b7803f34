"""The tables: the log, what is folded from it, and what could not be recorded.

One file, long as it is: what the database holds is read as a whole, and says of itself what each column means.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    DDL,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

# Order is by code points, as Python compares strings (docs/rules.md "Order"), whatever the database's locale.
Ordered: Final = Text(collation="C")
Moment: Final = DateTime(timezone=True)
# Per cent of a page that new rows fill. In the room that is left, updated rows keep their indexes' entries. A case is
# updated as often as it is new: with 70 its updates went to another page one time in six, and then to every index.
CASE_FILLFACTOR: Final = 50
SUM_FILLFACTOR: Final = 70
# A few rows that each batch updates.
COUNT_FILLFACTOR: Final = 10


# What `schema/operations/search.py` compares, on both sides: lower case, without dashes of any kind and without blanks.
SEARCH_KEY: Final = r"""
create function search_key(searched text) returns text immutable strict parallel safe
return lower(translate(searched, U&'-\2010\2011\2012\2013\2014\2212 \00A0\0009', ''))
"""
TRIGRAMS: Final = "create extension if not exists pg_trgm"
# Which dead letters have the same fault: the same reason, key and code, and the same message in its first line but for
# what it quotes and every word that holds a digit (an id, a time, a number). 16 hexadecimal digits.
FAULT_OF: Final = r"""
create function fault_of(reason text, key text, code text, message text) returns text immutable parallel safe
return lpad(to_hex(hashtextextended(
    reason || chr(31) || coalesce(key, '') || chr(31) || coalesce(code, '') || chr(31) || regexp_replace(
        regexp_replace(split_part(message, chr(10), 1), '(?<!\w)''[^'']*''|"[^"]*"', '?', 'g'),
        '\S*\d\S*', '#', 'g'
    ), 0)), 16, '0')
"""
for statement in (TRIGRAMS, SEARCH_KEY, FAULT_OF):
    event.listen(metadata, "before_create", DDL(statement))  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so


def _now(name: str, comment: str) -> Column[Any]:
    return Column(name, Moment, nullable=False, server_default=func.now(), comment=comment)


# Its name has the version of the rules: who knows other rules does not find it, and records nothing
# (docs/decisions/0107).
log_id: Final = Sequence("log_id_2_seq", metadata=metadata)

log: Final = Table(
    "log",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="Given by log_id_2_seq before the fold"),
    Column("source", Ordered, nullable=False, comment="CloudEvents source: the upstream app"),
    Column("event_id", Ordered, nullable=False, comment="CloudEvents id, unique within the source"),
    Column("key", Text, nullable=False, comment="Event key in the registry (CloudEvents type)"),
    Column("code", Text, nullable=False, comment="Code under that key, resolved once when recorded"),
    Column("type", Text, nullable=False, comment="outcome, system or event; copied from the code's definition"),
    Column("level", SmallInteger, nullable=False, comment="HIGH 29, MODERATE 21, MINOR 11; copied likewise"),
    Column("case_reference", Ordered, comment="The case; null for events about no case"),
    Column("actor", Ordered, comment="Who did it"),
    Column("role", Text, comment="The actor's role at that moment"),
    Column("actor_provider", Text, comment="The provider that the actor works for"),
    Column("notes", Text, nullable=False, server_default="", comment="Personal data: never in messages or logs"),
    Column("context", JSONB, nullable=False, server_default=text("'{}'"), comment="What rules and reports read"),
    Column("patch", JSONB, comment="Forwards and backwards JSON Patch (RFC 6902), as sent"),
    Column("extensions", JSONB, comment="CloudEvents attributes that have no column, such as traceparent"),
    Column("occurred_at", Moment, nullable=False, comment="The event's time"),
    _now("recorded_at", "The database's clock when the event was recorded"),
    Column("timer_id", BigInteger, comment="Derived: the actor's timer that ran"),
    Column("suppressed", Boolean, nullable=False, server_default=text("false"), comment="Derived: kept without effect"),
    Column("category", Text, comment="Derived: the case's category as folded at this log"),
    Column("provider", Text, comment="Derived: the case's provider as folded at this log"),
    Column("organisation", Text, comment="Derived: the case's organisation as folded at this log"),
    Column("case_source", Text, comment="Derived: the case's source as folded at this log"),
    Column("case_created_at", Moment, comment="Derived: when the case was created, as folded at this log"),
    UniqueConstraint("source", "event_id"),
    # The whole log of a case is read, never a part of it; and without the time its rows share an entry: a quarter of
    # the size.
    Index(None, "case_reference"),
    Index(None, "actor", "occurred_at"),
    Index("log_outcome_idx", "occurred_at", postgresql_where=text("type = 'outcome'")),
    comment="What happened: one row an event, never deleted; only derived columns are ever rewritten",
)

case: Final = Table(
    "case",
    metadata,
    Column("reference", Ordered, primary_key=True, comment="As upstream apps name the case"),
    Column("category", Text, comment="Category of law"),
    Column("source", Text, comment="PHONE, VOICEMAIL, SMS or WEB"),
    Column("organisation", Text, comment="Organisation that sent the client"),
    Column("outcome_code", Text, comment="Code of the latest unsuppressed outcome at level HIGH"),
    Column("outcome_code_id", BigInteger, comment="The log that set it"),
    Column("level", SmallInteger, comment="Level of that log"),
    Column("requires_action_by", Text, comment="Who has the next move; null: nobody"),
    Column("requires_action_at", Moment, comment="When the client is to be called back"),
    Column("callback_attempt", Integer, nullable=False, comment="Callbacks arranged since the last reset"),
    Column("provider", Text, comment="Specialist provider that has the case"),
    Column("provider_assigned_at", Moment, comment="When the provider got it"),
    Column("provider_viewed", Moment, comment="First viewed by the provider since the assignment"),
    Column("provider_accepted", Moment, comment="Accepted by the provider since the assignment"),
    Column("provider_closed", Moment, comment="Closed or rejected by the provider"),
    Column(
        "billable_time",
        BigInteger,
        nullable=False,
        comment="Seconds of its ended, not cancelled timers, each rounded up",
    ),
    Column("complaint_flag", Boolean, nullable=False, comment="A complaint is open, or the flag was set by hand"),
    Column("eligibility_state", Text, comment="State of the means test"),
    Column("scope_state", Text, comment="State of the diagnosis"),
    Column("from_case", Text, comment="The case that this one was split from"),
    Column("search_field", Text, nullable=False, comment="Reference without dashes and CASELOG_SEARCH_CONTEXT values"),
    Column("state", Text, nullable=False, comment="new, opened, accepted, rejected or completed"),
    Column("created_at", Moment, nullable=False, comment="Time of the event that created it"),
    _now("modified_at", "The database's clock when this row was last written"),
    Column("last_log_time", Moment, comment="Order key of the last log folded, its creation aside: time"),
    Column("last_log_source", Ordered, comment="Likewise: source"),
    Column("last_log_event_id", Ordered, comment="Likewise: id"),
    Column("memory", JSONB, nullable=False, server_default=text("'{}'"), comment="What else the fold remembers of it"),
    comment="Each case as folded from its log",
    postgresql_with={"fillfactor": CASE_FILLFACTOR},
)

_searched: Final = func.search_key(case.c.search_field).label("searched")
Index("case_search_prefix_idx", _searched, postgresql_ops={"searched": "text_pattern_ops"})
# New cases are listed in it, and merged once a second by the tasks; a recorder does so where 4 MB are listed.
Index("case_search_part_idx", _searched, postgresql_using="gin", postgresql_ops={"searched": "gin_trgm_ops"})

timer: Final = Table(
    "timer",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="The log that started it"),
    Column("actor", Ordered, nullable=False, comment="Whose time it is"),
    Column("started_at", Moment, nullable=False, comment="Time of the event that started it"),
    Column("stopped_at", Moment, comment="Time of the event that ended it; null while it runs"),
    Column("cancelled", Boolean, nullable=False, comment="Ended without being billed"),
    Column("case_reference", Ordered, comment="Case of its last log; the case that is billed once it has ended"),
    Index(None, "actor", "started_at"),
    Index("timer_running_idx", "actor", unique=True, postgresql_where=text("stopped_at is null")),
    Index(None, "stopped_at"),
    comment="Stretches of operators' billable time, as folded from the log",
)

dead_letter: Final = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("reason", Text, nullable=False, comment="One of the reasons in docs/dead-letters.md"),
    Column("message", Text, nullable=False, comment="What is wrong and how to mend it; no case data"),
    Column("source", Text, comment="CloudEvents source, where it could be read"),
    Column("event_id", Text, comment="CloudEvents id, where it could be read"),
    Column("key", Text, comment="Event key, where it could be read"),
    Column("code", Text, comment="Code given in the event, where there was one and it could be read"),
    Column("case_reference", Text, comment="Case, where it could be read"),
    _now("received_at", "The database's clock when it was set aside"),
    Column("attempts", Integer, nullable=False, comment="How often recording it was tried"),
    Column("raw", LargeBinary, nullable=False, comment="The event's bytes as the sender wrote them"),
    Column("fingerprint", LargeBinary, nullable=False, unique=True, comment="SHA-256 of raw: a redelivery adds no row"),
    Column(
        "fault",
        Text,
        Computed("fault_of(reason, key, code, message)", persisted=True),
        nullable=False,
        comment="Told by reason, key, code and message: the same fault has the same",
    ),
    Index(None, "received_at"),
    comment="Events that could not be recorded",
)

parked: Final = Table(
    "parked",
    metadata,
    Column("source", Ordered, primary_key=True, comment="CloudEvents source"),
    Column("event_id", Ordered, primary_key=True, comment="CloudEvents id"),
    Column("key", Text, nullable=False, comment="Event key"),
    Column("case_reference", Ordered, nullable=False, comment="The case that is not there yet"),
    Column("raw", LargeBinary, nullable=False, comment="The event's bytes as the sender wrote them"),
    Column("attempts", Integer, nullable=False, comment="How often recording it was tried"),
    _now("parked_at", "The database's clock when it was first parked"),
    Column("due_at", Moment, nullable=False, comment="When it is tried again; moved to now once its case is created"),
    Column("arrival", BigInteger, Identity(), nullable=False, comment="Counts arrivals, for their rate"),
    Index(None, "case_reference"),
    Index(None, "due_at"),
    comment="Events that wait for their case to be created",
)

suspect: Final = Table(
    "suspect",
    metadata,
    Column("source", Ordered, primary_key=True, comment="CloudEvents source"),
    Column("event_id", Ordered, primary_key=True, comment="CloudEvents id"),
    Column("too_long", Integer, nullable=False, comment="How often its rules took too long"),
    Column("endings", Integer, nullable=False, comment="How often a worker's process ended within its rules"),
    Column("why", Text, nullable=False, comment="What happened the last time; no case data"),
    _now("struck_at", "The database's clock the last time"),
    comment="Events whose rules took too long or ended their process; in the end they are dead letters",
)

recorded: Final = Table(
    "recorded",
    metadata,
    Column("run", Ordered, primary_key=True, comment="A process that records, or a part of its life"),
    Column("events", BigInteger, nullable=False, comment="Events that it has recorded, parked or made dead letters"),
    _now("changed_at", "The database's clock at its newest batch"),
    comment="How many events were stored, by whom: compared with what Redis remembers of it (continuity)",
    postgresql_with={"fillfactor": COUNT_FILLFACTOR},
)

report_outbox: Final = Table(
    "report_outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("deltas", Integer, nullable=False, comment="How many rows of sums and cases it holds"),
    Column(
        "sums", JSON, nullable=False, comment="Rows of report_sum in the order of its columns; sums are to be added"
    ),
    Column("case_references", ARRAY(Text), nullable=False, comment="Cases whose facts are to be computed anew"),
    _now("created_at", "The database's clock, for the lag"),
    comment="What batches do to the reports and the aggregator has not added up yet: one row a batch",
)

report_sum: Final = Table(
    "report_sum",
    metadata,
    Column("report", Ordered, nullable=False, comment="Name of the report"),
    Column(
        "day", Date, nullable=False, comment="Local day of the log, or first day of the month of its case's creation"
    ),
    Column("key", Ordered, comment="Event key; this and the other dimensions are null where the report has them not"),
    Column("code", Ordered, comment="Code"),
    Column(
        "category",
        Ordered,
        comment="The case's category as folded at the log; its present one in reports that say so",
    ),
    Column("provider", Ordered, comment="The case's provider as folded at the log"),
    Column("organisation", Ordered, comment="The case's organisation as folded at the log"),
    Column("source", Ordered, comment="The case's source as folded at the log"),
    Column("operator", Ordered, comment="The log's actor"),
    Column("n1", BigInteger, nullable=False, comment="The report's first sum; see caselog report --describe"),
    Column("n2", BigInteger, nullable=False, comment="Its second sum, or 0"),
    Column("n3", BigInteger, nullable=False, comment="Its third sum, or 0"),
    UniqueConstraint(
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
    # To group and sort three years of the widest report takes half a second; from an index, its weeks and months come
    # as they are to be read.
    *(
        Index(name, "report", text(f"({period})"), "key", "code", "category", "provider", "organisation", "source")
        for name, period in (
            ("report_sum_week_idx", "day - mod(day - '0001-01-01'::date, 7)"),
            ("report_sum_month_idx", "date_trunc('month', day::timestamp)::date"),
        )
    ),
    comment="The reports that are sums (docs/rules.md §7), fed by the aggregator; a row may have come to nothing",
    postgresql_with={"fillfactor": SUM_FILLFACTOR},
)

callback: Final = Table(
    "callback",
    metadata,
    Column("log_id", BigInteger, primary_key=True, autoincrement=False, comment="The log that arranged it"),
    Column("case_reference", Ordered, nullable=False, comment="The case"),
    Column("code", Ordered, nullable=False, comment="CB1, CB2, CB3 or PCB"),
    Column("attempt", Integer, nullable=False, comment="The case's callbacks since the last reset, this one included"),
    Column("logged_at", Moment, nullable=False, comment="When it was arranged"),
    Column("callback_at", Moment, nullable=False, comment="When the client was promised a call"),
    Column("source", Ordered, comment="The case's source at that log"),
    Column("organisation", Ordered, comment="The case's organisation at that log"),
    Column("first_contact_at", Moment, comment="Of a CB1: first later log by an operator that counts as contact"),
    Column("next_outcome", Ordered, comment="Of a CB1: code of the first contact"),
    Column("call_started_at", Moment, comment="Of a CB1: first later CALL_STARTED"),
    Column("resolved_at", Moment, comment="Of a CB1: first later log with a code that settles it"),
    Column(
        "sla_15",
        Moment,
        comment="Of a CB1: 15 working minutes after callback_at, by SMS and voicemail after the case's creation, "
        "unless the event said otherwise",
    ),
    Column("sla_30", Moment, comment="Likewise: 30 working minutes"),
    Column("sla_120", Moment, comment="Likewise: 120 working minutes"),
    Column("sla_480", Moment, comment="Likewise: 480 working minutes"),
    Column("sla_72h", Moment, comment="Likewise: 4,320 working minutes"),
    Index(None, "case_reference"),
    Index(None, "callback_at"),
    comment="Callbacks of cases (docs/rules.md §7), computed from each case's log by the aggregator",
)

complaint: Final = Table(
    "complaint",
    metadata,
    Column("log_id", BigInteger, primary_key=True, autoincrement=False, comment="The log that first opened it"),
    Column("case_reference", Ordered, nullable=False, comment="The case"),
    Column("complaint", Ordered, comment="Its name; null: the case's one unnamed complaint"),
    Column("created_at", Moment, nullable=False, comment="When it was created"),
    Column("holding_letter_due_at", Moment, nullable=False, comment="1 working day later"),
    Column(
        "closing_due_at",
        Moment,
        nullable=False,
        comment="When it is to be closed: 15 working days after its creation",
    ),
    Column("owner", Ordered, comment="Who looks after it, as last set"),
    Column("holding_letter_at", Moment, comment="When the first holding letter was sent"),
    Column("full_response_at", Moment, comment="When the first full response was sent"),
    Column("closed_at", Moment, comment="When it was closed or voided; null while it is open"),
    Column("voided", Boolean, nullable=False, comment="It was voided"),
    Index(None, "case_reference"),
    Index(None, "created_at"),
    comment="Complaints (docs/rules.md §7), computed from each case's log by the aggregator",
)

assignment: Final = Table(
    "assignment",
    metadata,
    Column("log_id", BigInteger, primary_key=True, autoincrement=False, comment="The log that assigned the case"),
    Column("case_reference", Ordered, nullable=False, comment="The case"),
    Column("code", Ordered, comment="REFSP, MANALC, MANREF or SPOR; null where a version before 0013 wrote it"),
    Column("category", Ordered, comment="The case's category at that log"),
    Column("provider", Ordered, comment="The provider that was given the case"),
    Column("assigned_at", Moment, nullable=False, comment="When"),
    Column(
        "out_of_hours",
        Boolean,
        comment="Operators were not at work then; null where a version before 0013 wrote it",
    ),
    Column("viewed_at", Moment, comment="First viewed by the provider"),
    Column("accepted_at", Moment, comment="Accepted by the provider"),
    Column("rejected_at", Moment, comment="Rejected by the provider"),
    Column("closed_at", Moment, comment="Closed by the provider"),
    Index(None, "case_reference"),
    Index(None, "assigned_at"),
    comment="Cases' stays with providers (docs/rules.md §7), computed from each case's log by the aggregator",
)

code_definition: Final = Table(
    "code_definition",
    metadata,
    Column("key", Text, primary_key=True, comment="Event key in the registry"),
    Column("code", Text, primary_key=True, comment="Code under that key"),
    Column("version", Integer, primary_key=True, autoincrement=False, comment="From 1; the highest is the current one"),
    Column("type", Text, nullable=False, comment="outcome, system or event"),
    Column("level", SmallInteger, nullable=False, comment="HIGH 29, MODERATE 21, MINOR 11"),
    Column("selectable_by", JSONB, nullable=False, comment="Roles that may choose it; empty: anyone"),
    Column("description", Text, nullable=False, comment="In words, for people"),
    Column("order", Integer, nullable=False, comment="Its place among the codes of its key"),
    Column("stops_timer", Boolean, nullable=False, comment="It stops the actor's timer"),
    Column("creates_case", Boolean, nullable=False, comment="It creates its case"),
    Column("starts_timer", Boolean, nullable=False, comment="It starts the actor's timer"),
    Column("cancels_timer", Boolean, nullable=False, comment="It cancels the actor's timer"),
    Column(
        "distinguished_by",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="Context members that tell two of its outcomes on one day apart",
    ),
    Column(
        "set_requires_action_by",
        JSONB(none_as_null=True),
        comment='{"set": value or null} or {"rule": name}; null: left alone',
    ),
    _now("first_seen", "The database's clock when an event was first recorded under this definition"),
    comment="What the codes of the log meant: a row is added when a definition changes, and none is deleted",
)

audit: Final = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _now("at", "The database's clock when the action began"),
    Column("who", Text, nullable=False, comment="CASELOG_OPERATOR, or the operating system's user name"),
    Column("action", Text, nullable=False, comment="What was done, such as dead.discard"),
    Column("why", Text, comment="The reason that was given, if any"),
    Column("detail", JSONB, nullable=False, comment="Filters, ids, how many, outcome; no event's contents"),
    Column("read_id", UUID, comment="Of a read alone: tells it from any other"),
    Index(None, "at"),
    Index(None, "read_id", unique=True),
    Index(None, "detail", postgresql_using="gin", postgresql_ops={"detail": "jsonb_path_ops"}),
    comment="What people did by hand: one row an action, never changed; and who read what of cases, kept for so long",
)

pause: Final = Table(
    "pause",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true"), comment="There is one at most"),
    Column("who", Text, nullable=False, comment="CASELOG_OPERATOR, the system's user name, or breaker"),
    _now("since", "The database's clock"),
    Column("why", Text, nullable=False, comment="The reason that was given; no case data"),
    Column("deploy", Text, comment="The breaker's: fingerprint of the code; another one lifts it"),
    CheckConstraint("one", name="pause_one_check"),
    comment="While there is a row, no recorder consumes",
)

report_export: Final = Table(
    "report_export",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("report", Text, nullable=False, comment="Name of the report"),
    Column("parameters", JSONB, nullable=False, comment="Days, period, conditions, the moment of asking and the zone"),
    Column("format", Text, nullable=False, comment="jsonl, csv or parquet"),
    Column("target", Text, nullable=False, comment="Directory or URL that the file goes to; never holds credentials"),
    Column("who", Text, nullable=False, comment="Who asked: CASELOG_OPERATOR, or the system's user name"),
    Column("status", Text, nullable=False, comment="queued, running, done, failed, cancelled, deleted or expired"),
    _now("requested_at", "The database's clock when it was asked for"),
    Column("started_at", Moment, comment="When a worker first began it"),
    Column("finished_at", Moment, comment="When it was done, failed or was cancelled"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="How often a worker began it"),
    Column("holder", Text, comment="Told anew at each beginning: only who knows it may go on"),
    Column("held_until", Moment, comment="Nobody else takes it up or tidies up after it before; renewed while it runs"),
    Column("rows", BigInteger, nullable=False, server_default="0", comment="Rows written so far"),
    Column("bytes", BigInteger, comment="Size of the file once it is done"),
    Column("failure", Text, comment="Why it failed, or why its file could not be removed, and the remedy"),
    Column("removed_at", Moment, comment="When nothing of it was left at the target; null: there is or may be a file"),
    # Only the few that somebody still has work with are looked for, every second.
    Index("report_export_left_idx", "id", postgresql_where=text("removed_at is null")),
    comment="Reports exported in the background: one row an export, never deleted, what a lost message cannot lose",
)

outdated: Final = Table(
    "outdated",
    metadata,
    Column("part", Text, primary_key=True, comment="timers, cases or reports"),
    Column("why", Text, nullable=False, comment="What has changed, in words"),
    _now("since", "When it was migrated"),
    comment="What rules that are no longer in force made, until `caselog rebuild` has written it anew",
)
