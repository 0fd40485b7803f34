"""What logs add to the reports of sums: new ones, and those whose derived columns changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from events.afresh import Definitions
from events.state import Log
from schema.reports.conditions import Condition
from schema.reports.declaring import DIMENSIONS, SUMS, Report
from schema.reports.finding import summed_reports

Row: TypeAlias = tuple[Any, ...]
"""What to add to a row of `report_sum`: report, day, the dimensions in the order of `DIMENSIONS`, the sums; signed."""

_NONE_AT: Final = len(DIMENSIONS)


class _Addition(msgspec.Struct, frozen=True):
    """What a log with some code may add to one report: a one for each condition that holds."""

    report: str
    monthly: bool
    chosen: Callable[[Row], Row]
    ones: tuple[tuple[int, Condition | None], ...]


class ReportTally:
    """Knows for each code which reports its logs add to. Thread-safe: what it remembers only grows."""

    def __init__(self, definitions: Definitions, zone: ZoneInfo) -> None:
        self._definitions = definitions
        self._zone = zone
        self._additions: dict[tuple[str, str, str, int], list[_Addition]] = {}

    def rows(self, logs: Iterable[Log], rewritten: Iterable[tuple[Log, Log]] = ()) -> list[Row]:
        """What new logs add and rewritten ones (before, after) change, one row of each report once."""
        sums: dict[Row, list[int]] = {}
        for log in logs:
            self._add(log, 1, sums)
        for before, after in rewritten:
            self._add(before, -1, sums)
            self._add(after, 1, sums)
        return [(*row, *counts) for row, counts in sums.items() if any(counts)]

    def _add(self, log: Log, sign: int, sums: dict[Row, list[int]]) -> None:
        if log.suppressed or log.case is None:
            return
        name = (log.key, log.code, log.type, log.level)
        additions = self._additions.get(name)
        if additions is None:
            additions = self._additions[name] = self._what_adds(log)
        if not additions:
            return
        day = self._day(log.occurred_at)
        values = (log.key, log.code, log.category, log.provider, log.organisation, log.case_source, log.actor, None)
        for addition in additions:
            ones = [at for at, condition in addition.ones if condition is None or condition.holds(log)]
            if not ones:
                continue
            if addition.monthly:
                created = log.case_created_at
                if created is None:
                    continue
                row = (addition.report, self._day(created)[:8] + "01", *addition.chosen(values))
            else:
                row = (addition.report, day, *addition.chosen(values))
            counts = sums.get(row)
            if counts is None:
                counts = sums[row] = [0] * len(SUMS)
            for at in ones:
                counts[at] += sign

    def _day(self, moment: datetime) -> str:
        return moment.astimezone(self._zone).date().isoformat()

    def _what_adds(self, log: Log) -> list[_Addition]:
        code, _ = self._definitions.of(log)
        found = []
        for report in summed_reports():
            ones = tuple(
                (at, None if measure.counts.says_code_alone else measure.counts)
                for at, measure in enumerate(report.counted)
                if measure.counts is not None and measure.counts.may_hold(code)
            )
            if ones:
                has = {column.name for column in report.dimensions}
                places = [at if name in has else _NONE_AT for at, name in enumerate(DIMENSIONS)]
                found.append(_Addition(report.name, report.is_monthly, itemgetter(*places), ones))
        return found


def fresh_sums(report: Report, logs: str) -> str:
    """The same in SQL: the rows of a report of sums from `logs`, a query of logs with a column `sign`.

    One row for each combination of dimensions: day, `DIMENSIONS`, `SUMS`, and the newest log counted. Expects the
    parameter zone, and a table `definition` that says of each code whether it creates cases and stops timers.
    """
    has = {column.name for column in report.dimensions}
    conditions = [measure.counts.sql() for measure in report.counted if measure.counts is not None]
    moment = "log.case_created_at" if report.is_monthly else "log.occurred_at"
    day = f"({moment} at time zone %(zone)s)::date"
    dimensions = ", ".join(
        f"{expression if name in has else 'null::text'} as {name}" for name, expression in DIMENSIONS.items()
    )
    sums = ", ".join(
        f"coalesce(sum(sign) filter (where {condition}), 0)::bigint as {name}"
        for name, condition in zip(SUMS, [*conditions, *["false"] * len(SUMS)], strict=False)
    )
    return f"""
        select {f"date_trunc('month', {day})::date" if report.is_monthly else day} as day, {dimensions}, {sums},
               max(log.id) as newest
        from ({logs}) as log left join definition using (key, code)
        where not log.suppressed and log.case_reference is not null and {moment} is not null
          and ({" or ".join(f"({condition})" for condition in conditions)})
        group by {", ".join(str(at) for at in range(1, len(DIMENSIONS) + 2))}
    """  # noqa: S608 - names of our own declarations
