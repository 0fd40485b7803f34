"""What logs add to the reports of sums: new ones, those whose derived columns changed, and those whose case moved.

Most reports count a log under what its case was then. Those by the present category count it under what its case is
now: where a case's category changes, all that its log ever added goes from one row to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from caselog.events.folding.recompute import Definitions
from caselog.events.model.codes import Code, LogType
from caselog.events.model.state import CaseState, Log
from caselog.schema.reports.catalogue import summed_reports
from caselog.schema.reports.terms.conditions import Condition
from caselog.schema.reports.terms.report import DIMENSIONS, SUMS, Report

Name: TypeAlias = tuple[str, str]
"""A key and a code under it."""
Row: TypeAlias = tuple[Any, ...]
"""What to add to a row of `report_sum`: report, day, the dimensions in the order of `DIMENSIONS`, the sums; signed."""

_NONE_AT: Final = len(DIMENSIONS)
_CATEGORY_AT: Final = list(DIMENSIONS).index("category")
_NO_CASES: Final[Mapping[str, CaseState]] = {}


class _Addition(msgspec.Struct, frozen=True):
    """What a log with some code may add to one report: a one for each condition that holds."""

    report: str
    monthly: bool
    by_present_category: bool
    chosen: Callable[[Row], Row]
    ones: tuple[tuple[int, Condition | None], ...]


class ReportTally:
    """Knows for each code which reports its logs add to. Thread-safe: what it remembers only grows."""

    def __init__(self, definitions: Definitions, zone: ZoneInfo) -> None:
        self._definitions = definitions
        self._zone = zone
        self._additions: dict[tuple[str, str, str, int], list[_Addition]] = {}
        self.idle: Final = _idle(definitions.codes())
        """The (key, code) of which no log, of whatever type it is, adds to a report by the present category."""

    def rows(
        self,
        logs: Iterable[Log],
        rewritten: Iterable[tuple[Log, Log]] = (),
        unchanged: Iterable[Log] = (),
        *,
        before: Mapping[str, CaseState] = _NO_CASES,
        after: Mapping[str, CaseState] = _NO_CASES,
    ) -> list[Row]:
        """What new logs add and rewritten ones (before, after) change, one row of each report once.

        `before` has the cases as they are stored, `after` those that change, by reference. `unchanged` are the other
        stored logs of the cases whose category changes, those that `idle` names aside.
        """
        sums: dict[Row, list[int]] = {}
        for log in logs:
            self._add(log, 1, sums, after, before)
        for old, new in rewritten:
            self._add(old, -1, sums, before)
            self._add(new, 1, sums, after, before)
        for log in unchanged:  # what counts under the category at the log comes to nothing
            self._add(log, -1, sums, before)
            self._add(log, 1, sums, after, before)
        return [(*row, *counts) for row, counts in sums.items() if any(counts)]

    def _add(self, log: Log, sign: int, sums: dict[Row, list[int]], *cases: Mapping[str, CaseState]) -> None:
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
            period = self._month_of_case(log) if addition.monthly else day
            if period is None:
                continue
            counted = _by_category_in(cases, log.case, values) if addition.by_present_category else values
            row = (addition.report, period, *addition.chosen(counted))
            counts = sums.get(row)
            if counts is None:
                counts = sums[row] = [0] * len(SUMS)
            for at in ones:
                counts[at] += sign

    def _month_of_case(self, log: Log) -> str | None:
        """The first day of the month in which the log's case was created."""
        return None if log.case_created_at is None else self._day(log.case_created_at)[:8] + "01"

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
                found.append(
                    _Addition(report.name, report.is_monthly, report.by_present_category, itemgetter(*places), ones)
                )
        return found


def _by_category_in(cases: Iterable[Mapping[str, CaseState]], reference: str, values: Row) -> Row:
    """The dimensions, with the category that the case has in the first of these in which it is."""
    case = next((some[reference] for some in cases if reference in some), None)
    return (*values[:_CATEGORY_AT], None if case is None else case.category, *values[_CATEGORY_AT + 1 :])


def _idle(codes: Iterable[Code]) -> list[Name]:
    counts = [
        measure.counts
        for report in summed_reports()
        if report.by_present_category
        for measure in report.counted
        if measure.counts is not None
    ]
    return [
        (code.key, code.code)
        for code in codes
        if not any(one.may_hold(msgspec.structs.replace(code, type=LogType.OUTCOME)) for one in counts)
    ]


def fresh_sums(report: Report, logs: str) -> str:
    """The same in SQL: the rows of a report of sums from `logs`, a query of logs with a column `sign`.

    One row for each combination of dimensions: day, `DIMENSIONS`, `SUMS`, and the newest log counted. Expects the
    parameter zone, and a table `definition` that says of each code whether it creates cases and stops timers. Of a
    report by the present category, `logs` have it as `present_category`.
    """
    has = {column.name for column in report.dimensions}
    conditions = [measure.counts.sql() for measure in report.counted if measure.counts is not None]
    moment = "log.case_created_at" if report.is_monthly else "log.occurred_at"
    day = f"({moment} at time zone %(zone)s)::date"
    expressions = DIMENSIONS | ({"category": "log.present_category"} if report.by_present_category else {})
    dimensions = ", ".join(
        f"{expression if name in has else 'null::text'} as {name}" for name, expression in expressions.items()
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
