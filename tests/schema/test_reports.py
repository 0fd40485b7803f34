"""The report tables: each delta is added up once, whoever drains the outbox and wherever it is killed (RULES.md §7)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine

from events.state import Log
from schema import reports
from schema.reports import OUTCOMES, Delta, UnknownReport, get_report

LONDON = ZoneInfo("Europe/London")
ROW: tuple[str | None, ...] = ("2026-03-02", "suspend_case", "TERM", "debt", None, "org", "WEB")


def an_outcome(**fields: Any) -> Log:
    defaults: dict[str, Any] = {
        "id": 1,
        "source": "/test",
        "event_id": "1",
        "key": "suspend_case",
        "code": "TERM",
        "type": "outcome",
        "level": 29,
        "occurred_at": datetime(2026, 3, 2, 9, tzinfo=UTC),
        "case": "AB-1",
        "category": "debt",
        "organisation": "org",
        "case_source": "WEB",
    }
    return Log(**(defaults | fields))


def whole_report(db: Connection) -> list[tuple[Any, ...]]:
    return list(reports.read_report(db, OUTCOMES, date(1900, 1, 1), date(9998, 1, 1)))


def test_equal_outcomes_are_one_delta() -> None:
    assert reports.deltas([an_outcome(), an_outcome(event_id="2")], [], LONDON) == [Delta("outcomes", ROW, 2)]


def test_only_unsuppressed_outcomes_count() -> None:
    logs = [an_outcome(suppressed=True), an_outcome(type="system"), an_outcome(type="event")]
    assert reports.deltas(logs, [], LONDON) == []


def test_the_day_of_an_outcome_is_the_local_one() -> None:
    """Half past eleven at night in UTC is the next day in London, in summer."""
    summer = an_outcome(occurred_at=datetime(2026, 7, 1, 23, 30, tzinfo=UTC))
    winter = an_outcome(occurred_at=datetime(2026, 1, 1, 23, 30, tzinfo=UTC))
    assert [d.dimensions[0] for d in reports.deltas([summer, winter], [], LONDON)] == ["2026-07-02", "2026-01-01"]


def test_a_log_that_is_rewritten_moves_from_one_row_to_the_other() -> None:
    before, after = an_outcome(), an_outcome(provider="prov-1")
    moved = {d.dimensions[4]: d.count for d in reports.deltas([], [(before, after)], LONDON)}
    assert moved == {None: -1, "prov-1": 1}
    taken_back = reports.deltas([], [(before, an_outcome(suppressed=True))], LONDON)
    assert [d.count for d in taken_back] == [-1]
    assert reports.deltas([], [(before, an_outcome())], LONDON) == []


def test_draining_adds_each_delta_to_its_row_and_empties_the_outbox(engine: Engine) -> None:
    """Dimensions that are not known are equal to each other and to nothing else."""
    other = (*ROW[:4], "prov-1", *ROW[5:])
    with engine.begin() as db:
        reports.post(db, [Delta("outcomes", ROW, 2), Delta("outcomes", other, 1)])
        reports.post(db, [Delta("outcomes", ROW, 3)])
        assert reports.outbox_lag(db).deltas == 3
        assert reports.drain_outbox(db) == 3
        reports.post(db, [Delta("outcomes", ROW, 1), Delta("outcomes", other, -1)])
        assert reports.drain_outbox(db) == 2
        assert reports.drain_outbox(db) == 0
        assert reports.outbox_lag(db) == reports.OutboxLag(deltas=0, oldest_age_s=None)
        assert whole_report(db) == [(date(2026, 3, 2), *ROW[1:], 6)]


def test_no_more_than_asked_for_is_taken_at_once_and_the_oldest_first(engine: Engine) -> None:
    with engine.begin() as db:
        reports.post(db, [Delta("outcomes", ROW, n) for n in (1, 10, 100)])
        assert reports.drain_outbox(db, limit=2) == 2
        assert [row[-1] for row in whole_report(db)] == [11]


def test_an_aggregator_that_is_killed_loses_nothing_and_repeats_nothing(engine: Engine) -> None:
    """Its transaction is rolled back: the deltas are in the outbox, and not in the report."""
    with engine.begin() as db:
        reports.post(db, [Delta("outcomes", ROW, 5)])
    killed = engine.connect()
    killed.begin()
    assert reports.drain_outbox(killed) == 1
    killed.close()
    with engine.begin() as db:
        assert whole_report(db) == []
        assert reports.drain_outbox(db) == 1
        assert [row[-1] for row in whole_report(db)] == [5]


def test_two_aggregators_at_once_add_each_delta_once(engine: Engine) -> None:
    """One does not wait for what the other has in hand, but takes other deltas; the sums are of all of them."""
    with engine.begin() as db:
        reports.post(db, [Delta("outcomes", ROW, 1)])
    first = engine.connect()
    transaction = first.begin()
    assert reports.drain_outbox(first) == 1
    with engine.begin() as db:
        assert reports.drain_outbox(db) == 0
    transaction.commit()
    first.close()
    rows = [(f"2026-03-{day:02}", *ROW[1:]) for day in range(1, 29)]
    with engine.begin() as db:
        for _ in range(20):
            reports.post(db, [Delta("outcomes", row, 1) for row in rows])

    def drain(_number: int) -> int:
        taken = 0
        while True:
            with engine.begin() as db:
                some = reports.drain_outbox(db, limit=37)
            if not some:
                return taken
            taken += some

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(drain, range(2))) == 20 * len(rows)
    with engine.begin() as db:
        while reports.drain_outbox(db):
            pass
        assert [row[-1] for row in whole_report(db)] == [20, 21, *[20] * 26]


def test_a_report_has_both_its_days_and_no_row_that_came_to_nothing(engine: Engine) -> None:
    days = ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]
    with engine.begin() as db:
        reports.post(db, [Delta("outcomes", (day, *ROW[1:]), 1) for day in days])
        reports.post(db, [Delta("outcomes", ("2026-03-02", *ROW[1:]), -1)])
        reports.drain_outbox(db)
        found = reports.read_report(db, OUTCOMES, date(2026, 3, 1), date(2026, 3, 3))
        assert [row[0] for row in found] == [date(2026, 3, 1), date(2026, 3, 3)]


def test_what_was_posted_up_to_a_mark_is_told_from_what_came_after(engine: Engine) -> None:
    with engine.begin() as db:
        assert reports.outbox_mark(db) == 0
        reports.post(db, [Delta("outcomes", ROW, 1)])
        mark = reports.outbox_mark(db)
        assert reports.outbox_holds(db, mark)
        reports.drain_outbox(db)
        reports.post(db, [Delta("outcomes", ROW, 1)])
        assert not reports.outbox_holds(db, mark)


def test_an_unknown_report_is_told_the_nearest() -> None:
    assert get_report("outcomes") is OUTCOMES
    with pytest.raises(UnknownReport, match="Did you mean 'outcomes'"):
        get_report("outcome")
