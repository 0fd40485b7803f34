"""Where a proof is kept: a session of PostgreSQL with temporary tables of what differs from the log.

They are the new version of the projections, told by where it is not the old one. They vanish with the session,
however it ends: a proof that is interrupted has changed nothing and leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import psycopg
from psycopg import IsolationLevel
from psycopg.types.json import Jsonb, set_json_loads

from caselog.events.errors import CaselogError
from caselog.events.model.codes import Code
from caselog.events.model.state import CaseState
from caselog.schema.reports.facts import KINDS
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.leaving import session_words, without_limits
from caselog.schema.sql import arrays, tables
from caselog.schema.verification.findings import Finding

Session: TypeAlias = psycopg.Connection[tuple[Any, ...]]

FLAGS: Final = ("suppressed", "category", "provider", "organisation", "case_source", "case_created_at")
TIMER: Final = tuple(str(column.name) for column in tables.timer.columns)
CASE_PLAIN: Final = tuple(str(c.name) for c in tables.case.columns if c.name in CaseState.__struct_fields__)
CASE: Final = (*CASE_PLAIN, "state", "last_log_time", "last_log_source", "last_log_event_id", "memory")

_TABLES: Final = f"""
    create temp table proof_timer as select {arrays.names(TIMER)}, false as gone from timer limit 0;
    create temp table proof_link as select id as log_id, timer_id from log limit 0;
    create temp table proof_case as select {arrays.names(CASE)}, false as gone from "case" limit 0;
    create temp table proof_flags as select id as log_id, {arrays.names(FLAGS)} from log limit 0;
    create temp table proof_gap as select * from report_sum limit 0;
    create temp table proof_facts as select reference from "case" limit 0;
    create temp table definition (key text, code text, creates_case boolean, stops_timer boolean);
    create temp table proof_new as select id from log limit 0;
    create temp table proof_scope as select reference from "case" limit 0;
    create temp table proof_stretch as
        select actor, occurred_at as first_time, source as first_source, event_id as first_id,
               occurred_at as last_time, source as last_source, event_id as last_id from log limit 0;
    alter table proof_timer add primary key (id);
    create index on proof_timer (actor, started_at);
    alter table proof_link add primary key (log_id);
    alter table proof_case add primary key (reference);
    alter table proof_flags add primary key (log_id);
    alter table proof_new add primary key (id);
    alter table proof_scope add primary key (reference);
"""  # noqa: S608 - column names of our own tables
COPIED_BYTES: Final = 1 << 16
_SHARED: Final = ("proof_timer", "proof_link")


def open_session(database_url: str) -> Session:
    """A connection of its own with empty temporary tables, outside any transaction. Close it when done.

    Raises `CaselogError` where the database was never migrated.
    """
    raw = make_engine(database_url, application="caselog verify").raw_connection()
    session = raw.driver_connection
    assert isinstance(session, psycopg.Connection)
    raw.detach()
    set_json_loads(msgspec.json.decode, session)
    session.autocommit = True
    # It is this session's alone, and a proof is several transactions: what each says elsewhere is said here once.
    session.execute(session_words({"jit": "off", "idle_in_transaction_session_timeout": "0"}))
    # Nor is it for anybody to end it who limits statements: a long log takes long, and a part of it is nothing.
    session.execute(without_limits(here=False).encode())
    # Whole tables are read in order: sort in memory where it fits, and plan for all rows, not for the first ones.
    session.execute("set work_mem = '64MB'")
    session.execute("set cursor_tuple_fraction = 1")
    try:
        session.execute(_TABLES.encode())
    except psycopg.errors.UndefinedTable as error:
        session.close()
        raise CaselogError("the database has no caselog tables, or older ones. Run: caselog migrate") from error
    return session


def define(session: Session, codes: Iterable[Code]) -> None:
    """Tell the session what the codes mean that reports ask about."""
    session.execute("truncate definition")
    with session.cursor() as cursor:
        cursor.executemany(
            "insert into definition values (%s, %s, %s, %s)",
            [(code.key, code.code, code.creates_case, code.stops_timer) for code in codes],
        )


@contextmanager
def snapshot(session: Session, shared: str | None = None) -> Iterator[str]:
    """One unchanging view of the database for all that is read inside; yields its name, for other sessions to share."""
    session.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with session.transaction():
            if shared is not None:
                session.execute(f"set transaction snapshot '{shared}'".encode())
                yield shared
            else:
                yield _one(session, "select pg_export_snapshot()")
    finally:
        if not session.closed:
            session.isolation_level = None


def count_logs(session: Session) -> tuple[int, int]:
    """How many logs there are, and how often one is read by a proof of everything: for its actor, and for its case."""
    row = session.execute("select count(*), count(actor) + count(case_reference) from log").fetchone()
    assert row is not None
    return row[0], row[1]


def has_case(session: Session, reference: str) -> bool:
    """Whether a case or a log is about this reference."""
    query = """
        select exists (select 1 from "case" where reference = %(reference)s)
            or exists (select 1 from log where case_reference = %(reference)s)
    """
    row = session.execute(query, {"reference": reference}).fetchone()
    return row is not None and row[0]


def keep(session: Session, findings: Sequence[Finding]) -> None:
    """Lay aside what the rows of these findings ought to be.

    Of facts, whose they are; the aggregator computes them anew. Reports of sums are not staged: see `measure_gap`.
    """
    wanted: dict[str, list[Sequence[Any]]] = {}
    for finding in findings:
        row = finding.fresh
        if not finding.mendable:
            continue
        if finding.table == "timer":
            values = [None] * (len(TIMER) - 1) if row is None else [row[name] for name in TIMER[1:]]
            wanted.setdefault("proof_timer", []).append((finding.name, *values, row is None))
        elif finding.table == "case":
            values = [None] * (len(CASE) - 1) if row is None else [_adapted(row[name]) for name in CASE[1:]]
            wanted.setdefault("proof_case", []).append((finding.name, *values, row is None))
        elif finding.table in KINDS:
            wanted.setdefault("proof_facts", []).append((finding.case,))
        elif row is not None and "timer_id" in row:
            wanted.setdefault("proof_link", []).append((finding.name, row["timer_id"]))
        elif row is not None and finding.table == "log":
            wanted.setdefault("proof_flags", []).append((finding.name, *(row[name] for name in FLAGS)))
    for table, lines in wanted.items():
        places = ", ".join(["%s"] * len(lines[0]))
        with session.cursor() as cursor:
            cursor.executemany(f"insert into {table} values ({places})".encode(), lines)  # noqa: S608 - our own


def _adapted(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, dict) else value


def kept(session: Session, table: str) -> bool:
    """Whether anything is staged in this temporary table."""
    found: bool = _one(session, f"select exists (select 1 from {table})")  # noqa: S608 - a name of our own
    return found


def write_shared(session: Session, directory: Path) -> None:
    """Write what other sessions must know of the timers, so that they can fold cases, into files."""
    for table in _SHARED:
        copying = session.cursor().copy(f"copy {table} to stdout".encode())
        with (directory / table).open("wb") as file, copying as copy:
            for block in copy:
                file.write(block)


def read_shared(session: Session, directory: Path) -> None:
    for table in _SHARED:
        copying = session.cursor().copy(f"copy {table} from stdin".encode())
        with (directory / table).open("rb") as file, copying as copy:
            while block := file.read(COPIED_BYTES):
                copy.write(block)


def _one(session: Session, query: str) -> Any:
    row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
