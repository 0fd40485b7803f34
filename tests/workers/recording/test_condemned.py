"""Events that are to blame for good: each is tried a few times, whatever comes with it, and nobody else is blamed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from support.builders.plain_code import FIELDS
from support.oracle.stored import count, dead_letters, dump
from test_batch import RULES, created, event, message

from caselog.events.errors import Interrupted
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.operations import dead_letter_queries as letters
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.recording import suspects
from caselog.schema.recording.store import GATE
from caselog.schema.recording.suspects import ENDINGS_MOST
from caselog.schema.sessions.connection import make_engine
from caselog.workers.deadletters.requeue import discard, requeue, tidy
from caselog.workers.recording.batch import ATTEMPTS, Recording
from caselog.workers.recording.storing import store_plan
from caselog.workers.servers.database_errors import Contended, DatabaseAway, Taken

Json = dict[str, Any]


class Killed(Interrupted):
    """Its process ended here: nothing that this recorder would do about an exception is done."""


class Kills(BaseEvent):
    """Its rule ends the process, and what a watcher writes then is written."""

    key = "kills"
    codes = {"DONE": FIELDS}
    engine: Engine
    times = 0
    is_mended = False

    def apply(self, case: CaseState, log: Log) -> None:  # noqa: ARG002 - as it is called
        if not Kills.is_mended:
            Kills.times += 1
            with self.engine.begin() as db:
                suspects.strike(db, [(log.source, log.event_id)], "its process ended", is_ending=True)
            raise Killed


class Collides(BaseEvent):
    """A bundled rule that is wrong: it takes another case's name, which is not looked at."""

    key = "collides"
    codes = {"DONE": FIELDS}
    creates_case = ("DONE",)

    def apply(self, case: CaseState, log: Log) -> None:
        case.reference = log.context["takes"]


Collides.__module__ = "caselog.events.apps.of_this_test"


class Says(BaseEvent):
    key = "says"
    codes = {"DONE": FIELDS}

    def apply(self, case: CaseState, log: Log) -> None:  # noqa: ARG002 - as it is called
        raise ValueError("half \ud800, nothing \0")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def registry(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventRegistry]:
    autodiscover()
    before = event_registry.snapshot()
    for cls in (Kills, Collides, Says):
        event_registry.register(cls)
    monkeypatch.setattr(Kills, "engine", engine, raising=False)
    monkeypatch.setattr(Kills, "times", 0)
    monkeypatch.setattr(Kills, "is_mended", False)
    yield event_registry
    event_registry.restore(before)


@pytest.fixture
def start(engine: Engine, registry: EventRegistry) -> Callable[[], Recording]:
    """A new process that records."""
    return lambda: Recording(engine, registry, RULES)


Start = Callable[[], Recording]


def delivered(start: Start, *events: Json) -> None:
    """The message comes again until it is acknowledged, each time to a new process."""
    for _ in range(100):
        try:
            start().record([message(*events)])
        except Killed:
            continue
        return
    raise AssertionError(Kills.times)


def condemned(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as db:
        return [row[0] for row in db.execute("select event_id from suspect order by 1")]


def test_each_event_that_ends_its_process_does_so_three_times_however_many_come_together(
    database_url: str, start: Start
) -> None:
    bad = [event("kills", minute=n, notes=str(n)) for n in range(5)]
    delivered(start, created(), created("GOOD-1"), *bad, event("accept_case", "SPOP", subject="GOOD-1"))
    assert Kills.times == ENDINGS_MOST * len(bad)
    assert count(database_url, "log") == 3
    assert [letter["event_id"] for letter in dead_letters(database_url)] == [one["id"] for one in bad]
    assert all("ended their process, 3 times" in letter["message"] for letter in dead_letters(database_url))


def test_a_condemned_event_that_comes_again_is_set_aside_untried(database_url: str, start: Start) -> None:
    """To this process, to another one, and beside what is well."""
    bad = event("kills")
    delivered(start, created(), bad)
    stands = dump(database_url)
    knows = start()
    for recorder in (knows, knows, start()):
        assert recorder.record([message(bad)]).recorded == 0
        assert dump(database_url) == stands
    assert start().record([message(bad, event("accept_case", "SPOP"))]).recorded == 1
    assert Kills.times == ENDINGS_MOST


def requeued(engine: Engine, recording: Recording) -> tuple[int, int]:
    with engine.connect() as db:
        chosen = letters.select(db, Filter())
    report = requeue(engine, recording, chosen, wanted=Filter(), who="anna")
    return report.recorded, len(report.failures)


def test_a_requeue_tries_a_condemned_event_at_once_with_a_fresh_count(
    database_url: str, engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = event("kills")
    delivered(start, created(), bad)
    knows = start()
    knows.record([message(bad)])
    for more in (1, 2):
        with pytest.raises(Killed):
            requeued(engine, start())
        assert Kills.times == ENDINGS_MOST + more
        assert len(dead_letters(database_url)) == 1
    monkeypatch.setattr(Kills, "is_mended", True)
    assert requeued(engine, start()) == (1, 0)
    assert (condemned(database_url), dead_letters(database_url)) == ([], [])
    assert knows.record([message(bad)]).duplicates == 1


def test_a_requeue_of_several_gets_to_those_that_are_well_by_now(
    database_url: str, engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(start, created(), *(event("kills", minute=n, notes=str(n)) for n in range(3)))
    rule = Kills.apply

    def only_the_first(self: Kills, case: CaseState, log: Log) -> None:
        if log.notes == "0":
            rule(self, case, log)

    monkeypatch.setattr(Kills, "apply", only_the_first)
    for _ in range(2):
        with pytest.raises(Killed):
            requeued(engine, start())
    assert [letter["case_reference"] for letter in dead_letters(database_url)] == ["AB-1"]
    assert count(database_url, "log") == 3


def test_a_discarded_event_that_is_sent_again_is_a_new_one(database_url: str, engine: Engine, start: Start) -> None:
    bad = event("kills")
    delivered(start, created(), bad)
    with engine.connect() as db:
        chosen = letters.select(db, Filter())
    assert discard(engine, chosen, wanted=Filter(), who="anna") == 1
    assert condemned(database_url) == []
    delivered(start, bad)
    assert Kills.times == 2 * ENDINGS_MOST


def test_a_condemned_event_is_forgotten_after_a_week(database_url: str, engine: Engine, start: Start) -> None:
    delivered(start, created(), event("kills"))
    tidy(engine, retention_days=0)
    assert len(condemned(database_url)) == 1
    with psycopg.connect(database_url) as db:
        db.execute("update suspect set struck_at = now() - interval '8 days'")
    tidy(engine, retention_days=0)
    assert condemned(database_url) == []


# --- what collides: with itself, or with others ---


@pytest.mark.timeout(300)
def test_an_event_that_collides_with_itself_ends_as_a_dead_letter_and_the_others_are_recorded(
    database_url: str, start: Start
) -> None:
    bad = event("collides", subject="AB-9", context={"takes": "AB-1"})
    around = [created(), *(created(f"C-{n}") for n in range(6)), event("accept_case", "SPOP", minute=1)]
    recorded = start().record([message(*around[:4], bad, *around[4:])])
    assert (recorded.recorded, dict(recorded.dead)) == (8, {"failed": 1})
    [letter] = dead_letters(database_url)
    assert letter["event_id"] == bad["id"]
    assert "UniqueViolation" in letter["message"]


def outrun(monkeypatch: pytest.MonkeyPatch, error: type[Contended], times: int) -> None:
    """So many times another recorder is quicker."""
    left = itertools.count(times, -1)

    def stored(*arguments: Any) -> Any:
        if next(left) > 0:
            raise error
        return store_plan(*arguments)

    monkeypatch.setattr("caselog.workers.recording.batch.store_plan", stored)


@pytest.mark.parametrize("error", [Taken, Contended])
def test_whoever_is_outrun_again_and_again_waits_and_nothing_is_to_blame(
    database_url: str, start: Start, monkeypatch: pytest.MonkeyPatch, error: type[Contended]
) -> None:
    """Even a lone event, even more often than anybody tries: the last try is undisturbed, or it comes again."""
    story = [created(), event("accept_case", "SPOP", minute=1)]
    outrun(monkeypatch, error, 2 * ATTEMPTS - 1)
    recording = start()
    for one in story:
        try:
            recording.record([message(one)])
        except DatabaseAway:
            recording.record([message(one)])
    assert (count(database_url, "log"), dead_letters(database_url)) == (2, [])


def test_a_batch_that_is_outrun_is_halved(database_url: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    outrun(monkeypatch, Taken, ATTEMPTS)
    recorded = start().record([message(created(), created("AB-2"), event("accept_case", "SPOP"))])
    assert (recorded.recorded, len(recorded.transactions_s)) == (3, 2)
    assert dead_letters(database_url) == []


def test_an_undisturbed_try_waits_for_who_records_and_gives_up_before_it_is_in_their_way(
    database_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    outrun(monkeypatch, Taken, ATTEMPTS)
    with psycopg.connect(database_url) as other:
        other.execute("select pg_advisory_xact_lock_shared(%s)", [GATE])
        with pytest.raises(DatabaseAway, match="lock timeout"):
            start().record([message(created())])
        other.rollback()
    assert start().record([message(created())]).recorded == 1
    assert dead_letters(database_url) == []


# --- what a rule says ---


def test_what_a_rule_says_is_kept_whatever_postgresql_can_hold(database_url: str, start: Start) -> None:
    recorded = start().record([message(created(), event("says"), event("accept_case", "SPOP", minute=1))])
    assert (recorded.recorded, dict(recorded.dead), len(recorded.transactions_s)) == (2, {"failed": 1}, 1)
    [letter] = dead_letters(database_url)
    assert letter["message"].startswith(r"applying 'says'/'DONE' raised ValueError: half \ud800, nothing \x00.")
