"""What a request asks of a report: the words of its query, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec

from caselog.events.errors import did_you_mean
from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.reports.reading import PERIODS, BadRequest, Reading, check_period, filters, periods
from caselog.schema.reports.terms.report import Report
from caselog.workers.rows.timestamps import NotAMoment, moment

DEFAULT_DAYS: Final = 30
DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
PARAMETERS: Final = ("from", "to", "by", "where", "now", "format")


class ReportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query as it was written, with defaults where it says nothing. Anything may be wrong with it: see `reading`.

    `where` holds (column, value) in the order given; an empty value asks for empty ones. `unknown` are the parameters
    that no report has, `malformed` the conditions that have no `=`.
    """

    report: Report
    first: str
    last: str
    by: str = ""
    where: tuple[tuple[str, str], ...] = ()
    now: str = ""
    unknown: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()
    asked_at: datetime
    zone: ZoneInfo

    def reading(self) -> Reading:
        """What is to be read. Raises `BadRequest`: one line, with the nearest right name."""
        known = [*PARAMETERS, *(column.name for column in filters(self.report))]
        for name in self.unknown:
            raise BadRequest(f"there is no parameter {name!r}: choose {', '.join(known)}.{did_you_mean(name, known)}")
        for condition in self.malformed:
            raise BadRequest(f"where: {condition!r} is no condition; give one such as category=debt")
        where = dict(self.where)
        for name, value in self.where:
            if where[name] != value:
                raise BadRequest(f"where: {name} cannot be both {value!r} and {where[name]!r}; leave one out")
            if "\0" in value:
                raise BadRequest(f"where: the value of {name} has a NUL character, which no text has")
        return Reading(
            report=self.report,
            first=_day(self.first, "from"),
            last=_day(self.last, "to"),
            by=check_period(self.by) if self.by else None,
            where={name: value or None for name, value in where.items()},
            now=self._moment(),
            zone=self.zone,
        )

    def query(self, **more: str) -> str:
        """The query that asks the same, for a link; without what is left to its default."""
        said = [("from", self.first), ("to", self.last)]
        said += [("by", self.by)] if self.by else []
        said += [("where", f"{name}={value}") for name, value in self.where]
        said += [("now", self.now)] if self.now else []
        return urlencode([*said, *more.items()])

    def about(self, report: Report) -> ReportQuery:
        """The same of another report, without the conditions and the period that only others have."""
        others = {column.name for other in REPORTS.values() for column in filters(other)}
        others -= {column.name for column in filters(report)}
        return msgspec.structs.replace(
            self,
            report=report,
            by="" if self.by in PERIODS and self.by not in periods(report) else self.by,
            where=tuple(pair for pair in self.where if pair[0] not in others),
            unknown=tuple(name for name in self.unknown if name not in others and name != "report"),
        )

    def _moment(self) -> datetime:
        if not self.now:
            return self.asked_at
        try:
            return moment(self.now, self.zone)
        except NotAMoment as error:
            raise BadRequest(f"now: {error}") from None


def question(report: Report, query: Iterable[tuple[str, str]], zone: ZoneInfo, asked_at: datetime) -> ReportQuery:
    """What a query asks of this report. Of a parameter that is given twice, the last counts; `where` adds up.

    A column's own name asks for its value too, as the fields of the page's form do: `category=debt`. An empty value
    says nothing. Without days, it asks for the last 30 up to today.
    """
    said: dict[str, str] = {}
    where: list[tuple[str, str]] = []
    malformed: list[str] = []
    names = {column.name for column in filters(report)}
    for name, value in query:
        if name == "where" and value:
            column, equals, wanted = value.partition("=")
            if equals:
                where.append((column, wanted))
            else:
                malformed.append(value)
        elif name in names and value:
            where.append((name, value))
        elif name not in names:
            said[name] = value
    today = asked_at.astimezone(zone).date()
    last = said.get("to") or str(today)
    return ReportQuery(
        report=report,
        first=said.get("from") or str(_before(last, today)),
        last=last,
        by=said.get("by", ""),
        where=tuple(dict.fromkeys(where)),
        now=said.get("now", ""),
        unknown=tuple(name for name in said if name not in PARAMETERS),
        malformed=tuple(malformed),
        asked_at=asked_at.astimezone(UTC),
        zone=zone,
    )


def _before(last: str, today: date) -> date:
    """The first of the days that a query asks for which names the last alone."""
    try:
        return date.fromisoformat(last) - timedelta(days=DEFAULT_DAYS - 1)
    except (ValueError, OverflowError):
        return today


def _day(value: str, parameter: str) -> date:
    try:
        if DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise BadRequest(f"{parameter}: {value!r} is no day; give one such as 2026-11-23")
