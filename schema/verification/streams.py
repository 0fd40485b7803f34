"""What `verify` reads: the log in the two orders in which it is folded, and what is stored beside it.

Everything comes through server-side cursors, so memory stays level however long the log is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any, Final, TypeAlias

import msgspec

from caselog.schema.reports.catalogue import summed_reports
from caselog.schema.reports.facts import columns
from caselog.schema.reports.tally import fresh_sums
from caselog.schema.reports.terms.report import DIMENSIONS, SUMS, Report
from caselog.schema.sql import arrays
from caselog.schema.verification.scope import STRETCHED_LOGS
from caselog.schema.verification.session import CASE, FLAGS, TIMER, Session, kept

FETCHED_ROWS: Final = 2000

LOG: Final = (
    "id", "source", "event_id", "key", "code", "type", "level", "occurred_at", "case_reference", "actor", "role",
    "actor_provider", "notes", "context", "patch", "extensions", "timer_id", "suppressed", "category", "provider",
    "organisation", "case_source", "case_created_at",
)  # fmt: skip
ACTOR_LOG: Final = (
    "id", "source", "event_id", "key", "code", "type", "level", "occurred_at", "case_reference", "actor", "timer_id",
)  # fmt: skip

ROW: Final = ("day", *DIMENSIONS)
# What of a log, its flags aside, decides where it counts.
COUNTED: Final = (
    "log.id, log.key, log.code, log.type, log.role, log.actor, log.context, log.occurred_at, log.case_reference"
)

Row: TypeAlias = tuple[Any, ...]
_numbers: Final = count(1)


class Part(msgspec.Struct, frozen=True):
    """A share of all actors and cases: those whose hash leaves `number` when divided by `of`."""

    number: int = 0
    of: int = 1

    def holds(self, column: str) -> str:
        """A condition in SQL."""
        if self.of == 1:
            return f"{column} is not null"
        return f"mod(hashtext({column})::bigint + 2147483648, {self.of}) = {self.number}"


WHOLE: Final = Part()


def actor_logs(session: Session, part: Part | None) -> Iterator[Row]:
    """The logs of actors in order, actor by actor: `ACTOR_LOG`, then the stored timer of that id as `TIMER` or nulls.

    Of a part of all actors; None for the selected stretches.
    """
    source = STRETCHED_LOGS if part is None else "log"
    where = "true" if part is None else part.holds("log.actor")
    return _stream(
        session,
        f"""
        select {_of("log", ACTOR_LOG)}, {_of("timer", TIMER)}
        from {source} left join timer on timer.id = log.id
        where {where} order by log.actor, log.occurred_at, log.source, log.event_id
        """,  # noqa: S608 - our own columns
    )


def case_logs(session: Session, part: Part | None) -> Iterator[Row]:
    """The logs of cases, case by case in order of their references, each with the timer it ought to have: `LOG`.

    Within a case in no order. Of a part of all cases; None for the selected ones.
    """
    timer, source = _logs_timer(session)
    columns = _of("log", LOG).replace("log.timer_id", timer)
    where = _selected("log.case_reference") if part is None else part.holds("log.case_reference")
    return _stream(session, f"select {columns} from {source} where {where} order by log.case_reference")  # noqa: S608


def _logs_timer(session: Session) -> tuple[str, str]:
    """The timer that a log ought to have, in SQL, and what to select it from."""
    if not kept(session, "proof_link"):
        return "log.timer_id", "log"
    timer = "case when proof_link.log_id is null then log.timer_id else proof_link.timer_id end"
    return timer, "log left join proof_link on proof_link.log_id = log.id"


def stored_cases(session: Session, part: Part | None, *, all_proved: bool = False) -> Iterator[Row]:
    """Cases and billed seconds in order of their references: the reference, the seconds, then `CASE`.

    The seconds are what the timers ought to bill; `CASE` is null where there is no such case. Of a part of all cases;
    None for the selected ones. `all_proved`: all timers were, so that few of them have to be read.
    """
    if part is None:
        of_cases, of_case = _selected("case_reference"), _selected('"case".reference')
    else:
        of_cases, of_case = part.holds("case_reference"), part.holds('"case".reference')
    theirs = "true"
    if part is None and all_proved:
        # A timer that is as it ought to be bills the case of a log that carries it. There is no index of timers by
        # case: it would cost each timer something, for the sake of this. As an array, they are looked up by their ids
        # however many PostgreSQL expects.
        timer, source = _logs_timer(session)
        ids = f"select distinct {timer} from {source} where {_selected('log.case_reference')}"  # noqa: S608 - ours
        theirs = f"id = any(array({ids}))"
    stored = "true"
    if kept(session, "proof_timer"):
        stored = "not exists (select 1 from proof_timer where proof_timer.id = timer.id)"
    seconds = "case_reference, ceil(extract(epoch from stopped_at - started_at))::bigint as seconds"
    billed = f"stopped_at is not null and not cancelled and {of_cases}"
    return _stream(
        session,
        f"""
        with billed as (
            select case_reference, sum(seconds)::bigint as seconds from (
                select {seconds} from timer where {billed} and {theirs} and {stored}
                union all select {seconds} from proof_timer where {billed} and not gone
            ) as timers group by case_reference
        ),
        part as (select {arrays.names(CASE)} from "case" where {of_case})
        select coalesce(part.reference, billed.case_reference), coalesce(billed.seconds, 0), {_of("part", CASE)}
        from part full join billed on billed.case_reference = part.reference order by 1
        """,  # noqa: S608 - our own columns
    )


def stray_timers(session: Session) -> Iterator[Row]:
    """Timers whose id is the id of no actor's log: `TIMER`."""
    return _stream(
        session,
        f"""
        select {_of("timer", TIMER)} from timer left join log on log.id = timer.id
        where log.actor is null order by timer.id
        """,  # noqa: S608 - our own columns
    )


def stray_links(session: Session) -> Iterator[Row]:
    """Logs of nobody that carry a timer: `LOG`."""
    return _stream(session, f"select {arrays.names(LOG)} from log where actor is null and timer_id is not null")  # noqa: S608


def stray_flags(session: Session) -> Iterator[Row]:
    """Logs about no case that have what only logs of a case have: `LOG`."""
    return _stream(
        session,
        f"""
        select {arrays.names(LOG)} from log
        where case_reference is null
          and (suppressed or num_nonnulls(category, provider, organisation, case_source, case_created_at) > 0)
        """,  # noqa: S608 - our own columns
    )


def pending_cases(session: Session) -> set[str]:
    """The cases whose facts are about to be computed anew, in the same snapshot."""
    found = session.execute("select distinct unnest(case_references) from report_outbox")
    return {row[0] for row in found}


def stored_facts(session: Session, kind: str, part: Part | None) -> Iterator[Row]:
    """The facts of a kind, case by case in order of their references: its `columns`.

    Of a part of all cases; None for the selected ones.
    """
    where = _selected("case_reference") if part is None else part.holds("case_reference")
    names = arrays.names(columns(kind))
    return _stream(session, f"select {names} from {kind} where {where} order by case_reference, log_id")  # noqa: S608


def report_gaps(session: Session, report: Report, zone: str, *, as_kept: bool) -> Iterator[Row]:
    """The rows of a report of sums that are not what the log adds up to: `ROW`, stored and fresh sums, newest log.

    What the outbox holds counts as stored: it is under way, in the same snapshot. `as_kept`: the log with the flags
    that it ought to have, as staged; else with those that it has.
    """
    return _stream(session, _gaps(session, report, as_kept=as_kept), {"zone": zone})


def measure_gap(session: Session, zone: str) -> None:
    """Lay aside what the reports of sums lack beside the log as it is stored.

    Recorder and aggregator keep this gap as it is, since a delta always says what changes in the log. So it may be
    measured in any snapshot and added at any time after.
    """
    session.execute("truncate proof_gap")
    gap = ", ".join(f"fresh_{name} - stored_{name}" for name in SUMS)
    for report in summed_reports():
        session.execute(
            f"insert into proof_gap select '{report.name}', {arrays.names(ROW)}, {gap} "  # noqa: S608 - our own columns
            f"from ({_gaps(session, report)}) as gap".encode(),
            {"zone": zone},
        )


def _gaps(session: Session, report: Report, *, as_kept: bool = False) -> str:
    flags, source = _of("log", FLAGS), "log"
    if as_kept and kept(session, "proof_flags"):
        flags = ", ".join(
            f"case when proof_flags.log_id is null then log.{name} else proof_flags.{name} end as {name}"
            for name in FLAGS
        )
        source = "log left join proof_flags on proof_flags.log_id = log.id"
    if report.by_present_category:
        category, cases = present_category(as_kept=as_kept and kept(session, "proof_case"))
        flags, source = f"{flags}, {category} as present_category", f"{source} {cases}"
    fresh = fresh_sums(report, f"select {COUNTED}, {flags}, 1 as sign from {source}")  # noqa: S608 - our own columns
    names = arrays.names(ROW)
    stored = ", ".join(f"{name} as stored_{name}" for name in SUMS)
    posted = ", ".join(
        f"(element->>{at})::bigint" for at in range(2 + len(DIMENSIONS), 2 + len(DIMENSIONS) + len(SUMS))
    )
    zeros = ", ".join(["0"] * len(SUMS))
    return f"""
        select {names}, {", ".join(f"sum(stored_{n})::bigint as stored_{n}" for n in SUMS)},
               {", ".join(f"sum(fresh_{n})::bigint as fresh_{n}" for n in SUMS)}, max(newest) as newest
        from (
            select {names}, {stored}, {", ".join(f"0 as fresh_{n}" for n in SUMS)}, null::bigint as newest
            from report_sum where report = '{report.name}'
            union all
            select {names}, {zeros}, {", ".join(SUMS)}, newest from ({fresh}) as fresh
            union all
            select (element->>1)::date, {", ".join(f"element->>{at}" for at in range(2, 2 + len(DIMENSIONS)))},
                   {posted}, {zeros}, null
            from report_outbox, json_array_elements(sums) as element where element->>0 = '{report.name}'
        ) as counted group by {names}
        having {" or ".join(f"sum(stored_{n}) <> sum(fresh_{n})" for n in SUMS)} order by {names}
    """  # noqa: S608 - our own columns


def present_category(*, as_kept: bool) -> tuple[str, str]:
    """The category of a log's case in SQL, and what to join for it. `as_kept`: the one that it ought to have."""
    cases = 'left join "case" on "case".reference = log.case_reference'
    if not as_kept:
        return '"case".category', cases
    category = 'case when proof_case.reference is null then "case".category else proof_case.category end'
    return category, f"{cases} left join proof_case on proof_case.reference = log.case_reference"


def entries(session: Session, ids: list[int]) -> dict[int, Row]:
    """The id, time, key and code of these logs, by id."""
    found = session.execute("select id, occurred_at, key, code from log where id = any(%s)", (ids,))
    return {row[0]: row for row in found}


def _selected(column: str) -> str:
    return f"{column} in (select reference from proof_scope)"  # noqa: S608 - our own columns


def _of(table: str, columns: tuple[str, ...]) -> str:
    return ", ".join(f"{table}.{name}" for name in columns)


def _stream(session: Session, query: str, parameters: dict[str, Any] | None = None) -> Iterator[Row]:
    """The rows of a query, fetched as they are consumed; in a transaction."""
    with closing(session.cursor(name=f"proof_{next(_numbers)}")) as cursor:
        cursor.execute(query.encode(), parameters, binary=True)
        while found := cursor.fetchmany(FETCHED_ROWS):
            yield from found
