"""Two different events under one (source, id): the first stands, and the second is a dead letter that says so."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from support.builders.rewriting import JSON_VALUES, rewritten
from support.builders.strategies import event_sets
from support.oracle.stored import body, count, dead_letters, dump
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import created, event

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import Message, decode
from caselog.events.model.registry import EventRegistry, autodiscover, event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.batch import Recording

Json = dict[str, Any]

RULES = Rules(zone=ZoneInfo("Europe/London"))
EVERY_TABLE = 'log, "case", timer, dead_letter, parked, report_outbox, report_sum, callback, complaint, assignment'


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    autodiscover()
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine) -> Recording:
    return Recording(engine, event_registry, RULES)


def message(*events: Json) -> Message:
    return decode(body(*events))


def named(id_: str, code: str, subject: str = "AB-1", **data: Any) -> Json:
    return event("means_test", code, subject, id=id_, data=data)


FIRST = named("one", "MT_PASSED", notes="her neighbour drinks")
SECOND = named("one", "MT_FAILED", notes="his neighbour sings")


def codes(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as db:
        return [row[0] for row in db.execute("select code from log where key = 'means_test' order by 1").fetchall()]


def assert_the_second_is_a_dead_letter(database_url: str) -> None:
    assert codes(database_url) == ["MT_PASSED"]
    [letter] = dead_letters(database_url)
    assert (letter["reason"], letter["event_id"], letter["case_reference"]) == ("rejected", "one", "AB-1")
    assert "data.code ('MT_FAILED' here, 'MT_PASSED' there), data.notes" in letter["message"]
    assert "neighbour" not in letter["message"]
    assert decode(letter["raw"]).events == message(SECOND).events


@pytest.mark.parametrize("batches", [1, 2, 3], ids=["one batch", "two batches", "redelivered"])
def test_the_first_stands_and_the_second_is_a_dead_letter_that_says_what_differs(
    database_url: str, recording: Recording, batches: int
) -> None:
    recording.record([message(created("AB-1"))])
    given_in = {1: [[FIRST, SECOND]], 2: [[FIRST], [SECOND]], 3: [[FIRST], [FIRST, SECOND], [SECOND, FIRST]]}
    results = [recording.record([message(*batch)]) for batch in given_in[batches]]
    assert sum(result.recorded for result in results) == 1
    # Redelivered are the first, twice, and the second, which is a dead letter already.
    assert sum(result.duplicates for result in results) == {1: 0, 2: 0, 3: 3}[batches]
    assert sum((result.dead for result in results), Counter()) == {"rejected": 1}
    assert_the_second_is_a_dead_letter(database_url)


def test_many_events_under_one_name_leave_one_log_and_a_dead_letter_each(
    database_url: str, recording: Recording
) -> None:
    """A sender that gives all its events the same id loses none of them, and holds nobody up."""
    many = [named("one", "MT_CHANGED", notes=str(number)) for number in range(400)]
    around = [named("two", "MT_PASSED"), named("three", "MT_PASSED")]
    recorded = recording.record([message(created("AB-1")), message(around[0], *many, *many, around[1])])
    assert (recorded.recorded, dict(recorded.dead), recorded.duplicates) == (4, {"rejected": 399}, 400)
    assert (count(database_url, "log"), count(database_url, "dead_letter")) == (4, 399)


def test_a_name_is_not_taken_by_what_was_refused(database_url: str, recording: Recording) -> None:
    """A sender that mended its event may use the same id, also in the same batch; then the mended one stands."""
    wrong = [named("one", "NO_SUCH"), named("one", "NOR_THIS")]
    recorded = recording.record([message(created("AB-1"), *wrong, FIRST, wrong[0])])
    assert (recorded.recorded, dict(recorded.dead), recorded.duplicates) == (2, {"unknown_code": 2}, 1)
    recording.record([message(SECOND)])
    assert codes(database_url) == ["MT_PASSED"]
    assert [letter["reason"] for letter in dead_letters(database_url)] == ["unknown_code"] * 2 + ["rejected"]


def test_an_event_that_is_refused_for_itself_is_told_that_its_name_is_taken(
    database_url: str, recording: Recording
) -> None:
    """The registry's complaint would have it requeued, and refused again."""
    recording.record([message(created("AB-1"), FIRST)])
    assert recording.record([message(named("one", "NO_SUCH"))]).dead == {"rejected": 1}
    [letter] = dead_letters(database_url)
    assert "('NO_SUCH' here, 'MT_PASSED' there)" in letter["message"]


def test_of_two_under_one_name_without_their_case_one_waits_and_the_other_is_a_dead_letter(
    database_url: str, recording: Recording
) -> None:
    for batch in ([FIRST, FIRST], [SECOND], [{**FIRST, "traceparent": "00-1"}, SECOND]):
        recording.record([message(*batch)])
    assert (count(database_url, "parked"), len(dead_letters(database_url))) == (1, 1)
    assert "waits for its case" in dead_letters(database_url)[0]["message"]
    recording.record([message(created("AB-1"))])
    assert recording.retry_parked().recorded == 1
    assert_the_second_is_a_dead_letter(database_url)


def test_a_parked_event_whose_name_was_taken_meanwhile_is_a_dead_letter(
    database_url: str, recording: Recording
) -> None:
    waits = named("one", "MT_FAILED", "LATE-1")
    recording.record([message(created("AB-1"), waits)])
    recording.record([message(FIRST), message(created("LATE-1"))])
    assert recording.retry_parked().dead == {"rejected": 1}
    assert (count(database_url, "parked"), codes(database_url)) == (0, ["MT_PASSED"])


def test_of_two_recorders_that_take_one_each_at_once_one_wins_and_nothing_is_lost(
    database_url: str, engine: Engine
) -> None:
    """Without actor, and of different cases, so that no lock but the name itself keeps them apart."""
    recorder = Recording(engine, event_registry, RULES)
    recorder.record([message(created("C-1")), message(created("C-2"))])
    sides = [
        [{**named(str(n), "MT_PASSED", case), "data": {"code": "MT_PASSED"}} for n in range(40)]
        for case in ("C-1", "C-2")
    ]
    together = threading.Barrier(2)

    def record(side: list[Json]) -> tuple[int, int]:
        one = Recording(engine, event_registry, RULES)
        together.wait(timeout=DEADLINE_S)
        results = [one.record([message(*side[at : at + 4])]) for at in range(0, 40, 4)]
        return sum(r.recorded for r in results), sum(r.dead.total() for r in results)

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(record, [sides[0], sides[1][::-1]]))
    assert sum(recorded for recorded, _ in results) == sum(dead for _, dead in results) == 40
    assert (count(database_url, "log"), count(database_url, "dead_letter")) == (42, 40)


def test_a_code_that_was_left_to_the_class_may_be_resolved_otherwise_by_now(
    database_url: str, engine: Engine, recording: Recording
) -> None:
    """It is resolved once and stands; the same event again, which gives none, is the same event."""
    callback = event("call_me_back", None, "AB-1", data={"context": {"requires_action_at": "2026-03-03T09:00:00Z"}})
    recording.record([message(created("AB-1"), callback)])
    recording.record([message({**callback, "id": "next"})])
    stands = dump(database_url)
    assert recording.record([message(callback)]).duplicates == 1
    assert Recording(engine, EventRegistry(), RULES).record([message(callback)]).duplicates == 1
    assert dump(database_url) == stands


def test_an_event_whose_subject_its_class_ignores_is_the_same_when_it_comes_again(
    database_url: str, recording: Recording
) -> None:
    started = event("timer", "TIMER_STARTED", "AB-1")
    assert recording.record([message(started)]).recorded == 1
    assert recording.record([message(started)]).duplicates == 1
    assert dead_letters(database_url) == []


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_an_event_that_comes_again_in_any_other_writing_changes_nothing(
    database_url: str, recording: Recording, data: st.DataObject
) -> None:
    """What is recorded or parked is the same event however it is written: no dead letter, no other row."""
    with psycopg.connect(database_url) as db:
        db.execute(f"truncate {EVERY_TABLE}".encode())
    story = data.draw(event_sets(most=10))
    for one in story:
        one["data"]["context"] = (one["data"].get("context") or {}) | {"extra": data.draw(JSON_VALUES)}
    recording.record([message(*story)])
    recording.retry_parked()
    with psycopg.connect(database_url) as db:
        kept = set(db.execute("select source, event_id from log union select source, event_id from parked").fetchall())
    stands = dump(database_url)
    again = [data.draw(rewritten(one)) for one in story if (one["source"], one["id"]) in kept]
    together = [decode(b"[" + b",".join(again) + b"]")] if again else []
    recorded = recording.record([*together, *map(decode, again)])
    assert (recorded.recorded, dict(recorded.dead)) == (0, {})
    assert dump(database_url) == stands
