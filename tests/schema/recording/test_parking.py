"""Parked events and dead letters: nothing is dropped, nothing is there twice, and waiting grows longer."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from caselog.events.model.state import CaseState
from caselog.schema.operations import dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.recording import dead_letters, parking, store
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.recording.parking import Parked


def waiting(event_id: str, case: str = "AB-1", raw: bytes = b"{}") -> Parked:
    return Parked(source="/test", event_id=event_id, key="accept_case", case_reference=case, raw=raw)


def let_pass(db: Connection, seconds: float) -> None:
    """As if so much time had passed: everything that is parked was parked, and is due, that much earlier."""
    gone = timedelta(seconds=seconds)
    db.execute(text("update parked set due_at = due_at - :gone, parked_at = parked_at - :gone"), {"gone": gone})


def due_ids(db: Connection) -> list[str]:
    return [parked.event_id for parked in parking.due(db, 100)]


def test_a_parked_event_is_due_after_a_second_with_its_bytes(engine: Engine) -> None:
    with engine.begin() as db:
        parking.park(db, [waiting("1", raw=b"\x00\xff")])
        assert due_ids(db) == []
        let_pass(db, 1)
        [parked] = parking.due(db, 100)
        assert (parked.raw, parked.attempts, parked.case_reference) == (b"\x00\xff", 1, "AB-1")
        assert parked.age_s == 1


def test_parking_an_event_again_leaves_it_as_it_was(engine: Engine) -> None:
    with engine.begin() as db:
        parking.park(db, [waiting("1")])
        parking.put_off(db, [("/test", "1")])
        let_pass(db, 1)
        parking.park(db, [waiting("1"), waiting("2")])
        let_pass(db, 1)
        [first] = [parked for parked in parking.due(db, 100) if parked.event_id == "1"]
        assert (first.attempts, first.age_s) == (2, 2)


def test_the_delay_doubles_with_each_attempt_up_to_an_hour(engine: Engine) -> None:
    """1, 2, 4, … 2048 seconds, then an hour, however often."""
    with engine.begin() as db:
        parking.park(db, [waiting("1")])
        for attempt in range(1, 80):
            delay_s = db.execute(text("select extract(epoch from due_at - now())::float8 from parked")).scalar_one()
            assert delay_s == min(2 ** (attempt - 1), 3600)
            parking.put_off(db, [("/test", "1")])
        db.execute(text("update parked set attempts = 100_000"))
        parking.put_off(db, [("/test", "1")])
        delay_s = db.execute(text("select extract(epoch from due_at - now())::float8 from parked")).scalar_one()
        assert delay_s == 3600


def test_the_events_of_a_case_that_was_created_are_due_now_and_no_others(engine: Engine) -> None:
    with engine.begin() as db:
        parking.park(db, [waiting("1", "AB-1"), waiting("2", "AB-2"), waiting("3", "AB-1")])
        assert parking.make_due(db, ["AB-1", "AB-3"]) == 2
        assert sorted(due_ids(db)) == ["1", "3"]


def test_the_longest_due_come_first_and_no_more_than_asked_for(engine: Engine) -> None:
    with engine.begin() as db:
        for event_id in ("1", "2", "3"):
            parking.park(db, [waiting(event_id)])
            let_pass(db, 10)
        assert [parked.event_id for parked in parking.due(db, 2)] == ["1", "2"]


def test_an_event_that_is_recorded_is_parked_no_more(engine: Engine) -> None:
    with engine.begin() as db:
        parking.park(db, [waiting("1"), waiting("2")])
        parking.unpark(db, [("/test", "1"), ("/other", "2")])
        let_pass(db, 1)
        assert due_ids(db) == ["2"]


def test_parked_events_are_counted_by_whether_their_case_is_there(engine: Engine) -> None:
    with engine.begin() as db:
        assert parking.count_parked(db) == parking.ParkedCount(waiting=0, ready=0, oldest_age_s=None)
        parking.park(db, [waiting("1", "AB-1"), waiting("2", "AB-2"), waiting("3", "AB-1")])
        let_pass(db, 7)
        now, _ = store.clock_and_ids(db, 0)
        store.insert_cases(db, [CaseState(reference="AB-1", source="PHONE", created_at=now)])
        assert parking.count_parked(db) == parking.ParkedCount(waiting=1, ready=2, oldest_age_s=7)


def a_letter(raw: bytes, reason: str = "malformed", **fields: str) -> DeadLetter:
    return DeadLetter(reason=reason, message="mend it", raw=raw, **fields)  # type: ignore[arg-type]  # texts only


def test_the_same_bytes_are_one_dead_letter_however_often_they_come(engine: Engine) -> None:
    for _ in range(2):
        with engine.begin() as db:
            dead_letters.set_aside(db, [a_letter(b"one"), a_letter(b"two"), a_letter(b"one", reason="failed")])
    with engine.begin() as db:
        letters = list(dead_letter_queries.find(db, Filter()))
    assert {letter.raw: letter.reason for letter in letters} == {b"one": "malformed", b"two": "malformed"}
    assert len(letters) == 2
