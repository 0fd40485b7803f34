"""Each report says what the independent reading of docs/rules.md §6 and §7 says, however events arrive."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from support.builders.stories import Worked, picked, told
from support.builders.strategies import START, deliveries, event_sets, report_event_sets
from support.builders.worked_cases import WORKED
from support.oracle.proof import RULES, add_up_reports, assert_verified, uncounted
from support.oracle.reference import Outcome, fold_all
from support.oracle.report_reference import REPORTS
from support.oracle.report_rows import By, asked, assert_reports, assert_same_rows, expected
from support.oracle.stored import body, dump
from support.processes.patience import DEADLINE_S

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.operations import dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.reports import facts
from caselog.schema.reports.catalogue import get_report
from caselog.schema.sessions.connection import make_engine
from caselog.workers.deadletters.requeue import requeue
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.tasks.aggregator import Aggregator
from caselog.workers.verification.rebuild import rebuild
from caselog.workers.verification.verify import Verification

Json = dict[str, Any]
TESTS = Path(__file__).parents[2]
EVER: Json = {"first": date(2020, 1, 1), "last": date(2030, 12, 31)}
NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
TABLES = 'log, "case", timer, dead_letter, parked, report_outbox, report_sum, callback, complaint, assignment, audit'
# An aggregator that is killed when a block's sums are added up and its facts written, but nothing is committed.
KILLED = """
import os, signal, sys
from support.oracle.proof import add_up_reports
from caselog.events.model.registry import autodiscover
from caselog.schema.reports import facts

replace = facts.replace_facts
facts.replace_facts = lambda *given: (replace(*given), os.kill(os.getpid(), signal.SIGKILL))
autodiscover()
add_up_reports(sys.argv[1])
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine) -> Recording:
    autodiscover()
    return Recording(engine, event_registry, RULES)


def record(recording: Recording, *batches: list[Json]) -> None:
    for batch in batches:
        recording.record([decode(body(*batch))])


def in_batches(events: list[Json], rng: random.Random) -> Iterator[list[Json]]:
    at = 0
    while at < len(events):
        size = rng.choice([1, 2, 5, 20, 100])
        yield events[at : at + size]
        at += size


def in_order(events: list[Json], _rng: random.Random) -> list[Json]:
    return events


def shuffled(events: list[Json], rng: random.Random) -> list[Json]:
    return rng.sample(events, len(events))


def shuffled_and_twice(events: list[Json], rng: random.Random) -> list[Json]:
    return shuffled([*events, *rng.sample(events, len(events) // 3)], rng)


def as_worked() -> list[Json]:
    """All worked cases in one history, each with cases and people of its own."""
    return [
        _renamed(event, f".{number}")
        for number, worked in enumerate(WORKED)
        for event in told(worked.story, f"worked-{number}")
    ]


def _renamed(event: Json, suffix: str) -> Json:
    actor = event["data"]["actor"]
    renamed = event | {"data": event["data"] | {"actor": actor | {"id": actor["id"] + suffix}}}
    return renamed | ({"subject": event["subject"] + suffix} if "subject" in event else {})


def a_history() -> list[Json]:
    return [*simulate(60, 5), *as_worked()]


def assert_reports_over_many_periods(engine: Engine, outcome: Outcome) -> None:
    """All in one go, a day, weeks in which the clocks change, whole weeks and months; then and much later."""
    early = datetime(2026, 3, 2, 11, 0, tzinfo=UTC)
    with engine.connect() as db:
        assert_reports(db, outcome, **EVER, now=NOW)
        assert_reports(db, outcome, **EVER, now=early)
        assert_reports(db, outcome, **EVER, now=NOW, by="day")
        assert_reports(db, outcome, **EVER, now=NOW, by="week")
        assert_reports(db, outcome, **EVER, now=early, by="month")
        for first, last in (
            (date(2026, 3, 2), date(2026, 3, 2)),
            (date(2026, 7, 6), date(2026, 7, 6)),
            (date(2025, 1, 7), date(2025, 1, 7)),
            (date(2026, 3, 25), date(2026, 4, 1)),
            (date(2026, 10, 24), date(2026, 10, 26)),
        ):
            assert_reports(db, outcome, first=first, last=last, now=NOW)
            assert_reports(db, outcome, first=first, last=last, now=NOW, by="week")
            assert_reports(db, outcome, first=first, last=last, now=NOW, by="month")


@pytest.mark.parametrize("worked", WORKED, ids=lambda worked: worked.law)
def test_the_oracle_says_of_a_worked_case_what_was_worked_out_by_hand(worked: Worked) -> None:
    """Compared without an order: the oracle has none."""
    first, last = worked.days
    rows = expected(worked.report, fold_all(told(worked.story)), first=first, last=last, now=worked.moment)
    assert len(rows) == len(worked.rows)
    for wanted in worked.rows:
        assert any(picked([row], [wanted]) == [wanted] for row in rows), (wanted, rows)


def test_reports_say_of_worked_cases_what_was_worked_out_by_hand(
    engine: Engine, recording: Recording, database_url: str
) -> None:
    for worked in WORKED:
        empty(database_url)
        record(recording, told(worked.story))
        add_up_reports(database_url)
        first, last = worked.days
        with engine.connect() as db:
            rows = asked(db, worked.report, first=first, last=last, now=worked.moment)
        assert picked(rows, worked.rows) == worked.rows, worked.law


def one_by_one(events: list[Json]) -> list[list[Json]]:
    return [[event] for event in events]


def backwards(events: list[Json]) -> list[list[Json]]:
    return one_by_one(events[::-1])


def the_second_half_first(events: list[Json]) -> list[list[Json]]:
    half = len(events) // 2
    return [events[half:], events[:half]]


MOVING = [worked for worked in WORKED if worked.report in ("case_volume", "contacts_per_case", "provider_allocation")]


@pytest.mark.parametrize("delivered", [one_by_one, backwards, the_second_half_first])
@pytest.mark.parametrize("worked", MOVING, ids=lambda worked: worked.law)
def test_what_a_case_added_moves_with_it_however_its_events_arrive(
    worked: Worked,
    delivered: Callable[[list[Json]], list[list[Json]]],
    engine: Engine,
    recording: Recording,
    database_url: str,
) -> None:
    """Each batch changes what the ones before it, added up already, have said of the case."""
    for batch in delivered(told(worked.story)):
        record(recording, batch)
        settle(recording, database_url)
        assert_verified(database_url)
    first, last = worked.days
    with engine.connect() as db:
        rows = asked(db, worked.report, first=first, last=last, now=worked.moment)
    assert picked(rows, worked.rows) == worked.rows


def test_what_a_code_that_is_registered_no_more_added_moves_with_its_case(
    engine: Engine, recording: Recording, database_url: str
) -> None:
    """A recorder that does not know the contact's code learns what it meant when the case's category changes."""
    *contact, change = told("""
        A 2026-04-01T09:00 op-1 case/CASE_CREATED category=debt
        A 2026-04-01T09:10 op-1 suspend_case/TERM
        A 2026-04-01T09:20 op-1 change_category/CATEGORY_CHANGED new_category=housing
    """)
    record(recording, contact)
    before = event_registry.snapshot()
    event_registry.restore({key: entry for key, entry in before.items() if key != "suspend_case"})
    try:
        record(Recording(engine, event_registry, RULES), [change])
    finally:
        event_registry.restore(before)
    add_up_reports(database_url)
    with engine.connect() as db:
        rows = asked(db, "contacts_per_case", **EVER, now=NOW)
    assert [(row["category"], row["cases"], row["contacts"]) for row in rows] == [("housing", 1, 1)]


def test_a_creation_that_comes_late_moves_the_deadlines_of_a_case_that_was_written_in(
    engine: Engine, recording: Recording, database_url: str
) -> None:
    """From Monday 14:00 on, 120 working minutes are 16:00 and 480 are Tuesday 11:00; from 10:00, 12:00 and 18:00."""
    late, *others = events = told("""
        A 2026-03-02T10:00 web case/CASE_CREATED source=SMS
        A 2026-03-02T14:00 web case/CASE_CREATED source=SMS
        A 2026-03-02T14:30 op-1 call_me_back/CB1 requires_action_at=2026-03-02T15:00
        A 2026-03-02T15:00 op-1 case/CALL_STARTED
        A 2026-03-03T11:00 op-1 suspend_case/TERM
    """)
    seen = []
    for batch in (others, [late]):
        record(recording, batch)
        settle(recording, database_url)
        assert_verified(database_url)
        with engine.connect() as db:
            (row,) = asked(db, "callbacks", **EVER, now=NOW)
        seen.append((row["missed_sla_1"], row["missed_sla_2"]))
    assert seen == [(False, False), (True, True)]
    with engine.connect() as db:
        assert_reports(db, fold_all(events), **EVER, now=NOW)


def empty(database_url: str) -> None:
    with psycopg.connect(database_url) as db:
        for table in TABLES.split(", "):
            db.execute(f"delete from {table}".encode())


@pytest.mark.slow
@pytest.mark.parametrize("delivered", [in_order, shuffled, shuffled_and_twice])
def test_whatever_the_order_the_duplicates_and_the_batches_reports_are_those_of_the_oracle(
    delivered: Callable[[list[Json], random.Random], list[Json]],
    engine: Engine,
    recording: Recording,
    database_url: str,
) -> None:
    """Now and then the aggregator has a go in between, on a half-told history."""
    rng, events = random.Random(delivered.__name__), a_history()
    for number, batch in enumerate(in_batches(delivered(events, rng), rng)):
        record(recording, batch)
        if number % 5 == 0:
            add_up_reports(database_url)
    settle(recording, database_url)
    assert_reports_over_many_periods(engine, fold_all(events))


def settle(recording: Recording, database_url: str) -> None:
    """What was parked before its case is recorded; then everything is added up."""
    while True:
        with psycopg.connect(database_url) as db:
            db.execute("update parked set due_at = now()")
        if recording.retry_parked().recorded == 0:
            break
    add_up_reports(database_url)


# Each example is a delivery of its own into an emptied database.
@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), events=st.one_of(*[report_event_sets()] * 4, event_sets(settled=True)))
def test_of_any_events_delivered_in_any_way_reports_are_those_of_the_oracle(
    data: st.DataObject, events: list[Json], engine: Engine, recording: Recording, database_url: str
) -> None:
    empty(database_url)
    delivered = data.draw(deliveries(events))
    if data.draw(st.booleans()):  # one by one
        delivered = [[event] for batch in delivered for event in batch]
    for batch in delivered:
        record(recording, batch)
        if data.draw(st.integers(0, 3)):
            Aggregator(engine, event_registry, RULES).add_all_up()
    settle(recording, database_url)
    outcome = fold_all(events)
    days = st.dates(date(2026, 6, 28), date(2026, 7, 8))
    first, last = sorted([data.draw(days), data.draw(days)])
    now = START + timedelta(minutes=data.draw(st.integers(0, 9 * 24 * 60)))
    by: By | None = data.draw(st.sampled_from([None, "day", "week", "month"]))
    with engine.connect() as db:
        assert_reports(db, outcome, **EVER, now=now)
        assert_reports(db, outcome, first=first, last=last, now=now, by=by)


def test_late_events_are_in_the_reports_as_if_they_had_come_in_time(
    engine: Engine, recording: Recording, database_url: str
) -> None:
    """Every third event comes when all the others are recorded and added up."""
    events = a_history()
    record(recording, [event for number, event in enumerate(events) if number % 3])
    settle(recording, database_url)
    record(recording, events[::3])
    settle(recording, database_url)
    assert_reports_over_many_periods(engine, fold_all(events))


DEEDS = ["case/CASE_VIEWED", "open_case/CASE_VIEWED", "accept_case/SPOP", "close_case/CLSP", "reject_case/MERI"]


@pytest.mark.parametrize("ended_by", ["anna@prov-1 reject_case/COI", "op-1 assign_to_provider/REFSP provider=prov-2"])
def test_what_a_provider_did_is_in_the_report_though_it_is_told_after_the_stay_was_over(
    ended_by: str, engine: Engine, recording: Recording, database_url: str
) -> None:
    """The cases are as they were: their columns are of the stay that follows, or empty."""
    stays = f"""
        %(case)s 2026-03-02T09:00 op-1 case/CASE_CREATED
        %(case)s 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        %(case)s 2026-03-02T11:00 {ended_by}
    """
    in_time = [event for deed in DEEDS for event in told(stays % {"case": deed}, deed)]
    late = told("\n".join(f"{deed} 2026-03-02T10:30 anna@prov-1 {deed}" for deed in DEEDS), "late")
    record(recording, in_time)
    settle(recording, database_url)
    record(recording, late)
    settle(recording, database_url)
    with engine.connect() as db:
        assert_reports(db, fold_all([*in_time, *late]), **EVER, now=NOW)


def test_events_that_were_mended_are_in_the_reports_as_if_they_had_been_recorded_at_once(
    engine: Engine, recording: Recording, database_url: str
) -> None:
    """At first nobody has registered complaints, callbacks and what providers do."""
    events = a_history()
    before = event_registry.snapshot()
    missing = ("complaint", "call_me_back", "accept_case", "reject_case")
    event_registry.restore({key: entry for key, entry in before.items() if key not in missing})
    try:
        record(Recording(engine, event_registry, RULES), events)
    finally:
        event_registry.restore(before)
    settle(recording, database_url)
    with engine.connect() as db:
        chosen = dead_letter_queries.select(db, Filter(reason="unknown_event"))
    assert len(chosen) > 100
    requeue(engine, recording, chosen, wanted=Filter(), who="anna", why="registered")
    settle(recording, database_url)
    assert_reports_over_many_periods(engine, fold_all(events))


@pytest.fixture
def history(database_url: str, recording: Recording) -> Outcome:
    """Recorded and added up; and what the oracle makes of it."""
    events = a_history()
    record(recording, events)
    add_up_reports(database_url)
    return fold_all(events)


def test_what_was_ruined_and_written_anew_is_what_the_oracle_says(
    history: Outcome, engine: Engine, database_url: str
) -> None:
    with psycopg.connect(database_url) as db:
        db.execute(
            "delete from callback; delete from complaint; update assignment set viewed_at = null, provider = 'x'"
        )
        db.execute("update report_sum set n1 = n1 + 1; delete from timer")
    with Verification(database_url, RULES) as verification:
        rebuild(verification, ("timers", "cases", "reports"), uncounted)
    add_up_reports(database_url)
    assert_reports_over_many_periods(engine, history)
    assert_verified(database_url)


def test_a_block_that_is_rolled_back_at_its_end_changes_nothing(
    engine: Engine, recording: Recording, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks when sums and facts are written."""
    events = a_history()
    record(recording, events)
    stands = dump(database_url)
    replace_facts = facts.replace_facts

    def breaks(*given: Any) -> None:
        replace_facts(*given)
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(facts, "replace_facts", breaks)
        with pytest.raises(ConnectionError):
            Aggregator(engine, event_registry, RULES).add_up()
    assert dump(database_url) == stands
    add_up_reports(database_url)
    with engine.connect() as db:
        assert_reports(db, fold_all(events), **EVER, now=NOW)


def test_an_aggregator_that_is_killed_in_a_block_changes_nothing(
    engine: Engine, recording: Recording, database_url: str
) -> None:
    """Half of the history is added up before; the kill comes when the rest is written and nothing is committed."""
    events = a_history()
    half = len(events) // 2
    record(recording, events[:half])
    add_up_reports(database_url)
    record(recording, events[half:])
    stands = dump(database_url)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, database_url],
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert dump(database_url) == stands
    add_up_reports(database_url)
    with engine.connect() as db:
        assert_reports(db, fold_all(events), **EVER, now=NOW)


def test_the_seconds_of_the_extract_are_what_is_billed(history: Outcome, engine: Engine) -> None:
    """Of each case: the sum of its rows' timers, and what the last row says, are the case's billable time."""
    del history
    seconds: Counter[str] = Counter()
    so_far: dict[str, int] = {}
    with engine.connect() as db:
        for row in asked(db, "outcome_extract", **EVER, now=NOW):
            seconds[row["reference"]] += row["timer_seconds"] or 0
            so_far[row["reference"]] = row["billable_time"]
        billed = {row[0]: row[1] for row in db.execute(text('select reference, billable_time from "case"'))}
        repeated = db.execute(
            text(
                "select count(*) from log join timer on timer.id = timer_id and stopped_at = occurred_at "
                "where suppressed and not cancelled"
            )
        ).scalar_one()
    assert repeated > 3, "no timer was stopped by a repetition: this shows nothing"
    assert {reference: seconds[reference] for reference in billed} == billed
    assert so_far == {reference: billed[reference] for reference in so_far}


def test_what_is_asked_for_alone_is_what_the_whole_report_says_of_it(history: Outcome, engine: Engine) -> None:
    """Of each text column two values, and none."""
    with engine.connect() as db:
        for name in REPORTS:
            whole = expected(name, history, **EVER, now=NOW)
            for column in (column.name for column in get_report(name).dimensions if column.kind == "text"):
                values = {row[column] for row in whole if row[column] is not None}
                for value in [*sorted(values)[:2], None]:
                    said = asked(db, name, **EVER, now=NOW, where={column: value})
                    ought = [row for row in whole if row[column] == value]
                    assert_same_rows(said, ought, (name, column, value))
