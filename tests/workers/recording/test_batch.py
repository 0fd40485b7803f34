"""Recording on a real PostgreSQL: each event once, in any order, none dropped (docs/design.md "Promises")."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from support.builders.plain_code import FIELDS
from support.builders.strategies import deliveries, event_sets
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, body, count, dead_letters, dump, what_stands
from support.processes.patience import DEADLINE_S

from caselog.events.errors import EventRejected
from caselog.events.folding.resolve import Rules
from caselog.events.model.message import Message, decode
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.recording import parking
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.database_errors import DatabaseAway
from caselog.workers.tasks.aggregator import Aggregator

Json = dict[str, Any]

RULES = Rules(zone=ZoneInfo("Europe/London"))
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OPERATOR: Json = {"id": "op-1", "role": "operator"}
EVERY_TABLE = 'log, "case", timer, dead_letter, parked, report_outbox, report_sum, callback, complaint, assignment'
_numbers = itertools.count(1)


class Own(BaseEvent):
    """An organisation's own event, whose rules do whatever its context says."""

    key = "own"
    codes = {"MADE": FIELDS, "DONE": FIELDS}
    creates_case = ("MADE",)

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        if case is not None and params.get("breaks"):
            raise ZeroDivisionError
        return "DONE"

    def apply(self, case: CaseState, log: Log) -> None:
        if "refuse" in log.context:
            raise EventRejected(log.context["refuse"])
        if log.context.get("breaks"):
            raise ZeroDivisionError
        for name, value in log.context.get("set", {}).items():
            setattr(case, name, value)


class Trusted(BaseEvent):
    """As a bundled rule, what it sets is not looked at."""

    key = "trusted"
    codes = {"DONE": FIELDS}

    def apply(self, case: CaseState, log: Log) -> None:
        if log.context.get("says_nul"):
            case.scope_state = "a\x00b"


Trusted.__module__ = "caselog.events.apps.trusted"


class Codeless(BaseEvent):
    """Registered without a single code, which is allowed."""

    key = "codeless"


@pytest.fixture
def registry() -> Iterator[EventRegistry]:
    """The bundled apps, and event classes of this test's own."""
    autodiscover()
    before = event_registry.snapshot()
    event_registry.register(Own)
    event_registry.register(Trusted)
    event_registry.register(Codeless)
    yield event_registry
    event_registry.restore(before)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine, registry: EventRegistry) -> Recording:
    return Recording(engine, registry, RULES)


def event(key: str, code: str | None = None, *, minute: int = 0, subject: str | None = "AB-1", **data: Any) -> Json:
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


def message(*events: Json) -> Message:
    return decode(body(*events))


def add_up(engine: Engine) -> None:
    Aggregator(engine, event_registry, RULES).add_all_up()


def settle(engine: Engine, recording: Recording) -> None:
    """Until nothing that can be recorded is parked and every delta is added up.

    What was parked while its case was being created is tried again after a second, not at once.
    """
    deadline = time.monotonic() + DEADLINE_S
    while True:
        recording.retry_parked()
        with engine.begin() as db:
            ready = parking.count_parked(db).ready
        if not ready:
            break
        assert time.monotonic() < deadline, f"{ready} parked events of cases that exist are not recorded"
    add_up(engine)


def a_story() -> list[Json]:
    """A call with a timer, an assignment, a complaint, a refused event and one that waits for its case."""
    return [
        created(),
        event("timer", "TIMER_STARTED", subject=None, actor=OPERATOR),
        event("case", "CALL_STARTED", minute=1, actor=OPERATOR),
        event("assign_to_provider", "REFSP", minute=10, actor=OPERATOR, context={"provider": "prov-1"}),
        event("complaint", "COMPLAINT_CREATED", minute=20, context={"complaint": "c-1"}),
        event("accept_case", "NO_SUCH", minute=30),
        event("accept_case", "SPOP", minute=40, subject="NOT-YET"),
        event("close_case", None, minute=50),
    ]


# --- exactly one effect per event ---


def test_a_redelivered_event_changes_nothing(database_url: str, engine: Engine, recording: Recording) -> None:
    """Not a single column of a single row, `modified_at` and the sequence of attempts included."""
    story = a_story()
    first = recording.record([message(*story)])
    add_up(engine)
    stands = dump(database_url)
    assert (first.recorded, first.parked, dict(first.dead)) == (6, 1, {"unknown_code": 1})
    for again in ([message(*story)], [message(one) for one in story], [message(*story[::-1]), message(*story)]):
        recorded = recording.record(again)
        assert recorded.recorded == 0
        assert dump(database_url) == stands


def test_an_event_that_comes_twice_in_a_batch_counts_once(database_url: str, recording: Recording) -> None:
    callback = event("call_me_back", "CB1", actor=OPERATOR, context={"requires_action_at": NINE.isoformat()})
    recorded = recording.record([message(created()), message(callback, callback), message(callback)])
    assert (recorded.recorded, recorded.duplicates) == (2, 2)
    assert what_stands(database_url).cases["AB-1"]["callback_attempt"] == 1


def test_two_recorders_on_the_same_events_record_each_once(
    database_url: str, engine: Engine, registry: EventRegistry
) -> None:
    """Both are given everything, in different orders, in small batches, at the same time; also one case to create."""
    cases = [f"C-{n}" for n in range(12)]
    story = [created(case) for case in cases]
    for number, case in enumerate(cases):
        actor = {"id": f"op-{number % 3}", "role": "operator"}
        story.append(event("timer", "TIMER_STARTED", minute=number, subject=None, actor=actor))
        story.append(event("suspend_case", "TERM", minute=number, subject=case, actor=actor))
    together = threading.Barrier(2)

    def record(order: list[Json]) -> int:
        recorder = Recording(engine, registry, RULES)
        together.wait(timeout=DEADLINE_S)
        return sum(recorder.record([message(*order[at : at + 5])]).recorded for at in range(0, len(order), 5))

    with ThreadPoolExecutor(2) as threads:
        recorded = sum(threads.map(record, [story, story[::-1]]))
    settle(engine, Recording(engine, registry, RULES))
    assert recorded <= len(story)
    assert_same(what_stands(database_url), fold_all(story))


# Each example is a delivery of its own into an emptied database.
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), events=event_sets(settled=True))
def test_any_order_any_duplicates_and_any_batches_end_in_the_same(
    data: st.DataObject, events: list[Json], database_url: str, engine: Engine, recording: Recording
) -> None:
    """Logs, cases, timers, dead letters, parked events and the report equal those of the independent reading."""
    with psycopg.connect(database_url) as db:
        for table in EVERY_TABLE.split(", "):
            db.execute(f"delete from {table}".encode())
    for batch in data.draw(deliveries(events)):
        recording.record([message(*batch)])
    settle(engine, recording)
    assert_same(what_stands(database_url), fold_all(events))


def test_timers_that_start_at_one_instant_are_told_apart_by_their_order(
    database_url: str, engine: Engine, recording: Recording
) -> None:
    """All at nine, by id: start, view, end, start. The view arrives last, and the second start first."""
    creation = created()
    start, view, end, again = (
        event("timer", "TIMER_STARTED", subject=None, actor=OPERATOR),
        event("case", "CASE_VIEWED", actor=OPERATOR),
        event("suspend_case", "TERM", actor=OPERATOR),
        event("timer", "TIMER_STARTED", subject=None, actor=OPERATOR),
    )
    story = [one | {"id": f"at nine {number}"} for number, one in enumerate((start, view, end, again))]
    recording.record([message(creation)])
    for arrives in (3, 0, 2, 1):
        recording.record([message(story[arrives])])
    settle(engine, recording)
    assert_same(what_stands(database_url), fold_all([creation, *story]))


def test_a_message_with_three_thousand_events_is_recorded_whole(database_url: str, recording: Recording) -> None:
    """More events than a transaction takes; the last refers to what the first created."""
    cases = [f"C-{n}" for n in range(1000)]
    story = [created(case) for case in cases]
    story += [event("means_test", "MT_PASSED", minute=1, subject=case) for case in cases]
    story += [event("accept_case", "SPOP", minute=2, subject=case) for case in cases]
    recorded = recording.record([message(*story)])
    assert (recorded.recorded, recorded.parked, dict(recorded.dead)) == (3000, 0, {})
    assert {case["outcome_code"] for case in what_stands(database_url).cases.values()} == {"SPOP"}


# --- dead letters: each alone, with its reason and what to do next ---

_LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()
_DEAD: list[tuple[str, str, Callable[[], Json]]] = [
    ("malformed", "docs/events.md", lambda: event("accept_case", "SPOP") | {"specversion": "0.3"}),
    ("malformed", "subject is missing", lambda: event("accept_case", "SPOP", subject=None)),
    ("malformed", "NUL", lambda: event("accept_case", "SPOP", notes="a\x00b")),
    ("unknown_event", "caselog dead requeue", lambda: event("acept_case", "SPOP")),
    ("unknown_code", "Did you mean 'SPOP'", lambda: event("accept_case", "SPOB")),
    ("unknown_code", "no codes at all", lambda: event("codeless", "ANY")),
    ("code_not_resolved", "data.code", lambda: event("complaint")),
    ("code_not_resolved", "data.code", lambda: event("codeless")),
    ("role_not_allowed", "data.actor.role", lambda: event("decline_help", "DESP", actor={"id": "x", "role": "web"})),
    ("time_in_future", "clock", lambda: event("accept_case", "SPOP") | {"time": _LATER}),
    ("rejected", "context.provider", lambda: event("assign_to_provider", "REFSP")),
    ("rejected", "not on Sundays", lambda: event("own", context={"refuse": "not on Sundays"})),
    ("failed", "ZeroDivisionError", lambda: event("own", params={"breaks": True})),
    ("failed", "ZeroDivisionError", lambda: event("own", context={"breaks": True})),
    (
        "failed",
        "set case.callback_attempt to something else",
        lambda: event("own", context={"set": {"callback_attempt": 2**40}}),
    ),
    (
        "failed",
        "set case.callback_attempt to something else",
        lambda: event("own", context={"set": {"callback_attempt": None}}),
    ),
    (
        "failed",
        "set case.provider to something else",
        lambda: event("own", context={"set": {"provider": {"no": "text"}}}),
    ),
    (
        "failed",
        "set case.provider_viewed to something else",
        lambda: event("own", context={"set": {"provider_viewed": "no time"}}),
    ),
    # What only PostgreSQL finds: the one row is told from the others of its transaction.
    ("failed", "NUL", lambda: event("trusted", context={"says_nul": True})),
]


@pytest.mark.parametrize(("reason", "says", "make"), _DEAD, ids=[f"{r}: {s}" for r, s, _ in _DEAD])
def test_what_cannot_be_recorded_is_a_dead_letter_alone(  # noqa: PLR0917 - three parameters and three fixtures
    reason: str, says: str, make: Callable[[], Json], database_url: str, engine: Engine, recording: Recording
) -> None:
    """With its bytes, its reason and a remedy; the events around it are recorded, those of its own case too."""
    bad, around = make(), [created(), event("means_test", "MT_PASSED", minute=1, context={"state": "yes"})]
    around += [created("AB-2"), event("accept_case", "SPOP", minute=2), event("accept_case", "SPOP", subject="AB-2")]
    recorded = recording.record([message(*around[:2], bad, *around[2:])])
    settle(engine, recording)
    assert dict(recorded.dead) == {reason: 1}
    [letter] = dead_letters(database_url)
    assert (letter["reason"], letter["source"], letter["event_id"]) == (reason, bad["source"], bad["id"])
    assert says in letter["message"]
    assert letter["key"] == bad["type"]
    assert letter["case_reference"] == bad.get("subject")
    assert decode(letter["raw"]).events == message(bad).events or letter["reason"] == "malformed"
    stands = what_stands(database_url)
    stands.refused.clear()
    assert_same(stands, fold_all(around))
    recording.record([message(bad)])
    assert len(dead_letters(database_url)) == 1


def test_a_dead_letter_names_the_misspelt_member_that_may_be_all_that_is_wrong(
    database_url: str, recording: Recording
) -> None:
    """Written past the Publisher, which refuses it."""
    recording.record([
        message(created()),
        message(event("decline_help", "DESP", acter={"id": "x", "role": "operator"})),
        message(event("decline_help", "DESP", actor={"id": "x", "rol": "operator"}, colour="red")),
        message(event("assign_to_provider", "REFSP", Context={"provider": "p7"})),
        message(event("assign_to_provider", "REFSP", colour="red")),
    ])  # fmt: skip
    letters = sorted(dead_letters(database_url), key=lambda letter: int(letter["event_id"]))
    said = [letter["message"] for letter in letters]
    assert "data.actor is missing" in said[0]
    assert said[0].endswith("data has the unknown member 'acter': did you mean 'actor'?")
    assert "data.actor.role is missing" in said[1]
    assert said[1].endswith("data.actor has the unknown member 'rol': did you mean 'role'?")
    assert said[2].endswith("data has the unknown member 'Context': did you mean 'context'?")
    assert "unknown member" not in said[3]


def test_what_is_no_message_at_all_is_a_dead_letter_with_its_bytes(database_url: str, recording: Recording) -> None:
    bodies = [b"", b"\xff\x00", b"[]", b"{", b"null", b"[" * 10_000, b'{"a": NaN}']
    recorded = recording.record([*map(decode, bodies), message(created())])
    assert recorded.dead == {"malformed": len(bodies)}
    assert sorted(letter["raw"] for letter in dead_letters(database_url)) == sorted(bodies)
    assert count(database_url, "case") == 1


def test_a_recorded_event_that_comes_again_is_no_dead_letter_whatever_the_registry_says_now(
    database_url: str, engine: Engine, recording: Recording
) -> None:
    accepted = event("accept_case", "SPOP")
    recording.record([message(created(), accepted)])
    nothing_known = Recording(engine, EventRegistry(), RULES)
    recorded = nothing_known.record([message(accepted)])
    assert (recorded.duplicates, dict(recorded.dead)) == (1, {})
    assert dead_letters(database_url) == []


def test_the_clock_of_the_database_decides_what_the_future_is(
    database_url: str, engine: Engine, recording: Recording
) -> None:
    """Up to the tolerance ahead an event is recorded; its edge is taken from the server, not from this machine."""
    with psycopg.connect(database_url) as db:
        row = db.execute("select now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    inside, outside = now + timedelta(seconds=290), now + timedelta(seconds=420)
    recorded = recording.record(
        [message(created(), *(event("accept_case", "SPOP") | {"time": at.isoformat()} for at in (inside, outside)))]
    )
    assert (recorded.recorded, dict(recorded.dead)) == (2, {"time_in_future": 1})
    patient = Recording(engine, event_registry, Rules(zone=RULES.zone, future_tolerance=timedelta(days=1)))
    assert patient.record([message(event("accept_case", "SPOP") | {"time": outside.isoformat()})]).recorded == 1


# --- parked events ---


def test_an_event_without_its_case_is_parked_and_recorded_once_the_case_is_there(
    database_url: str, engine: Engine, recording: Recording
) -> None:
    early = [event("accept_case", "SPOP", minute=m, subject="LATE-1") for m in (1, 2)]
    assert recording.record([message(*early)]).parked == 2
    assert (count(database_url, "parked"), count(database_url, "log")) == (2, 0)
    assert recording.retry_parked().recorded == 0
    creation = created("LATE-1")
    assert recording.record([message(creation)]).made_due == 2
    assert recording.retry_parked().recorded == 2
    settle(engine, recording)
    assert_same(what_stands(database_url), fold_all([*early, creation]))


def test_an_event_parked_for_too_long_becomes_an_unknown_case(
    database_url: str, engine: Engine, registry: EventRegistry
) -> None:
    waits = event("accept_case", "SPOP", subject="NEVER")
    impatient = Recording(engine, registry, RULES, give_up_parked_s=0)
    impatient.record([message(waits)])
    with psycopg.connect(database_url) as db:
        db.execute("update parked set due_at = now()")
    assert impatient.retry_parked().dead == {"unknown_case": 1}
    assert count(database_url, "parked") == 0
    [letter] = dead_letters(database_url)
    assert (letter["reason"], letter["case_reference"], letter["attempts"]) == ("unknown_case", "NEVER", 2)
    assert "caselog dead requeue" in letter["message"]
    assert decode(letter["raw"]).events == message(waits).events


def test_a_parked_event_that_its_case_then_refuses_is_a_dead_letter_and_parked_no_more(
    database_url: str, recording: Recording
) -> None:
    waits = event("stop_call_me_back", subject="LATE-2", params={"cancel": True})
    recording.record([message(waits)])
    recording.record([message(created("LATE-2"))])
    assert recording.retry_parked().dead == {"rejected": 1}
    assert count(database_url, "parked") == 0


# --- when the world fails ---


def test_nothing_is_half_written_when_the_database_goes_away(database_url: str, recording: Recording) -> None:
    """The connection is cut while a batch waits for a lock, with logs to write: all of it is tried again later."""
    recording.record([message(created("AB-2"))])
    stands = dump(database_url)
    story = [created(), event("accept_case", "SPOP", subject="AB-2"), event("means_test", "MT_PASSED")]
    with psycopg.connect(database_url) as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("select 1 from \"case\" where reference = 'AB-2' for update")
        outcome = threads.submit(recording.record, [message(*story)])
        while not _cut_who_waits(database_url):
            assert not outcome.done()
        with pytest.raises(DatabaseAway, match="PostgreSQL"):
            outcome.result(timeout=DEADLINE_S)
        holder.rollback()
    assert dump(database_url) == stands
    assert recording.record([message(*story)]).recorded == 3


def _cut_who_waits(database_url: str) -> bool:
    """Terminate the connection that waits for a lock of this database; whether there was one."""
    with psycopg.connect(database_url) as db:
        found = db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchall()
    return bool(found)


def test_a_batch_that_a_deadlock_broke_is_recorded_all_the_same(database_url: str, recording: Recording) -> None:
    """Somebody else takes a case, then an actor, which is the order in which caselog does not take them."""
    recording.record([message(created())])
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as threads:
        # The server breaks a deadlock by failing whoever finds it first: that is not to be this one.
        other.execute("set local deadlock_timeout = '1min'")
        other.execute("select 1 from \"case\" where reference = 'AB-1' for update")
        outcome = threads.submit(recording.record, [message(event("accept_case", "SPOP", actor=OPERATOR))])
        while not _somebody_waits(database_url):
            assert not outcome.done()
        other.execute("select pg_advisory_xact_lock(hashtextextended('op-1', 0))")
        assert not outcome.done()
        other.rollback()
        assert outcome.result(timeout=DEADLINE_S).recorded == 1


def _somebody_waits(database_url: str) -> bool:
    with psycopg.connect(database_url) as db:
        query = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        return db.execute(query).fetchone() is not None


def test_a_connection_that_died_between_batches_is_replaced(database_url: str, recording: Recording) -> None:
    recording.record([message(created())])
    with psycopg.connect(database_url) as db:
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    assert recording.record([message(event("accept_case", "SPOP"))]).recorded == 1


def test_a_database_that_is_not_there_is_away_and_no_event_is_to_blame(registry: EventRegistry) -> None:
    engine = make_engine("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(DatabaseAway):
        Recording(engine, registry, RULES).record([message(created())])
    engine.dispose()
