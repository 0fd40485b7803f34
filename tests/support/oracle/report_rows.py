"""What a database's reports say, in the words of `report_reference.py`, so that the two can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection

from caselog.schema.reports.catalogue import get_report
from caselog.schema.reports.reading import Reading, read_rows
from support.oracle.reference import Outcome
from support.oracle.report_reference import OF_DAYS, REPORTS, Row, report

LONDON = ZoneInfo("Europe/London")
By = Literal["day", "week", "month"]


def asked(
    db: Connection,
    name: str,
    *,
    first: date,
    last: date,
    now: datetime,
    by: By | None = None,
    where: Mapping[str, str | None] | None = None,
) -> list[Row]:
    """The rows of a report, as dicts by column."""
    reading = Reading(
        report=get_report(name), first=first, last=last, now=now, zone=LONDON, by=by, where=dict(where or {})
    )
    names = [column.name for column in reading.columns]
    return [dict(zip(names, row, strict=True)) for row in read_rows(db, reading)]


def expected(name: str, outcome: Outcome, *, first: date, last: date, now: datetime, by: By | None = None) -> list[Row]:
    """The same of the oracle: months written as the reports write them, and the first column named for its period."""
    rows = report(name, outcome, first=first, last=last, now=now, by=by or "day")
    written = []
    for row in rows:
        first_column, *others = row
        period = by if by is not None and name in OF_DAYS else first_column
        value = row[first_column]
        written.append(
            {period: f"{value:%Y-%m}" if period == "month" else value} | {name: row[name] for name in others}
        )
    return written


def assert_same_rows(said: Iterable[Row], ought: Iterable[Row], what: Any) -> None:
    """The same rows in any order; fractions as far as both sides calculate alike."""
    said, ought = (sorted(map(_plain, rows), key=_exact) for rows in (said, ought))
    more, fewer = Counter(map(_exact, said)) - Counter(map(_exact, ought)), Counter(map(_exact, ought))
    fewer.subtract(map(_exact, said))
    assert (list(more), list(+fewer)) == ([], []), what
    for a, b in zip(said, ought, strict=True):
        assert a == {name: pytest.approx(value) if isinstance(value, float) else value for name, value in b.items()}, (
            what
        )


def _plain(row: Row) -> Row:
    return {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}


def _exact(row: Row) -> str:
    """What a row says but for its fractions."""
    return repr({name: value for name, value in row.items() if not isinstance(value, float)})


def assert_reports(
    db: Connection, outcome: Outcome, *, first: date, last: date, now: datetime, by: By | None = None
) -> None:
    """Every report that can be asked so says what the oracle says."""
    for name in REPORTS:
        if by is None or name in OF_DAYS or (by == "month" and name == "contacts_per_case"):
            asks: dict[str, Any] = {"first": first, "last": last, "now": now, "by": by}
            assert_same_rows(asked(db, name, **asks), expected(name, outcome, **asks), (name, asks))
