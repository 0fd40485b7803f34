"""Reports: what each log adds to them, and how they are read (RULES.md §7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, text

from events.codes import LogType
from events.errors import CaselogError, did_you_mean
from events.state import Log
from schema import rows


class UnknownReport(CaselogError):
    """No report has this name."""


class Column(msgspec.Struct, frozen=True):
    """A column of a report; `unit` says what its numbers count, and is empty for a dimension."""

    name: str
    description: str
    unit: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A report that is kept as a table of sums: one row for each combination of its dimensions."""

    name: str
    description: str
    dimensions: tuple[Column, ...]
    measures: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.dimensions + self.measures


OUTCOMES: Final = Report(
    name="outcomes",
    description="Unsuppressed outcomes by local day, code and what the case was at that moment",
    dimensions=(
        Column("day", "local day of the outcome"),
        Column("key", "event key"),
        Column("code", "outcome code"),
        Column("category", "the case's category at that log"),
        Column("provider", "the case's provider at that log"),
        Column("organisation", "the case's organisation at that log"),
        Column("source", "how the case came in"),
    ),
    measures=(Column("outcomes", "outcome logs that are not suppressed", "logs"),),
)
REPORTS: Final = {OUTCOMES.name: OUTCOMES}


class Delta(msgspec.Struct, frozen=True):
    """What to add to one row of a report. `dimensions` as they stand in the outbox."""

    report: str
    dimensions: tuple[str | None, ...]
    count: int


def get_report(name: str) -> Report:
    """The report of that name. Raises `UnknownReport`, naming the nearest."""
    try:
        return REPORTS[name]
    except KeyError:
        raise UnknownReport(
            f"there is no report {name!r}.{did_you_mean(name, list(REPORTS))} See: caselog report --list"
        ) from None


def deltas(logs: Iterable[Log], rewritten: Iterable[tuple[Log, Log]], zone: ZoneInfo) -> list[Delta]:
    """What new logs add to the reports, and what rewritten ones (before, after) change; one delta a row."""
    sums: Counter[tuple[str | None, ...]] = Counter()
    for log in logs:
        _count(log, sums, 1, zone)
    for before, after in rewritten:
        _count(before, sums, -1, zone)
        _count(after, sums, 1, zone)
    return [Delta(OUTCOMES.name, dimensions, count) for dimensions, count in sums.items() if count]


def _count(log: Log, sums: Counter[tuple[str | None, ...]], sign: int, zone: ZoneInfo) -> None:
    if log.type != LogType.OUTCOME.value or log.suppressed or log.case is None:
        return
    day = log.occurred_at.astimezone(zone).date().isoformat()
    row = (day, log.key, log.code, log.category, log.provider, log.organisation, log.case_source)
    sums[row] += sign


def post(db: Connection, changes: Iterable[Delta]) -> None:
    """Put deltas into the outbox; the aggregator adds them up (DESIGN.md, decision 9)."""
    values = [
        (delta.report, msgspec.json.encode(delta.dimensions).decode(), f'{{"outcomes":{delta.count}}}')
        for delta in changes
    ]
    db.execute(_POST, dict(rows.transposed(("reports", "dimensions", "measures"), values)))


_POST: Final = text(
    """
    insert into report_outbox (report, dimensions, measures)
    select report, cast(dimensions as jsonb), cast(measures as jsonb)
    from unnest(cast(:reports as text[]), cast(:dimensions as text[]), cast(:measures as text[]))
         as delta(report, dimensions, measures)
    """
)


def drain_outbox(db: Connection, limit: int = 10_000) -> int:
    """Take up to `limit` deltas out of the outbox and add them to their reports. Returns how many were taken.

    In one statement, so in one transaction: killed anywhere, a delta is in the outbox or in the report. Several
    aggregators may run at once: each takes rows that no other holds.
    """
    taken: int = db.execute(_DRAIN, {"limit": limit}).scalar_one()
    return taken


# By their place: joined by id, a backlog that came faster than the statistics (they say that the outbox is empty) would
# be looked through once for each row taken. The rows are locked, and rows of the outbox are never updated.
_DRAIN: Final = text(
    """
    with taken as (
        delete from report_outbox where ctid = any(array(
            select ctid from report_outbox order by id limit :limit for update skip locked
        )) returning report, dimensions, measures
    ),
    summed as (
        select (dimensions->>0)::date as day, dimensions->>1 as key, dimensions->>2 as code,
               dimensions->>3 as category, dimensions->>4 as provider, dimensions->>5 as organisation,
               dimensions->>6 as source, sum((measures->>'outcomes')::bigint) as outcomes
        from taken where report = 'outcomes' group by 1, 2, 3, 4, 5, 6, 7
        order by 1, 2, 3, 4, 5, 6, 7
    ),
    added as (
        insert into report_outcomes (day, key, code, category, provider, organisation, source, outcomes)
        select * from summed
        on conflict on constraint report_outcomes_row_key
        do update set outcomes = report_outcomes.outcomes + excluded.outcomes
    )
    select count(*) from taken
    """
)


class OutboxLag(msgspec.Struct, frozen=True):
    """How far the reports are behind: deltas not added up yet, and the age of the oldest in seconds."""

    deltas: int
    oldest_age_s: float | None


def outbox_lag(db: Connection) -> OutboxLag:
    row = db.execute(
        text("select count(*), extract(epoch from clock_timestamp() - min(created_at))::float8 from report_outbox")
    ).one()
    return OutboxLag(*row)


def read_report(db: Connection, report: Report, first: date, last: date) -> Iterator[tuple[Any, ...]]:
    """The rows of a report for the local days `first` to `last`, both included, sorted by the dimensions; streamed."""
    columns = rows.names([column.name for column in report.columns])
    keys = rows.names([column.name for column in report.dimensions])
    found = db.execute(
        text(
            f"select {columns} from report_{report.name} "  # noqa: S608 - names of our own declarations
            f"where day between :first and :last and {report.measures[0].name} <> 0 order by {keys}"
        ).execution_options(stream_results=True, max_row_buffer=1000),
        {"first": first, "last": last},
    )
    return (tuple(row) for row in found)


def outbox_mark(db: Connection) -> int:
    """The id of the newest delta in the outbox; 0 where it is empty."""
    newest: int = db.execute(text("select coalesce(max(id), 0) from report_outbox")).scalar_one()
    return newest


def outbox_holds(db: Connection, mark: int) -> bool:
    """Whether a delta up to that mark is still in the outbox."""
    found: bool = db.execute(
        text("select exists (select 1 from report_outbox where id <= :mark)"), {"mark": mark}
    ).scalar_one()
    return found
