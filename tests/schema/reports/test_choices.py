"""What a page shows beside the rows says the same as the rows do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection
from support.processes.pipeline import created
from support.processes.recorded import recorded

from caselog.schema.reports.catalogue import REPORTS, get_report
from caselog.schema.reports.choices import MOST_CHOICES, read_choices
from caselog.schema.reports.reading import By, Reading, read_rows, read_series
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate

LONDON = ZoneInfo("Europe/London")
FIRST, LAST = date(2025, 1, 6), date(2025, 3, 31)


@pytest.fixture(scope="module")
def db(make_database: Callable[[str], str], template: str) -> Iterator[Connection]:
    with recorded(make_database, template, simulate(150, 3)) as database_url:
        engine = make_engine(database_url)
        with engine.connect() as connection:
            yield connection
        engine.dispose()


def asked(name: str, **more: Any) -> Reading:
    now = datetime(2025, 6, 1, tzinfo=UTC)
    return Reading(report=get_report(name), first=FIRST, last=LAST, now=now, zone=LONDON, **more)


def start_of(day: date, by: By) -> date:
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[by]


@pytest.mark.parametrize("by", ["day", "week", "month"])
@pytest.mark.parametrize("name", sorted(REPORTS))
def test_a_series_is_what_the_rows_add_up_to(db: Connection, name: str, by: By) -> None:
    """Main measures are counts: what a period has is the sum of its rows. Of a list, a row counts one."""
    reading = asked(name)
    report = reading.report
    names = [column.name for column in reading.columns]
    expected: Counter[date] = Counter()
    for row in read_rows(db, reading):
        if report.main_measure is not None:
            day = date.fromisoformat(f"{row[0]}-01") if report.is_monthly else row[0]
            expected[start_of(day, "month" if report.is_monthly else by)] += row[names.index(report.main_measure.name)]
        else:
            assert report.moment is not None
            expected[start_of(row[names.index(report.moment)].astimezone(LONDON).date(), by)] += 1
    assert expected
    found = read_series(db, reading, "month" if report.is_monthly else by)
    assert found == sorted(found)
    assert dict(found) == expected


def test_a_series_is_of_what_matches(db: Connection) -> None:
    every = sum(number for _, number in read_series(db, asked("outcomes"), "day"))
    parts = [
        sum(number for _, number in read_series(db, asked("outcomes", where={"category": value}), "day"))
        for value in read_choices(db, asked("outcomes"))["category"]
    ]
    assert min(parts) > 0
    assert sum(parts) == every


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_what_can_be_chosen_is_what_the_rows_have(db: Connection, name: str) -> None:
    """Also where something else was chosen already; of lists, nothing is offered."""
    reading = asked(name)
    names = [column.name for column in reading.columns]
    expected: dict[str, set[str | None]] = defaultdict(set)
    for row in read_rows(db, reading) if reading.report.measures else ():
        for column in reading.filters:
            expected[column.name].add(row[names.index(column.name)])
    found = read_choices(db, reading)
    assert {column: set(values) for column, values in found.items()} == expected
    for values in found.values():
        known = [value for value in values if value is not None]
        assert known == sorted(known)
    narrowed = asked(name, where=dict.fromkeys([column.name for column in reading.filters], "nobody"))
    assert read_choices(db, narrowed) == found


def test_a_column_with_too_many_values_offers_none(make_database: Callable[[str], str], template: str) -> None:
    events = [
        created(f"AB-{number}", f"2025-02-03T10:00:{number % 60:02}Z", data={"context": {"organisation": str(number)}})
        for number in range(MOST_CHOICES + 1)
    ]
    with recorded(make_database, template, events) as database_url:
        engine = make_engine(database_url)
        with engine.connect() as connection:
            choices = read_choices(connection, asked("case_volume"))
        engine.dispose()
    assert choices == {"source": ["PHONE"], "category": [None]}
