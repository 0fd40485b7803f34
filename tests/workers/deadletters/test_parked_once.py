"""Parked events in several hands: the tasks, operators and recorders never lose one, double one, or both have it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text
from support.oracle.stored import body, count, dead_letters
from test_requeue import RULES, Unstorable, created, event

from caselog.events.model.message import decode
from caselog.events.model.registry import EventRegistry, autodiscover, event_registry
from caselog.schema.operations import audit, parked_queries
from caselog.schema.operations.parked_queries import Named, ParkedFilter
from caselog.schema.recording import parking
from caselog.schema.sessions.connection import make_engine
from caselog.workers.deadletters.parked import Retried, discard, retry
from caselog.workers.process import crash_points
from caselog.workers.recording.batch import Recording

ALL = ParkedFilter()


@pytest.fixture
def registry() -> Iterator[EventRegistry]:
    autodiscover()
    before = event_registry.snapshot()
    yield event_registry
    event_registry.restore(before)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=6)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine, registry: EventRegistry) -> Recording:
    return Recording(engine, registry, RULES)


def late(minute: int, subject: str = "AB-1") -> dict[str, Any]:
    return event("accept_case", "SPOP", minute=minute, subject=subject)


def record(recording: Recording, *events: dict[str, Any]) -> None:
    for one in events:
        recording.record([decode(body(one))])


def chosen(engine: Engine) -> list[Named]:
    with engine.connect() as db:
        return parked_queries.select(db, ALL)


def retried(engine: Engine, recording: Recording, which: list[Named]) -> Retried:
    return retry(engine, recording, which, wanted=ALL, who="anna")


def discarded(engine: Engine, which: list[Named]) -> int:
    return discard(engine, which, wanted=ALL, who="ben")


def make_due(engine: Engine) -> None:
    with engine.begin() as db:
        db.execute(text("update parked set due_at = now()"))


def test_two_retries_the_tasks_and_a_discard_at_once_have_each_event_once(
    engine: Engine, database_url: str, recording: Recording
) -> None:
    """Each is in the log or in the audit of the discard, and in one of them alone."""
    record(recording, *(late(minute) for minute in range(40)), created())
    which = chosen(engine)
    start = threading.Barrier(4)

    def together(work: Any) -> Any:
        start.wait()
        return work()

    works: list[Any] = [
        lambda: retried(engine, recording, which),
        lambda: retried(engine, recording, which),
        recording.retry_parked,
        lambda: sum(discarded(engine, [one]) for one in reversed(which)),
    ]
    with ThreadPoolExecutor(4) as pool:
        first, second, by_tasks, gone = pool.map(together, works)
    logged = count(database_url, "log") - 1
    assert count(database_url, "parked") + logged + gone == 40
    assert first.counts["recorded"] + second.counts["recorded"] + by_tasks.recorded == logged
    with engine.connect() as db:
        names = [
            one["event_id"] for entry in audit.list_audit(db, action="parked.discard") for one in entry.detail["events"]
        ]
        both = db.execute(text("select count(*) from log where event_id = any(:names)"), {"names": names}).scalar_one()
    assert (len(names), both) == (gone, 0)
    assert dead_letters(database_url) == []


def test_an_event_discarded_after_it_was_read_to_be_tried_is_not_recorded(
    engine: Engine, database_url: str, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(recording, late(1), created())
    which = chosen(engine)

    def reach(point: str) -> None:
        if point == "retry.taken":
            assert discarded(engine, which) == 1

    monkeypatch.setattr(crash_points, "reach", reach)
    assert recording.retry_parked().recorded == 0
    assert (count(database_url, "log"), count(database_url, "parked")) == (1, 0)


def test_an_event_that_is_just_being_recorded_is_not_discarded_nor_tried_by_another(
    engine: Engine, database_url: str, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(recording, late(1), created())
    which = chosen(engine)
    said: list[Any] = []

    def reach(point: str) -> None:
        if point == "recording.locked":
            said.append(discarded(engine, which))

    monkeypatch.setattr(crash_points, "reach", reach)
    assert retried(engine, recording, which).counts["recorded"] == 1
    assert said == [0]
    assert (count(database_url, "log"), count(database_url, "parked")) == (2, 0)
    again = retried(engine, recording, which)
    assert (again.counts["elsewhere"], again.is_success) == (1, False)


def test_a_case_created_while_its_event_is_tried_is_not_missed_for_an_hour(
    engine: Engine, database_url: str, recording: Recording, registry: EventRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event was looked at before its case was there, and put off after: it stays due, since it was made due."""
    record(recording, late(1))
    with engine.begin() as db:
        db.execute(text("update parked set attempts = 20, due_at = now()"))
    real = parking.claim

    def claim(db: Any, events: Any) -> Any:
        record(Recording(engine, registry, RULES), created())
        return real(db, events)

    monkeypatch.setattr(parking, "claim", claim)
    recording.retry_parked()
    monkeypatch.undo()
    assert count(database_url, "log") == 1
    assert recording.retry_parked().recorded == 1


def test_a_parked_event_that_cannot_be_stored_is_a_dead_letter_and_waits_no_more(
    engine: Engine, database_url: str, recording: Recording, registry: EventRegistry
) -> None:
    registry.register(Unstorable)
    record(recording, event(), created())
    [one] = retried(engine, recording, chosen(engine)).dead
    assert one.reason == "failed"
    assert ([row["reason"] for row in dead_letters(database_url)], count(database_url, "parked")) == (["failed"], 0)


def test_another_event_parked_under_the_same_name_is_not_the_one_that_was_meant(
    engine: Engine, database_url: str, recording: Recording
) -> None:
    first = late(1)
    record(recording, first)
    which = chosen(engine)
    assert discarded(engine, which) == 1
    record(recording, first | {"time": late(2)["time"]})
    assert discarded(engine, which) == 0
    assert retried(engine, recording, which).counts["elsewhere"] == 1
    assert count(database_url, "parked") == 1
