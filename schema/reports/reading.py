"""Reading a report: for a range of local days, by day, week or month, of all rows or of those that match."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, CursorResult, text

from caselog.events.errors import CaselogError, did_you_mean
from caselog.schema.recording.outdated import refuse_outdated
from caselog.schema.reports.terms.columns import Column
from caselog.schema.reports.terms.report import Report
from caselog.schema.sql.streaming import stream

By: TypeAlias = Literal["day", "week", "month"]
PERIODS: Final[tuple[By, ...]] = ("day", "week", "month")
BUFFERED_ROWS: Final = 1000
_FAR_FUTURE: Final = date(9999, 12, 31)


class BadRequest(CaselogError):
    """A report cannot be read in this way; the message says how it can."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a report.

    The local days `first` and `last` are both included. `by` sums up weeks (by their Monday) or months instead of days.
    `where` says what columns have to be; None is empty. `now` is the moment of asking. `provider`: of the report's rows
    there are those of this provider alone, whatever else is asked; None: everybody's.
    """

    report: Report
    first: date
    last: date
    by: By | None = None
    where: Mapping[str, str | None] = msgspec.field(default_factory=dict)
    now: datetime
    zone: ZoneInfo
    provider: str | None = None

    def __post_init__(self) -> None:
        """Raises `BadRequest`, in one line with the nearest right name."""
        if self.first > self.last:
            raise BadRequest(f"the first day, {self.first}, is later than the last, {self.last}: swap them.")
        if self.provider is not None and not self.report.by_provider:
            raise BadRequest(f"{self.report.name} does not tell providers apart.")
        if self.by is not None:
            self._check_by(check_period(self.by))
        known = [column.name for column in self.filters]
        for name in self.where:
            if name not in known:
                raise BadRequest(
                    f"{self.report.name} cannot be filtered by {name!r}: it has {', '.join(known)}."
                    f"{did_you_mean(name, known)}"
                )

    def _check_by(self, by: By) -> None:
        possible = periods(self.report)
        if by in possible:
            return
        if not possible:
            raise BadRequest(f"{self.report.name} lists single rows and sums nothing up: leave out the period {by!r}.")
        raise BadRequest(f"{self.report.name} is kept by {' and '.join(possible)}: leave out the period {by!r}.")

    @property
    def filters(self) -> tuple[Column, ...]:
        """The columns that can be filtered by."""
        return filters(self.report)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the rows, in order; the first is named for the period that it is summed up by."""
        first, *others = self.report.columns
        if self.by is None or self.by == first.name:
            return self.report.columns
        kind: Literal["day", "month"] = "month" if self.by == "month" else "day"
        said = {"week": "Monday of the week", "month": "month", "day": "day"}[self.by]
        grouped = msgspec.structs.replace(
            first, name=self.by, kind=kind, description=f"{said}; {first.description}", sql=_bucket(first.name, self.by)
        )
        return (grouped, *others)

    @property
    def sql(self) -> str:
        columns: Iterable[Column] = self.columns
        grouping = ""
        if self._is_as_kept:  # each row is a group by itself
            columns = [msgspec.structs.replace(column, sql="") for column in columns]
        elif self.report.measures:
            grouping = f"group by {self._order} {self._having}"
        selected = ", ".join(f"{column.expression} as {column.name}" for column in columns)
        return f"select {selected} from ({self.source}) as row {self.matching} {grouping} order by {self._order}"  # noqa: S608 - names of our own declarations

    @property
    def _order(self) -> str:
        if not self.report.measures:
            return self.report.order
        return ", ".join(column.expression for column in (self.columns[0], *self.report.dimensions[1:]))

    @property
    def _is_as_kept(self) -> bool:
        """Whether sums are asked for as they are kept, row by row."""
        return self.report.counted == self.report.measures and self.columns[0] == self.report.columns[0]

    @property
    def totals_sql(self) -> str:
        measures = ", ".join(measure.expression for measure in self.report.measures)
        return f"select {measures} from ({self.source}) as row {self.matching}"  # noqa: S608 - our own declarations

    def series_sql(self, by: By) -> str:
        if self.report.measures:
            period, measure = self.report.dimensions[0].name, self.report.measures[0].expression
        else:
            period, measure = f"({self.report.moment} at time zone :zone)::date", "count(*)"
        return f"""
            select {_bucket(period, by)} as period, {measure} from ({self.source}) as row {self.matching}
            group by 1 {self._having} order by 1
        """  # noqa: S608 - names of our own declarations

    @property
    def source(self) -> str:
        """Where all that is read of the report comes from."""
        if self.provider is None:
            return self.report.source
        return f"select * from ({self.report.source}) as anybodys where provider = :bound_to"  # noqa: S608 - our own

    @property
    def matching(self) -> str:
        if not self.where:
            return ""
        # Spelled out: an index serves `=`, and would not serve `is not distinct from`.
        conditions = [
            f"{name} is null" if value is None else f"{name} = :where_{name}" for name, value in self.where.items()
        ]
        return f"where {' and '.join(conditions)}"

    @property
    def _having(self) -> str:
        """Sums that came to nothing are no rows; groups of things that are listed always have some."""
        counted = self.report.counted
        return f"having {' or '.join(f'{m.expression} <> 0' for m in counted)}" if counted else ""

    def parameters(self, sql: str) -> dict[str, Any]:
        """Those that this statement has."""
        after = self.last + timedelta(days=1) if self.last < _FAR_FUTURE else self.last
        known = {
            "first": self.first,
            "last": self.last,
            "start": datetime.combine(self.first, time(), self.zone),
            "end": datetime.combine(after, time(), self.zone),
            "now": self.now,
            "zone": self.zone.key,
            "bound_to": self.provider,
        }
        found = {name: value for name, value in known.items() if f":{name}" in sql}
        return found | {f"where_{name}": value for name, value in self.where.items() if value is not None}


def read_rows(db: Connection, reading: Reading, *, most: int | None = None) -> Generator[tuple[Any, ...]]:
    """The rows of a report: of sums in the order of their dimensions, of a list in the order of its first.

    They are asked for at once, and read as they are consumed, while PostgreSQL goes on. `most`: only so many. Until
    the last is read, the connection takes no other statement; who stops before closes them, and rolls back.

    Days are `date`, months `str` as 2026-11, moments aware `datetime`, numbers int or float. Raises `Withheld`.
    """
    refuse_outdated(db)
    # What is grouped and sorted, is so in memory. What is widest, comes in order from an index, which is in memory too.
    db.execute(text("select set_config('work_mem', '64MB', true), set_config('random_page_cost', '1.1', true)"))
    limit = "" if most is None else f" limit {most:d}"
    query, parameters = reading.sql + limit, reading.parameters(reading.sql)
    rows = stream(db, query, parameters) if reading.report.measures else _listed(db, query, parameters)
    return _named_months(rows) if reading.columns[0].kind == "month" else rows


def _named_months(rows: Iterable[tuple[Any, ...]]) -> Generator[tuple[Any, ...]]:
    """Here, where the reader waits for PostgreSQL, which takes as long for it as for adding up the rows."""
    for month, *values in rows:
        yield (month.isoformat()[:7], *values)


def _listed(db: Connection, query: str, parameters: Mapping[str, Any]) -> Generator[tuple[Any, ...]]:
    """Through a server-side cursor, for which PostgreSQL plans so that the first rows of a long list come at once."""
    found = db.execute(text(query).execution_options(stream_results=True, max_row_buffer=BUFFERED_ROWS), parameters)
    return _rows(found)


def _rows(found: CursorResult[Any]) -> Generator[tuple[Any, ...]]:
    with found:
        for row in found:
            yield tuple(row)


def read_totals(db: Connection, reading: Reading) -> Sequence[Any]:
    """Each measure over all rows: not always their sum, since a case that counts in two rows is one case.

    Raises `Withheld`.
    """
    refuse_outdated(db)
    sql = reading.totals_sql
    return tuple(db.execute(text(sql), reading.parameters(sql)).one())


def read_series(db: Connection, reading: Reading, by: By) -> list[tuple[date, Any]]:
    """The main measure over time: one pair a day, week (its Monday) or month (its first), in order.

    Of a list it is the number of its rows. Periods in which there is nothing are left out. Raises `Withheld`.
    """
    refuse_outdated(db)
    sql = reading.series_sql(by)
    return [(period, value) for period, value in db.execute(text(sql), reading.parameters(sql))]


def periods(report: Report) -> tuple[By, ...]:
    """What a report can be summed up by: nothing, where it lists single rows."""
    if not report.measures:
        return ()
    return ("month",) if report.is_monthly else PERIODS


def filters(report: Report) -> tuple[Column, ...]:
    """The columns that it can be filtered by."""
    return tuple(column for column in report.dimensions if column.kind == "text")


def check_period(by: str) -> By:
    """The period of that name. Raises `BadRequest`, naming the nearest."""
    if by not in PERIODS:
        raise BadRequest(f"there is no period {by!r}: choose {', '.join(PERIODS)}.{did_you_mean(by, PERIODS)}")
    return by


def _bucket(column: str, by: str) -> str:
    if by == "week":  # in whole numbers, since the calendar's first day was a Monday: quicker than date_trunc
        return f"({column} - mod({column} - date '0001-01-01', 7))"
    return column if by == "day" else f"date_trunc('month', {column}::timestamp)::date"
