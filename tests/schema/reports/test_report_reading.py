"""Every report can be read in every way in which it says it can, and in no other (docs/rules.md §7)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, text

from caselog.schema.reports import outbox
from caselog.schema.reports.catalogue import REPORTS, UnknownReport, get_report
from caselog.schema.reports.reading import PERIODS, BadRequest, Reading, read_rows, read_totals
from caselog.schema.reports.terms.report import SUMS, Report

pytestmark = pytest.mark.unproven("posts deltas without logs, and callbacks without cases")

LONDON = ZoneInfo("Europe/London")
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
# What they count: docs/rules.md §7.
NAMES = {
    "outcomes", "contacts_per_case", "case_volume", "handling_time", "operator_volume", "provider_allocation",
    "provider_performance", "alternative_help", "callbacks", "callback_sla", "callback_progression", "complaints",
    "outcome_extract",
}  # fmt: skip


def asked(name: str = "case_volume", **more: Any) -> Reading:
    defaults: dict[str, Any] = {"first": date(2026, 6, 1), "last": date(2026, 7, 31), "now": NOW, "zone": LONDON}
    return Reading(report=get_report(name), **(defaults | more))


def volume(day: str, category: str | None, cases: int, web: int = 0) -> tuple[Any, ...]:
    return ("case_volume", day, None, None, category, None, None, "WEB", None, cases, web, 0)


@pytest.fixture
def volumes(engine: Engine) -> Engine:
    """Five weeks' cases over two months."""
    with engine.begin() as db:
        rows = [
            volume("2026-06-29", "debt", 1), volume("2026-06-30", "debt", 2, 1), volume("2026-07-01", "debt", 4),
            volume("2026-07-06", None, 8), volume("2026-07-31", "housing", 16, 16), volume("2026-08-01", "debt", 32),
        ]  # fmt: skip
        outbox.post(db, rows, [])
        outbox.take(db)
    return engine


def rows(engine: Engine, reading: Reading) -> list[tuple[Any, ...]]:
    with engine.connect() as db:
        return list(read_rows(db, reading))


def test_there_are_the_thirteen_of_the_rules() -> None:
    assert set(REPORTS) == NAMES


@pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.name)
def test_a_report_says_what_each_column_holds(report: Report) -> None:
    """Numbers have a unit, no name comes twice, and sums have a place."""
    names = [column.name for column in report.columns]
    assert len(set(names)) == len(names)
    assert len(report.counted) <= len(SUMS)
    for column in report.columns:
        assert column.description, column.name
        assert bool(column.unit) == (column.kind == "number"), column.name


@pytest.mark.parametrize("by", [None, *PERIODS])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_report_reads_an_empty_log(engine: Engine, name: str, by: Any) -> None:
    report = get_report(name)
    if by is not None and (not report.measures or (report.is_monthly and by != "month")):
        with pytest.raises(BadRequest, match=name):
            asked(name, by=by)
        return
    reading = asked(name, by=by)
    assert rows(engine, reading) == []
    every = {column.name: None for column in reading.filters}
    assert rows(engine, asked(name, by=by, where=every)) == []
    assert rows(engine, asked(name, by=by, where=dict.fromkeys(every, "a value"))) == []
    if report.measures:
        with engine.connect() as db:
            assert [bool(value) for value in read_totals(db, reading)] == [False] * len(report.measures)


def test_weeks_begin_on_monday_and_months_on_the_first(volumes: Engine) -> None:
    weekly = [(row[0], row[-2]) for row in rows(volumes, asked(by="week", where={"category": "debt"}))]
    assert weekly == [(date(2026, 6, 29), 7)]
    monthly = [(row[0], row[-2]) for row in rows(volumes, asked(by="month", where={"category": "debt"}))]
    assert monthly == [("2026-06", 3), ("2026-07", 4)]


def test_a_reading_by_month_names_its_first_column_so() -> None:
    assert [column.name for column in asked(by="month").columns][:2] == ["month", "source"]
    assert asked(by="day").columns == asked().columns


def test_only_what_matches_is_read_and_nothing_is_a_value(volumes: Engine) -> None:
    assert [row[-2] for row in rows(volumes, asked(where={"category": "debt"}))] == [1, 2, 4]
    assert [row[-2] for row in rows(volumes, asked(where={"category": None}))] == [8]
    assert rows(volumes, asked(where={"category": "debt", "organisation": "x"})) == []


def test_totals_are_of_the_rows_that_are_read(volumes: Engine) -> None:
    with volumes.connect() as db:
        assert read_totals(db, asked()) == (31, 17)
        assert read_totals(db, asked(where={"category": "debt"})) == (7, 1)


def test_a_month_is_read_when_any_of_its_days_is(engine: Engine) -> None:
    with engine.begin() as db:
        row = ("contacts_per_case", "2026-06-01", None, None, "debt", None, None, None, None, 2, 5, 0)
        outbox.post(db, [row], [])
        outbox.take(db)
    middle = asked("contacts_per_case", first=date(2026, 6, 15), last=date(2026, 6, 20))
    assert rows(engine, middle) == [("2026-06", "debt", 2, 5, 2.5)]
    assert rows(engine, asked("contacts_per_case", first=date(2026, 7, 1))) == []


def test_whether_a_callback_is_missed_depends_on_the_moment_of_asking(engine: Engine) -> None:
    """Promised for 12:00 UTC with half an hour to spare, and nobody called."""
    with engine.begin() as db:
        db.execute(
            text(
                """
                insert into callback (log_id, case_reference, code, attempt, logged_at, callback_at, source, sla_72h)
                values (1, 'AB-1', 'CB1', 1, '2026-07-01 09:00Z', '2026-07-01 12:00Z', 'PHONE', '2026-07-09 12:00Z')
                """
            )
        )

    def missed(now: datetime) -> list[tuple[Any, ...]]:
        return [row[-2:] for row in rows(engine, asked("callbacks", now=now))]

    assert missed(datetime(2026, 7, 1, 12, 30, tzinfo=UTC)) == [(False, False)]
    assert missed(datetime(2026, 7, 1, 12, 30, 0, 1, tzinfo=UTC)) == [(True, False)]
    assert missed(datetime(2026, 7, 9, 12, 0, 0, 1, tzinfo=UTC)) == [(True, True)]


def test_days_at_the_ends_of_the_calendar_are_days(engine: Engine) -> None:
    for name in sorted(NAMES):
        assert rows(engine, asked(name, first=date(1, 1, 1), last=date(9999, 12, 31))) == []


def test_what_is_asked_wrongly_is_said_in_one_line_with_the_nearest_right_name() -> None:
    with pytest.raises(UnknownReport, match=r"^there is no report 'outcome'\. Did you mean 'outcomes'\?"):
        get_report("outcome")
    with pytest.raises(BadRequest, match=r"cannot be filtered by 'catgory'.*Did you mean 'category'\?"):
        asked(where={"catgory": "debt"})
    with pytest.raises(BadRequest, match=r"no period 'moth'.*Did you mean 'month'\?"):
        asked(by="moth")
    with pytest.raises(BadRequest, match="later than the last"):
        asked(first=date(2026, 8, 1), last=date(2026, 7, 1))
    with pytest.raises(BadRequest, match="lists single rows"):
        asked("callbacks", by="week")
    with pytest.raises(BadRequest, match="kept by month"):
        asked("contacts_per_case", by="day")


def test_no_more_is_read_than_asked_for_and_the_connection_goes_on(volumes: Engine) -> None:
    with volumes.connect() as db:
        some = list(read_rows(db, asked(), most=2))
        assert some == list(read_rows(db, asked()))[:2]
        assert read_totals(db, asked()) == (31, 17)
        assert list(read_rows(db, asked("callbacks"), most=2)) == []


def test_sums_are_read_as_they_are_kept_and_what_came_to_nothing_is_no_row(volumes: Engine) -> None:
    with volumes.begin() as db:
        outbox.post(db, [volume("2026-06-30", "debt", -2, -1), volume("2026-07-06", None, 0, 3)], [])
        outbox.take(db)
    read = rows(volumes, asked())
    assert [row[-2:] for row in read] == [(1, 0), (4, 0), (8, 3), (16, 16)]
    assert read == rows(volumes, asked(by="day"))


@pytest.mark.parametrize("by", [None, "week", "month"])
def test_the_widest_report_can_be_read_in_the_order_of_an_index(volumes: Engine, by: Any) -> None:
    """So that the first row of many comes at once, wherever PostgreSQL finds that to be less work than to sort."""
    reading = asked("outcomes", by=by)
    with volumes.connect() as db:
        db.execute(text("set local enable_sort = off; set local enable_hashagg = off; set local enable_seqscan = off"))
        plan = "\n".join(db.execute(text(f"explain {reading.sql}"), reading.parameters(reading.sql)).scalars())
    assert (f"report_sum_{by}_idx" if by else "report_sum_row_key") in plan
    assert "Sort" not in plan
