"""Reports of sums: each delta is added up once, whoever takes it and wherever it is killed (docs/rules.md §7)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine
from support.oracle.proof import RULES, found
from support.oracle.stored import insert_logs
from support.processes.pipeline import eventually

from caselog.events.folding.recompute import Definitions
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.recording import store
from caselog.schema.reports import outbox
from caselog.schema.reports.catalogue import get_report, summed_reports
from caselog.schema.reports.categories import counted_logs
from caselog.schema.reports.reading import Reading, read_rows
from caselog.schema.reports.tally import ReportTally, Row
from caselog.schema.verification import session as proof
from caselog.schema.verification import streams

pytestmark = pytest.mark.unproven("posts deltas without logs")

LONDON = ZoneInfo("Europe/London")
ROW: Row = ("outcomes", "2026-03-02", "suspend_case", "TERM", "debt", None, "org", "WEB", None, 1, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def _apps() -> None:
    autodiscover()


def a_log(**fields: Any) -> Log:
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
        "case_created_at": datetime(2026, 2, 27, 9, tzinfo=UTC),
    }
    return Log(**(defaults | fields))


def added(logs: list[Log], rewritten: list[tuple[Log, Log]] | None = None, report: str = "outcomes") -> list[Row]:
    rows = ReportTally(Definitions(event_registry), LONDON).rows(logs, rewritten or [])
    return sorted((row for row in rows if row[0] == report), key=str)


def whole_report(db: Connection) -> list[tuple[Any, ...]]:
    return list(read(db, date(1900, 1, 1), date(9998, 1, 1)))


def read(db: Connection, first: date, last: date) -> list[tuple[Any, ...]]:
    asked = Reading(report=get_report("outcomes"), first=first, last=last, now=datetime.now(UTC), zone=LONDON)
    return list(read_rows(db, asked))


def shown(row: Row, outcomes: int) -> tuple[Any, ...]:
    """A row as the report shows it: without its name, its operator and the sums that it has not."""
    return (date.fromisoformat(row[1]), *row[2:8], outcomes)


def test_equal_outcomes_are_one_delta() -> None:
    assert added([a_log(), a_log(event_id="2")]) == [(*ROW[:-3], 2, 0, 0)]


def test_only_unsuppressed_outcomes_of_cases_count() -> None:
    assert added([a_log(suppressed=True), a_log(type="system"), a_log(type="event"), a_log(case=None)]) == []


def test_the_day_of_an_outcome_is_the_local_one() -> None:
    """Half past eleven at night in UTC is the next day in London, in summer."""
    summer = a_log(occurred_at=datetime(2026, 7, 1, 23, 30, tzinfo=UTC))
    winter = a_log(occurred_at=datetime(2026, 1, 1, 23, 30, tzinfo=UTC))
    assert [row[1] for row in added([summer, winter])] == ["2026-01-01", "2026-07-02"]


def test_a_log_that_is_rewritten_moves_from_one_row_to_the_other() -> None:
    before, after = a_log(), a_log(provider="prov-1")
    assert {row[5]: row[-3] for row in added([], [(before, after)])} == {None: -1, "prov-1": 1}
    assert [row[-3] for row in added([], [(before, a_log(suppressed=True))])] == [-1]
    assert added([], [(before, a_log())]) == []


def test_a_contact_counts_in_the_month_in_which_its_case_was_created() -> None:
    """Also where that was local midnight of the first: 23:00 UTC of the last day before, in summer."""
    late = a_log(occurred_at=datetime(2026, 9, 9, tzinfo=UTC), case_created_at=datetime(2026, 6, 30, 23, tzinfo=UTC))
    assert [row[1] for row in added([a_log(), late], report="contacts_per_case")] == ["2026-02-01", "2026-07-01"]


def test_a_case_counts_under_its_present_category_and_takes_with_it_what_it_added_before() -> None:
    """A contact as debt; then the case is found to be about housing, and has another. `outcomes` stay as they were."""
    stored, new = a_log(), a_log(event_id="2", category="housing")
    tally = ReportTally(Definitions(event_registry), LONDON)
    before, after = {"AB-1": CaseState(reference="AB-1", category="debt")}, {}
    after["AB-1"] = CaseState(reference="AB-1", category="housing")
    rows = tally.rows([new], (), [stored], before=before, after=after)
    assert {(row[0], row[4]): row[-3:] for row in rows} == {
        ("contacts_per_case", "debt"): (0, -1, 0),
        ("contacts_per_case", "housing"): (0, 2, 0),
        ("outcomes", "housing"): (1, 0, 0),
    }
    turned = a_log(suppressed=True)
    assert {
        row[4]: row[-3:]
        for row in tally.rows([], [(stored, turned)], before=before, after=after)
        if row[0] != "outcomes"
    } == {"debt": (0, -1, 0)}


def test_what_counts_in_no_report_by_the_present_category_is_known() -> None:
    """A log whose case moves is read only where it can count: where it creates the case or stops a timer."""
    idle = set(ReportTally(Definitions(event_registry), LONDON).idle)
    # Retired ones as well: a test before may have left some.
    codes = {(code.key, code.code): code for code in event_registry.folded_codes()}
    assert idle == {name for name, code in codes.items() if not (code.creates_case or code.stops_timer)} != set()


def test_a_post_is_one_row_of_the_outbox_and_is_added_up_once(engine: Engine) -> None:
    other = (*ROW[:4], "debt", "prov-1", *ROW[6:])
    with engine.begin() as db:
        assert outbox.post(db, [(*ROW[:-3], 2, 0, 0), other], ["AB-1"]) == 3
        assert outbox.post(db, [(*ROW[:-3], 3, 0, 0)], []) == 1
        assert outbox.post(db, [], []) == 0
        assert outbox.lag(db).deltas == 4
        assert outbox.take(db) == outbox.Taken(deltas=4, cases=["AB-1"])
        outbox.post(db, [ROW, (*other[:-3], -1, 0, 0)], [])
        assert outbox.take(db) == outbox.Taken(deltas=2, cases=[])
        assert outbox.take(db) == outbox.Taken(deltas=0, cases=[])
        assert outbox.lag(db) == outbox.OutboxLag(deltas=0, oldest_age_s=None)
        assert whole_report(db) == [shown(ROW, 6)], "what came to nothing is no row"


def test_a_block_is_limited_in_rows_and_deltas_and_takes_the_oldest_first(engine: Engine) -> None:
    with engine.begin() as db:
        for n in (1, 10, 100, 1000):
            outbox.post(db, [(*ROW[:-3], n, 0, 0)], ["AB-1"])
        assert outbox.take(db, most_rows=1).deltas == 2
        assert whole_report(db) == [shown(ROW, 1)]
        assert outbox.take(db, most_deltas=3).deltas == 4, "a row of the outbox is taken whole"
        assert whole_report(db) == [shown(ROW, 111)]


def test_killed_before_the_commit_a_delta_is_still_in_the_outbox(engine: Engine) -> None:
    with engine.begin() as db:
        outbox.post(db, [(*ROW[:-3], 5, 0, 0)], ["AB-1"])
    killed = engine.connect()
    killed.begin()
    assert outbox.take(killed).deltas == 2
    killed.invalidate()
    killed.close()

    def take() -> list[str]:
        with engine.begin() as db:
            return outbox.take(db).cases

    eventually(lambda: take() == ["AB-1"], "the server has noticed, and lets go of the rows")
    with engine.begin() as db:
        assert whole_report(db) == [shown(ROW, 5)]


def test_what_one_has_taken_another_does_not_take(engine: Engine) -> None:
    with engine.begin() as db:
        outbox.post(db, [ROW], [])
    with engine.connect() as first, first.begin(), engine.begin() as db:
        assert outbox.take(first).deltas == 1
        assert outbox.take(db).deltas == 0


def test_several_that_take_at_once_add_everything_up_once(engine: Engine) -> None:
    rows = [(*ROW[:3], code, *ROW[4:]) for code in "ABCDEFGHIJ"]
    for _ in range(40):
        with engine.begin() as db:
            outbox.post(db, rows, [])

    def take_all(_: int) -> int:
        total = 0
        while True:
            with engine.begin() as db:
                some = outbox.take(db, most_rows=3).deltas
            if not some:
                return total
            total += some

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(take_all, range(4))) == 400
    with engine.begin() as db:
        while outbox.take(db).deltas:  # one may have found all that was left locked
            pass
        assert {row[2]: row[-1] for row in whole_report(db)} == dict.fromkeys("ABCDEFGHIJ", 40)


def test_both_days_are_included(engine: Engine) -> None:
    with engine.begin() as db:
        for day in range(1, 6):
            outbox.post(db, [("outcomes", f"2026-03-0{day}", *ROW[2:])], [])
        outbox.take(db)
        found = read(db, date(2026, 3, 2), date(2026, 3, 4))
    assert [row[0].day for row in found] == [2, 3, 4]


def test_the_outbox_holds_a_mark_until_it_is_taken(engine: Engine) -> None:
    with engine.begin() as db:
        assert outbox.mark(db) == 0
        outbox.post(db, [ROW], [])
        mark = outbox.mark(db)
        assert outbox.holds(db, mark)
        outbox.take(db)
        outbox.post(db, [ROW], [])
        assert not outbox.holds(db, mark)


_moments = st.sampled_from([timedelta(0), timedelta(hours=15), timedelta(days=1, hours=2), timedelta(days=40)]).map(
    lambda after: datetime(2026, 6, 30, 8, tzinfo=UTC) + after
)
_few = st.sampled_from([None, "a", "b"])


@st.composite
def _logs(draw: st.DrawFn) -> list[Log]:
    codes = sorted(event_registry.codes(), key=lambda code: (code.key, code.code))
    logs = []
    for number in range(draw(st.integers(1, 12))):
        code = draw(st.sampled_from(codes))
        logs.append(
            Log(
                id=number + 1,
                source="/test",
                event_id=str(number),
                key=code.key,
                code=code.code,
                type=code.type.value,
                level=code.level.value,
                occurred_at=draw(_moments),
                case=draw(st.sampled_from(["AB-1", "AB-2", "AB-2", None])),
                actor=draw(_few),
                role=draw(st.sampled_from([None, "operator", "operator_manager", "specialist", "web"])),
                context=draw(st.sampled_from([{}, {"eligibility_state": "yes"}, {"eligibility_state": None}])),
                suppressed=draw(st.booleans()),
                category=draw(_few),
                provider=draw(_few),
                organisation=draw(_few),
                case_source=draw(st.sampled_from([None, "WEB", "PHONE"])),
                case_created_at=draw(st.one_of(st.none(), _moments)),
            )
        )
    return logs


_categories = st.fixed_dictionaries({"AB-1": _few, "AB-2": _few})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(logs=_logs(), categories=st.lists(_categories, min_size=1, max_size=3), stored_first=st.integers(0, 12))
def test_what_the_recorder_posts_is_what_a_count_of_the_log_in_sql_finds(
    engine: Engine, database_url: str, logs: list[Log], categories: list[dict[str, str | None]], stored_first: int
) -> None:
    """The two sides of each condition and dimension: of a log in hand, and of the stored log.

    The cases' categories change from batch to batch; the first finds no cases, the last no new logs.
    """
    tally = ReportTally(Definitions(event_registry), LONDON)
    with engine.begin() as db:
        db.exec_driver_sql('truncate log, "case", report_sum, report_outbox')
        stored: dict[str, CaseState] = {}
        for number, named in enumerate([*categories, categories[0]]):
            fresh = [logs[:stored_first], logs[stored_first:]][number] if number < 2 else []
            cases = {name: _case(name, category) for name, category in named.items()}
            moved = [name for name, case in stored.items() if case.category != cases[name].category]
            unchanged = counted_logs(db, moved, tally.idle)
            outbox.post(db, tally.rows(fresh, (), unchanged, before=stored, after=cases), [])
            insert_logs(db, fresh)
            store.update_cases(db, cases.values()) if stored else store.insert_cases(db, cases.values())
            stored = cases
        outbox.take(db)
    session = proof.open_session(database_url)
    try:
        proof.define(session, event_registry.folded_codes())
        with proof.snapshot(session):
            for report in summed_reports():
                assert list(streams.report_gaps(session, report, LONDON.key, as_kept=False)) == [], report.name
    finally:
        session.close()


def _case(reference: str, category: str | None) -> CaseState:
    return CaseState(reference=reference, category=category, created_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_sum_that_is_off_by_one_is_found(engine: Engine, database_url: str) -> None:
    log = a_log()
    with engine.begin() as db:
        insert_logs(db, [log])
        outbox.post(db, ReportTally(Definitions(event_registry), LONDON).rows([log]), [])
        outbox.take(db)
        db.exec_driver_sql("update report_sum set n1 = n1 + 1 where report = 'outcomes'")
    wrong = [finding for finding in found(database_url, rules=RULES) if finding.table == "report_outcomes"]
    assert [(finding.stored, finding.fresh) for finding in wrong] == [({"outcomes": 2}, {"outcomes": 1})]
