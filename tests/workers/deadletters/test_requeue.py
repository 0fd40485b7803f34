"""Mending dead letters: after a fix each event takes its place in time, once, whoever else is at it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from sqlalchemy import Engine, text
from support.oracle.stored import assert_same, body, count, dead_letters, dump, what_stands

from caselog.events.errors import EventRejected
from caselog.events.folding.resolve import Rules
from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.message import decode
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.operations import audit, dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.sessions.connection import make_engine
from caselog.workers.deadletters import requeue as work
from caselog.workers.deadletters.requeue import Report, discard, requeue, reveal, tidy
from caselog.workers.recording.batch import Recording
from caselog.workers.tasks.aggregator import Aggregator

Json = dict[str, Any]

RULES = Rules(zone=ZoneInfo("Europe/London"))
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OPERATOR: Json = {"id": "op-1", "role": "operator"}
FIELDS: Json = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "description": "d",
    "stops_timer": True,
    "set_requires_action_by": "operator_manager",
}
_numbers = itertools.count(1)


class Mended(BaseEvent):
    """An organisation's own event, as it is after the fix."""

    key = "own"
    codes = {"DONE": FIELDS, "OTHER": FIELDS}

    def get_log_code(self, _case: CaseState | None, /, **_params: Any) -> str:
        return "DONE"


class WithoutTheCode(BaseEvent):
    key = "own"
    codes = {"OTHER": FIELDS}


class WithoutARule(BaseEvent):
    key = "own"
    codes = Mended.codes


class ForOthers(BaseEvent):
    key = "own"
    codes = {"DONE": FIELDS | {"selectable_by": ["specialist"]}}


class Refusing(Mended):
    def apply(self, case: CaseState, log: Log) -> None:
        raise EventRejected(f"not {log.code} of {case.state}")


class Breaking(Mended):
    def apply(self, _case: CaseState, _log: Log) -> None:
        raise ZeroDivisionError


class Unstorable(Mended):
    def apply(self, case: CaseState, _log: Log) -> None:
        case.scope_state = "a\x00b"


@pytest.fixture
def registry() -> Iterator[EventRegistry]:
    """The bundled apps; what a test registers is forgotten at its end."""
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
def in_order(make_database: Callable[[str], str], template: str) -> Iterator[Engine]:
    """A second database, in which all goes well."""
    engine = make_engine(make_database(template))
    yield engine
    engine.dispose()


def event(
    key: str = "own", code: str | None = "DONE", *, minute: int = 30, subject: str | None = "AB-1", **data: Any
) -> Json:
    return {
        "specversion": "1.0",
        "id": str(next(_numbers)),
        "source": "/test",
        "type": key,
        "time": (NINE + timedelta(minutes=minute)).isoformat(),
        "data": data | ({} if code is None else {"code": code}),
        **({} if subject is None else {"subject": subject}),
    }


def created(subject: str = "AB-1") -> Json:
    return event("case", "CASE_CREATED", minute=-60, subject=subject)


def record(engine: Engine, registry: EventRegistry, *events: Json, rules: Rules = RULES) -> None:
    """One message an event, one after the other."""
    recording = Recording(engine, registry, rules)
    for one in events:
        recording.record([decode(body(one))])


def requeue_all(engine: Engine, registry: EventRegistry, wanted: Filter | None = None, **more: Any) -> Report:
    wanted = wanted or Filter()
    recording = more.pop("recording", None) or Recording(engine, registry, RULES)
    with engine.connect() as db:
        chosen = dead_letter_queries.select(db, wanted)
    return requeue(engine, recording, chosen, wanted=wanted, who="anna", why="mended", **more)


def add_up(engine: Engine) -> None:
    Aggregator(engine, event_registry, RULES).add_all_up()


def entries(engine: Engine) -> list[audit.AuditEntry]:
    """The audit, oldest first."""
    with engine.connect() as db:
        return list(audit.list_audit(db))[::-1]


# A fix, by the reason that it cures: the class before (None: not registered), and what the event leaves to its class.
FIXES: dict[str, tuple[type[BaseEvent] | None, str | None]] = {
    "unknown_event": (None, "DONE"),
    "unknown_code": (WithoutTheCode, "DONE"),
    "code_not_resolved": (WithoutARule, None),
    "role_not_allowed": (ForOthers, "DONE"),
    "rejected": (Refusing, "DONE"),
    "failed": (Breaking, "DONE"),
}


@pytest.mark.parametrize("reason", [*FIXES, "time_in_future", "unknown_case"])
def test_an_event_requeued_after_the_fix_ends_as_if_it_had_been_recorded_in_its_place(
    reason: str, engine: Engine, registry: EventRegistry, database_url: str, in_order: Engine
) -> None:
    """It stops a timer that a later event stopped meanwhile, and sets what later events set again."""
    before, code = FIXES.get(reason, (Mended, "DONE"))
    creation = created("AB-2")
    story = [
        created(),
        event("timer", "TIMER_STARTED", minute=0, subject=None, actor=OPERATOR),
        event("case", "CALL_STARTED", minute=1, actor=OPERATOR),
        event("own", code, minute=30, actor=OPERATOR, notes="first"),
        event("own", code, minute=31, subject="AB-2", actor=OPERATOR),
        event("assign_to_provider", "REFSP", minute=40, actor=OPERATOR, context={"provider": "prov-1"}),
        event("accept_case", "SPOP", minute=50),
    ]
    bundled = registry.snapshot()
    if before is not None:
        registry.register(before)
    if reason == "unknown_case":
        record(engine, registry, *story)
        with engine.begin() as db:
            db.execute(text("update parked set parked_at = parked_at - interval '2 days', due_at = now()"))
        Recording(engine, registry, RULES).retry_parked()
        record(engine, registry, creation)
    elif reason == "time_in_future":
        early = Rules(zone=RULES.zone, future_tolerance=NINE + timedelta(minutes=20) - datetime.now(UTC))
        record(engine, registry, creation, *story[:3])
        record(engine, registry, *story[3:5], rules=early)
        record(engine, registry, *story[5:])
    else:
        record(engine, registry, creation, *story)
    registry.restore(bundled)
    registry.register(Mended)
    dead = dead_letters(database_url)
    assert [row["reason"] for row in dead] == [reason] * (1 if reason == "unknown_case" else 2)

    report = requeue_all(engine, registry)
    assert (report.recorded, report.is_success) == (len(dead), True)
    add_up(engine)
    record(in_order, registry, creation, *story)
    add_up(in_order)
    assert_same(
        what_stands(database_url),
        what_stands(in_order.url.set(drivername="postgresql").render_as_string(hide_password=False)),
    )
    assert count(database_url, "log") == len(story) + 1


def unmended(engine: Engine, registry: EventRegistry, *events: Json) -> None:
    """A case, and dead letters of these events, which a code that was registered too late has mended since."""
    bundled = registry.snapshot()
    registry.register(WithoutTheCode)
    record(engine, registry, created(), *events)
    registry.restore(bundled)
    registry.register(Mended)


def test_a_letter_that_fails_again_stays_itself_and_says_what_is_wrong_now(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    registry.register(WithoutTheCode)
    record(engine, registry, created(), event())
    Recording(engine, registry, RULES).record([decode(b"no JSON")])
    before = dead_letters(database_url)
    registry.restore({name: one for name, one in registry.snapshot().items() if name != "own"})
    report = requeue_all(engine, registry)
    after = dead_letters(database_url)
    for name in ("id", "received_at", "raw", "fingerprint", "code", "source", "event_id"):
        assert [row[name] for row in after] == [row[name] for row in before]
    assert [row["attempts"] for row in after] == [2, 2]
    assert [row["reason"] for row in after] == ["unknown_event", "malformed"]
    assert [(one.id, one.reason, one.message) for one in report.failures] == [
        (row["id"], row["reason"], row["message"]) for row in after
    ]
    assert (report.recorded, report.is_success) == (0, False)


def test_an_event_that_was_sent_again_meanwhile_is_a_duplicate_and_no_dead_letter(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    one = event()
    unmended(engine, registry, one)
    record(engine, registry, one)
    assert (count(database_url, "log"), count(database_url, "dead_letter")) == (2, 1)
    report = requeue_all(engine, registry)
    assert (report.duplicates, report.recorded, report.is_success) == (1, 0, True)
    assert (count(database_url, "log"), count(database_url, "dead_letter")) == (2, 0)


def test_an_event_whose_case_is_unknown_is_parked_in_place_of_its_dead_letter(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    unmended(engine, registry, event(subject="AB-9"))
    report = requeue_all(engine, registry)
    assert (report.parked, report.is_success) == (1, True)
    assert (count(database_url, "parked"), count(database_url, "dead_letter")) == (1, 0)
    record(engine, registry, created("AB-9"))
    Recording(engine, registry, RULES).retry_parked()
    assert (count(database_url, "parked"), count(database_url, "log")) == (0, 3)
    add_up(engine)


def test_a_dead_creation_lets_go_the_events_that_wait_for_its_case(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    early = Rules(zone=RULES.zone, future_tolerance=NINE - timedelta(days=1) - datetime.now(UTC))
    record(engine, registry, created(), rules=early)
    record(engine, registry, event("accept_case", "SPOP"))
    assert requeue_all(engine, registry).recorded == 1
    Recording(engine, registry, RULES).retry_parked()
    assert (count(database_url, "parked"), count(database_url, "log")) == (0, 2)
    add_up(engine)


def test_two_letters_of_one_event_are_recorded_once_and_of_two_events_under_one_name_the_first(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    one, two = event(notes="a"), event(notes="b")
    other_way = dict(reversed(one.items()))
    unmended(engine, registry, one, other_way, two, {**two, "data": {**two["data"], "notes": "c"}})
    report = requeue_all(engine, registry)
    assert (report.recorded, report.duplicates, len(report.failures)) == (2, 1, 1)
    [left] = dead_letters(database_url)
    assert (left["reason"], left["attempts"]) == ("rejected", 2)
    assert "another event with the source '/test'" in left["message"]
    with psycopg.connect(database_url) as db:
        assert db.execute("select notes from log where key = 'own' order by notes").fetchall() == [("a",), ("b",)]
    add_up(engine)


def test_a_poison_letter_costs_only_itself(engine: Engine, registry: EventRegistry, database_url: str) -> None:
    """PostgreSQL refuses the whole batch because of it."""
    poison, *good = (event(minute=minute, notes=str(minute)) for minute in range(7))
    unmended(engine, registry, *good[:3], {**poison, "subject": "AB-2"}, *good[3:])
    record(engine, registry, created("AB-2"))

    class Partly(Unstorable):
        def apply(self, case: CaseState, log: Log) -> None:
            if log.case == "AB-2":
                super().apply(case, log)

    registry.restore({name: one for name, one in registry.snapshot().items() if name != "own"})
    registry.register(Partly)
    report = requeue_all(engine, registry)
    assert (report.recorded, [one.reason for one in report.failures]) == (6, ["failed"])
    [left] = dead_letters(database_url)
    assert (left["event_id"], left["attempts"]) == (poison["id"], 2)
    counts = {"chosen": 7, "recorded": 6, "failed": 1}
    assert entries(engine)[0].detail == {"filter": {}, **counts, "cases": ["AB-1", "AB-2"]}
    add_up(engine)


def test_two_who_requeue_the_same_letters_at_once_try_each_once(
    engine: Engine, registry: EventRegistry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them fail again: their attempts tell how often they were tried."""
    monkeypatch.setattr(work, "LETTERS", 5)
    good = [event(minute=number) for number in range(60)]
    bad = [event(code="NEVER", minute=number) for number in range(60)]
    unmended(engine, registry, *(one for pair in zip(good, bad, strict=True) for one in pair))
    with engine.connect() as db:
        chosen = dead_letter_queries.select(db, Filter())
    together = threading.Barrier(4)

    def operate(who: int) -> Report:
        together.wait()
        recording = Recording(engine, registry, RULES)
        return requeue(engine, recording, chosen, wanted=Filter(), who=str(who))

    with ThreadPoolExecutor(4) as pool:
        reports_ = list(pool.map(operate, range(4)))
    assert sum(report.recorded for report in reports_) == 60
    assert sum(len(report.failures) for report in reports_) == 60
    assert sum(report.elsewhere for report in reports_) == 3 * 120
    assert sum(report.duplicates + report.parked for report in reports_) == 0
    assert [row["attempts"] for row in dead_letters(database_url)] == [2] * 60
    assert count(database_url, "log") == 61
    told = [(one.detail.get("recorded", 0), one.detail.get("failed", 0)) for one in entries(engine)]
    assert sorted(told) == sorted((report.recorded, len(report.failures)) for report in reports_)
    add_up(engine)


def test_what_is_gone_before_the_first_is_tried_was_mended_elsewhere(engine: Engine, registry: EventRegistry) -> None:
    unmended(engine, registry, event(code="NEVER"), event(code="NEVER", minute=1))
    with engine.connect() as db:
        chosen = dead_letter_queries.select(db, Filter())
    discard(engine, list(chosen)[:1], wanted=Filter(), who="anna")
    report = requeue(engine, Recording(engine, registry, RULES), chosen, wanted=Filter(), who="ben")
    assert (report.chosen, len(report.failures), report.elsewhere) == (2, 1, 1)


def test_what_failed_again_since_it_was_chosen_is_not_tried_once_more(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    unmended(engine, registry, event(code="NEVER"))
    with engine.connect() as db:
        chosen = dead_letter_queries.select(db, Filter())
    recording = Recording(engine, registry, RULES)
    first, second = (requeue(engine, recording, chosen, wanted=Filter(), who=who) for who in ("anna", "ben"))
    assert (len(first.failures), first.elsewhere) == (1, 0)
    assert (len(second.failures), second.elsewhere, second.is_success) == (0, 1, False)
    assert [row["attempts"] for row in dead_letters(database_url)] == [2]


def test_letters_are_tried_in_the_order_in_which_their_events_happened(
    engine: Engine, registry: EventRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So none waits for a case that is among them, however late its creation was set aside."""
    monkeypatch.setattr(work, "LETTERS", 1)
    early = Rules(zone=RULES.zone, future_tolerance=NINE - timedelta(days=1) - datetime.now(UTC))
    record(
        engine,
        registry,
        event("accept_case", "SPOP", minute=9),
        event("case", "CALL_STARTED", actor=OPERATOR),
        rules=early,
    )
    Recording(engine, registry, early).record([decode(b"no JSON")])
    record(engine, registry, created(), rules=early)
    report = requeue_all(engine, registry)
    assert [one.reason for one in report.failures] == ["malformed"], report.failures
    assert (report.recorded, report.parked) == (3, 0)
    add_up(engine)


def test_letters_are_requeued_while_recorders_are_given_the_same_events(
    engine: Engine, registry: EventRegistry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LETTERS", 7)
    events = [event(minute=number % 50, actor={"id": f"op-{number % 5}"}) for number in range(150)]
    unmended(engine, registry, *events)
    together = threading.Barrier(3)

    def redeliver(turn: int) -> None:
        recording = Recording(engine, registry, RULES)
        together.wait()
        for start in range(turn, 150, 10):
            recording.record([decode(body(*events[start : start + 10]))])

    with ThreadPoolExecutor(2) as pool:
        recorders = [pool.submit(redeliver, turn) for turn in (0, 5)]
        together.wait()
        report = requeue_all(engine, registry)
        for recorder in recorders:
            recorder.result()
    assert (report.recorded + report.duplicates, report.is_success) == (150, True)
    assert (count(database_url, "log"), count(database_url, "dead_letter")) == (151, 0)
    add_up(engine)


def test_where_the_database_goes_away_the_report_says_so_and_the_rest_can_be_done_later(
    engine: Engine, registry: EventRegistry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LETTERS", 2)
    unmended(engine, registry, *(event(minute=minute) for minute in range(6)))
    with psycopg.connect(database_url, autocommit=True) as db:
        name = db.info.dbname
    server = database_url.replace(f"/{name}?", "/postgres?", 1)

    def cut(_done: int) -> None:
        with psycopg.connect(server, autocommit=True) as db:
            db.execute(f"alter database {name} with allow_connections false".encode())
            db.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])

    report = requeue_all(engine, registry, progress=cut)
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"alter database {name} with allow_connections true".encode())
    assert (report.recorded, report.is_success) == (2, False)
    assert report.interrupted
    assert (count(database_url, "log"), count(database_url, "dead_letter")) == (3, 4)
    [entry] = entries(engine)
    assert entry.detail == {"filter": {}, "chosen": 6, "recorded": 2, "cases": ["AB-1"]}
    assert requeue_all(engine, registry).recorded == 4
    add_up(engine)


def test_what_was_requeued_is_in_the_audit_with_who_why_and_what_came_of_it(
    engine: Engine, registry: EventRegistry
) -> None:
    unmended(engine, registry, event(), event(code="NEVER"), event(subject="AB-9"))
    requeue_all(engine, registry, Filter(key="own"))
    [entry] = entries(engine)
    assert (entry.who, entry.action, entry.why) == ("anna", "dead.requeue", "mended")
    counts = {"chosen": 3, "recorded": 1, "failed": 1, "parked": 1}
    assert entry.detail == {"filter": {"key": "own"}, **counts, "cases": ["AB-1", "AB-9"]}
    assert requeue_all(engine, registry, Filter(key="no such")).is_success
    assert len(entries(engine)) == 1
    add_up(engine)


def test_letters_that_are_discarded_leave_their_names_in_the_audit_and_not_what_they_said(
    engine: Engine, registry: EventRegistry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LETTERS", 2)
    unmended(engine, registry, *(event(minute=minute, notes="secret") for minute in range(3)))
    rows = dead_letters(database_url)
    done: list[int] = []
    ids = [row["id"] for row in rows]
    many = discard(engine, ids, wanted=Filter(reason="unknown_code"), who="anna", why="tests", progress=done.append)
    assert (many, done, count(database_url, "dead_letter")) == (3, [2, 1], 0)
    told = entries(engine)
    assert {(one.who, one.action, one.why) for one in told} == {("anna", "dead.discard", "tests")}
    assert [one for entry in told for one in entry.detail["letters"]] == [
        {name: row[name] for name in ("id", "source", "event_id", "case_reference", "reason")}
        | {"fingerprint": row["fingerprint"].hex()}
        for row in rows
    ]
    assert [entry.detail["discarded"] for entry in told] == [2, 1]
    with engine.connect() as db:
        assert [*audit.list_audit(db, case="AB-1")] == told[::-1]
    assert "secret" not in str(dump(database_url)["audit"])
    assert discard(engine, ids, wanted=Filter(), who="anna") == 0
    assert len(entries(engine)) == 2


def test_who_sees_an_events_bytes_is_in_the_audit(engine: Engine, registry: EventRegistry, database_url: str) -> None:
    unmended(engine, registry, event(), event())
    first, second = dead_letters(database_url)
    assert [letter.raw for letter in reveal(engine, [second["id"], 999], who="anna", why="asked")] == [second["raw"]]
    assert reveal(engine, [999], who="anna") == []
    [entry] = entries(engine)
    assert (entry.action, entry.why, entry.detail) == (
        "dead.reveal",
        "asked",
        {"ids": [second["id"]], "cases": ["AB-1"]},
    )
    assert first["id"] != second["id"]


def test_letters_are_kept_for_ever_or_as_long_as_the_setting_says(
    engine: Engine, registry: EventRegistry, database_url: str
) -> None:
    unmended(engine, registry, event(), event())
    with engine.begin() as db:
        db.execute(
            text(
                "update dead_letter set received_at = received_at - interval '31 days' "
                "where id = (select min(id) from dead_letter)"
            )
        )
    old, new = dead_letters(database_url)
    assert tidy(engine, retention_days=0) == 0
    assert (tidy(engine, retention_days=30), tidy(engine, retention_days=30)) == (1, 0)
    assert dead_letters(database_url) == [new]
    [entry] = entries(engine)
    assert (entry.who, entry.action, entry.why) == (
        "upkeep", "dead.expire", "older than CASELOG_DEAD_LETTER_RETENTION_DAYS=30"
    )  # fmt: skip
    assert [one["id"] for one in entry.detail["letters"]] == [old["id"]]


def test_letters_whose_very_event_was_recorded_since_are_removed_and_no_others(
    engine: Engine, registry: EventRegistry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another event of the same name, nor bytes that only claim to be it."""
    monkeypatch.setattr(work, "LETTERS", 1)
    sent_again, taken, waiting = event(), event(notes="a"), event()
    claims = {**sent_again, "time": "soon"}
    unmended(engine, registry, claims, sent_again, {**taken, "data": {**taken["data"], "notes": "b"}}, waiting)
    record(engine, registry, sent_again, taken)
    before = dead_letters(database_url)
    assert tidy(engine, retention_days=0) == 1
    assert dead_letters(database_url) == [before[0], *before[2:]]
    [entry] = entries(engine)
    assert (entry.who, entry.action) == ("upkeep", "dead.recorded")
    assert [one["id"] for one in entry.detail["letters"]] == [before[1]["id"]]
    add_up(engine)
