"""What `rebuild` and `verify --repair` write, and the locks under which they do.

The gate is an advisory lock that each batch of the recorder shares, first of all that its transaction does. Who holds
it alone knows that no batch is under way, and that every id of the log up to the sequence's last value is either
visible or will never be (docs/decisions/0050-projections-swapped-by-difference.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import psycopg

from caselog.events.errors import CaselogError
from caselog.schema.recording.store import GATE
from caselog.schema.reports.catalogue import summed_reports
from caselog.schema.reports.facts import KINDS
from caselog.schema.reports.outbox import mark_cases
from caselog.schema.reports.tally import fresh_sums
from caselog.schema.reports.terms.report import DIMENSIONS, SUMS
from caselog.schema.sql import arrays
from caselog.schema.verification.session import CASE, FLAGS, TIMER, Session, snapshot
from caselog.schema.verification.streams import COUNTED, ROW, present_category

PARTS: Final = ("timers", "cases", "reports")
# Any number that nothing else locks.
_REBUILD: Final = 0x6361_7365_7265_62
# A batch takes well under a second. A recorder that stands still must not make the others wait for us longer than this.
GATE_WAIT_MS: Final = 2000
GATE_ATTEMPTS: Final = 5
POSTED_SUMS: Final = 500
# The server notices within a second that a client was killed, and some more pass until its session has ended.
REBUILD_WAIT_MS: Final = 4000


class Busy(CaselogError):
    """A lock could not be had; nothing was written."""


@contextmanager
def only_one(session: Session) -> Iterator[None]:
    """Nobody else rebuilds meanwhile. Raises `Busy` where somebody does."""
    session.execute("set client_connection_check_interval = '1s'")
    if not _locked(session, f"select pg_advisory_lock({_REBUILD})", REBUILD_WAIT_MS):
        raise Busy("a rebuild or a repair of this database is under way: wait until it has ended, then run this again.")
    try:
        yield
    finally:
        if not session.closed:
            session.execute(f"select pg_advisory_unlock({_REBUILD})".encode())


@contextmanager
def marked_snapshot(session: Session) -> Iterator[tuple[str, int]]:
    """A snapshot and its mark: it holds every log with an id up to the mark, and none above. Raises `Busy`.

    Recorders wait for as long as it takes to begin it, not while it lasts.
    """
    with ExitStack() as stack:
        _alone(session, f"select pg_advisory_lock({GATE})")
        try:
            query = "select case when is_called then last_value else 0 end from log_id_2_seq"
            row = session.execute(query).fetchone()
            assert row is not None
            name = stack.enter_context(snapshot(session))
        finally:
            session.execute(f"select pg_advisory_unlock({GATE})".encode())
        yield name, row[0]


@contextmanager
def gate_closed(session: Session) -> Iterator[None]:
    """One transaction during which no recorder records; it commits at the end. Raises `Busy`."""
    _alone(session, f"select pg_advisory_lock({GATE})")
    try:
        with session.transaction():
            yield
    finally:
        if not session.closed:
            session.execute(f"select pg_advisory_unlock({GATE})".encode())


def _alone(session: Session, lock: str) -> None:
    if not any(_locked(session, lock, GATE_WAIT_MS) for _ in range(GATE_ATTEMPTS)):
        raise Busy(
            f"a recorder has held its batch for more than {GATE_ATTEMPTS * GATE_WAIT_MS / 1000:g} seconds, and nothing "
            f"was written. See which one stands still (caselog queues, pg_stat_activity), then run this again."
        )


def _locked(session: Session, lock: str, wait_ms: int) -> bool:
    session.execute(f"set lock_timeout = {wait_ms}".encode())
    try:
        session.execute(lock.encode())
    except psycopg.errors.LockNotAvailable:
        return False
    finally:
        session.execute("set lock_timeout = 0")
    return True


def write(session: Session, parts: Collection[str], zone: str) -> dict[str, int]:
    """Write what is staged of these parts into the projections. Returns the rows written or deleted, by table.

    Inside `gate_closed`. What logs change in reports goes into the outbox, as it does when events are recorded.
    """
    written: dict[str, int] = {}
    if "timers" in parts:
        written["timer"] = _rows(session, "select id from proof_timer")
        # Deleted first: at no moment may an actor have two timers that run.
        session.execute("delete from timer where id in (select id from proof_timer)")
        session.execute(_INSERT_TIMERS.encode())
        written["log"] = _rows(session, _LINK_LOGS)
    if "cases" in parts:
        # First what changes in reports: it is told by what cases and logs are now.
        _post_sums(session, _changed_sums(), {"zone": zone})
        written["case"] = _rows(session, _UPSERT_CASES) + _rows(session, _DELETE_CASES)
        written["log"] = written.get("log", 0) + _rows(session, _FLAG_LOGS)
    if "cases" in parts or "reports" in parts:
        written["report_sum"] = _post_sums(session, f"select {_KEY}, {arrays.names(SUMS)} from proof_gap")  # noqa: S608
        # Proved with everything else, it is known whose facts are not right; else they are all computed anew.
        mark_cases(session, _WRONG_FACTS if "cases" in parts else _ALL_FACTS)
        written |= dict.fromkeys(KINDS, 0)  # until the aggregator has computed them
    return written


def _rows(session: Session, statement: str) -> int:
    return session.execute(statement.encode()).rowcount


_INSERT_TIMERS: Final = f"insert into timer select {arrays.names(TIMER)} from proof_timer where not gone"  # noqa: S608
_LINK_LOGS: Final = "update log set timer_id = proof_link.timer_id from proof_link where log.id = proof_link.log_id"
_UPSERT_CASES: Final = f"""
    insert into "case" ({arrays.names(CASE)}) select {arrays.names(CASE)} from proof_case where not gone
    on conflict (reference) do update set
        {", ".join(f"{name} = excluded.{name}" for name in CASE[1:])}, modified_at = now()
"""  # noqa: S608 - column names of our own tables
_DELETE_CASES: Final = 'delete from "case" where reference in (select reference from proof_case where gone)'
_FLAG_LOGS: Final = f"""
    update log set {", ".join(f"{name} = proof_flags.{name}" for name in FLAGS)}
    from proof_flags where log.id = proof_flags.log_id
"""  # noqa: S608 - column names of our own tables
_WRONG_FACTS: Final = """
    select reference from proof_facts union select reference from proof_case
    union select case_reference from proof_flags join log on log.id = log_id where case_reference is not null
"""
_ALL_FACTS: Final = " union ".join(
    ['select reference from "case"', *(f"select case_reference from {kind}" for kind in KINDS)]  # noqa: S608 - ours
)
_KEY: Final = arrays.names(("report", *ROW))


def _changed_sums() -> str:
    """What is staged of logs' flags and cases' categories changes in the reports of sums, beside what is stored."""
    flags = ", ".join(f"log.{name}" for name in FLAGS)
    fresh = ", ".join(f"proof_flags.{name}" for name in FLAGS)
    logs = f"""
        select {COUNTED}, {flags}, -1 as sign from proof_flags join log on log.id = log_id
        union all select {COUNTED}, {fresh}, 1 from proof_flags join log on log.id = log_id
    """  # noqa: S608 - column names of our own tables
    return " union all ".join(
        f"select '{report.name}' as report, {arrays.names((*ROW, *SUMS))} "  # noqa: S608 - column names of our own tables
        f"from ({fresh_sums(report, _moved() if report.by_present_category else logs)}) as changed"
        for report in summed_reports()
    )


# Where a case's category is staged, every log of the case counts elsewhere, whether its flags change or not.
_MOVED_LOGS: Final = """
    select log.* from log where log.id in (
        select log_id from proof_flags
        union
        select of_case.id from proof_case left join "case" using (reference)
        join log as of_case on of_case.case_reference = proof_case.reference
        where proof_case.category is distinct from "case".category
    )
"""


def _moved() -> str:
    """As they are stored, and as they ought to be, each with the category of its case."""
    stored, cases = present_category(as_kept=False)
    ought, kept_cases = present_category(as_kept=True)
    flags = ", ".join(f"log.{name}" for name in FLAGS)
    fresh = ", ".join(
        f"case when proof_flags.log_id is null then log.{name} else proof_flags.{name} end as {name}" for name in FLAGS
    )
    return f"""
        select {COUNTED}, {flags}, {stored} as present_category, -1 as sign from ({_MOVED_LOGS}) as log {cases}
        union all
        select {COUNTED}, {fresh}, {ought} as present_category, 1 from ({_MOVED_LOGS}) as log {kept_cases}
        left join proof_flags on proof_flags.log_id = log.id
    """  # noqa: S608 - column names of our own tables


def _post_sums(session: Session, query: str, parameters: dict[str, str] | None = None) -> int:
    """Post rows of sums, some hundred a row of the outbox. Returns how many."""
    element = f"json_build_array(report, to_char(day, 'YYYY-MM-DD'), {arrays.names((*DIMENSIONS, *SUMS))})"
    some = " or ".join(f"{name} <> 0" for name in SUMS)
    found = session.execute(
        f"""
        with posted as (
            insert into report_outbox (deltas, sums, case_references)
            select count(*), json_agg({element}), '{{}}' from (
                select row.*, row_number() over () / {POSTED_SUMS} as part from ({query}) as row where {some}
            ) as parts group by part returning deltas
        )
        select coalesce(sum(deltas), 0)::bigint from posted
        """.encode(),  # noqa: S608 - column names of our own tables
        parameters,
    ).fetchone()
    assert found is not None
    posted: int = found[0]
    return posted


def forget_empty_rows(session: Session) -> None:
    """Delete the rows of reports that came to nothing, and of reports that are no more.

    Those that an aggregator adds to at that moment stay.
    """
    nothing = " and ".join(f"{name} = 0" for name in SUMS)
    known = [report.name for report in summed_reports()]
    session.execute(f"delete from report_sum where {nothing} or report <> all(%s)".encode(), (known,))  # noqa: S608
