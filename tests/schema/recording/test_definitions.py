"""Codes come and go, and the log stays: definitions are kept when they are used, and their logs fold for ever."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Engine
from support.oracle.stored import body, dead_letters, what_stands

from caselog.events.folding.resolve import Rules
from caselog.events.folding.retired_codes import check, kept, restored
from caselog.events.model.codes import LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.message import decode
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.recording import definitions
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Recorded

pytestmark = pytest.mark.unproven  # these record with codes of their own, which are gone afterwards

Json = dict[str, Any]

RULES = Rules(zone=ZoneInfo("Europe/London"))
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OPERATOR: Json = {"id": "op-1", "role": "operator"}
_numbers = itertools.count(1)

OUTCOME: Json = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [Role.OPERATOR],
    "description": "A new code",
    "stops_timer": True,
    "set_requires_action_by": RequiresActionBy.PROVIDER,
}


def own_event(**codes: Json) -> type[BaseEvent]:
    """A version of an organisation's class, with these codes; ENDED also is what its own rule reads."""

    class Own(BaseEvent):
        key = "own"

        def apply(self, case: CaseState, log: Log) -> None:
            case.scope_state = log.code.lower()

    Own.codes = codes
    return Own


def registry_with(*classes: type[BaseEvent]) -> EventRegistry:
    """The bundled apps and these."""
    autodiscover()
    registry = EventRegistry()
    registry.restore(event_registry.snapshot())
    for cls in classes:
        registry.register(cls)
    return registry


def event(key: str, code: str, minute: int, *, subject: str | None = "AB-1", **data: Any) -> Json:
    return {
        "specversion": "1.0",
        "id": str(next(_numbers)),
        "source": "/test",
        "type": key,
        "time": (NINE + timedelta(minutes=minute)).isoformat(),
        "data": data | {"code": code},
        **({} if subject is None else {"subject": subject}),
    }


@pytest.fixture
def record(engine: Engine) -> Callable[..., Recorded]:
    """Record events as one batch, under a registry, as a recorder that has just started."""

    def record(registry: EventRegistry, *events: Json) -> Recorded:
        return Recording(engine, registry, RULES).record([decode(body(*events))])

    return record


def stored(database_url: str) -> list[Json]:
    with psycopg.connect(database_url, row_factory=dict_row) as db:
        return db.execute("select * from code_definition order by key, code, version").fetchall()


def a_call() -> list[Json]:
    """A case, and a timer that the organisation's own code ends after ten minutes."""
    return [
        event("case", "CASE_CREATED", 0),
        event("timer", "TIMER_STARTED", 5, subject=None, actor=OPERATOR),
        event("own", "ENDED", 15, actor=OPERATOR),
    ]


def a_late_event() -> Json:
    """Into the running timer: case and timer are folded again."""
    return event("case", "CASE_VIEWED", 7, actor=OPERATOR)


# --- kept ---


def test_every_definition_comes_back_as_it_was_kept() -> None:
    """Through JSON, as the database keeps it; of every code that there is."""
    for code in registry_with(own_event(ENDED=OUTCOME)).codes():
        again = restored(json.loads(json.dumps(kept(code))))
        assert all(getattr(again, name) == getattr(code, name) for name in code.__struct_fields__), code


def test_what_is_used_is_kept_once(database_url: str, record: Callable[..., Recorded], engine: Engine) -> None:
    """Also over restarts and later batches; what nobody used is not kept."""
    registry = registry_with(own_event(ENDED=OUTCOME, OTHER=OUTCOME))
    for _ in range(2):
        record(registry, *a_call())
    recording = Recording(engine, registry, RULES)
    for minute in (20, 30, 40):
        recording.record([decode(body(event("own", "ENDED", minute, actor=OPERATOR)))])
    rows = stored(database_url)
    assert [(row["key"], row["code"], row["version"]) for row in rows] == [
        ("case", "CASE_CREATED", 1), ("own", "ENDED", 1), ("timer", "TIMER_STARTED", 1),
    ]  # fmt: skip
    ended = {name: value for name, value in rows[1].items() if name not in ("first_seen", "version")}
    assert ended == {
        "key": "own", "code": "ENDED", "type": "outcome", "level": 29, "selectable_by": ["operator"],
        "description": "A new code", "order": 10000, "stops_timer": True, "creates_case": False,
        "starts_timer": False, "cancels_timer": False, "set_requires_action_by": {"set": "2_provider"},
        "distinguished_by": [],
    }  # fmt: skip


def test_a_recorder_asks_for_definitions_only_while_they_are_new(database_url: str, engine: Engine) -> None:
    """Seen by the database: once they are known to be kept, the table is read no more."""
    recording = Recording(engine, registry_with(), RULES)
    for minute in range(6):
        recording.record([decode(body(event("case", "CASE_CREATED", minute, subject=f"C-{minute}")))])
        if minute == 2:
            with psycopg.connect(database_url) as db:
                db.execute("drop table code_definition")
    assert len(what_stands(database_url).cases) == 6


def test_a_changed_definition_is_a_new_version_and_the_old_one_stays(
    database_url: str, record: Callable[..., Recorded]
) -> None:
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    changed = registry_with(own_event(ENDED=OUTCOME | {"description": "Other words"}))
    record(changed, event("own", "ENDED", 30, actor=OPERATOR))
    rows = [row for row in stored(database_url) if row["key"] == "own"]
    assert [(row["version"], row["description"]) for row in rows] == [(1, "A new code"), (2, "Other words")]
    assert rows[0]["first_seen"] < rows[1]["first_seen"]


def test_what_a_transaction_adds_is_not_taken_for_kept(database_url: str, engine: Engine) -> None:
    """It may yet be lost: whoever asks is told so only by a later transaction."""
    code = registry_with(own_event(ENDED=OUTCOME)).get_code("own", "ENDED")
    with engine.connect() as db:
        assert definitions.keep(db, [code]) == set()
        db.rollback()
    assert stored(database_url) == []
    with engine.begin() as db:
        assert definitions.keep(db, [code]) == set()
    with engine.begin() as db:
        assert definitions.keep(db, [code]) == {("own", "ENDED")}


def test_a_batch_that_is_not_recorded_keeps_no_definition(database_url: str, record: Callable[..., Recorded]) -> None:
    """A code that was only refused or parked is not one that the log has used."""
    registry = registry_with(own_event(ENDED=OUTCOME))
    unknown = event("own", "ENDED", 0, subject="NOT-YET", actor=OPERATOR)
    record(registry, unknown, event("own", "NO_SUCH", 0))
    assert stored(database_url) == []
    record(registry, event("case", "CASE_CREATED", 0, subject="NOT-YET"))
    assert [row["code"] for row in stored(database_url)] == ["CASE_CREATED"]


def test_a_strange_description_costs_no_event(database_url: str, record: Callable[..., Recorded]) -> None:
    registry = registry_with(own_event(ENDED=OUTCOME | {"description": "a\x00b", "order": 10**12}))
    assert record(registry, *a_call()).recorded == 3
    assert dead_letters(database_url) == []


# --- no longer registered ---


@pytest.mark.parametrize("left", ["nothing", "the class without the code"])
def test_logs_of_a_code_that_is_gone_fold_as_before(
    database_url: str, record: Callable[..., Recorded], left: str
) -> None:
    """The timer that it stopped stays stopped and billed, the outcome and the next move stand."""
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    before = what_stands(database_url)
    registry = registry_with(*([own_event(OTHER=OUTCOME)] if left != "nothing" else []))
    late = a_late_event()
    assert record(registry, late).recorded == 1
    after = what_stands(database_url)
    case = after.cases["AB-1"]
    assert case["billable_time"] == 600
    assert (case["outcome_code"], case["requires_action_by"]) == ("ENDED", "2_provider")
    assert after.timers == before.timers
    # The rules of the class are there as long as the class is.
    assert case["scope_state"] == (None if left == "nothing" else "ended")
    assert after.logs["/test", late["id"]]["timer"] is not None


def test_a_case_folds_as_before_also_where_no_actor_is_concerned(
    database_url: str, record: Callable[..., Recorded]
) -> None:
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    record(registry_with(), event("means_test", "MT_PASSED", 3, context={"state": "yes"}))
    case = what_stands(database_url).cases["AB-1"]
    assert (case["outcome_code"], case["requires_action_by"], case["eligibility_state"]) == (
        "ENDED", "2_provider", "yes",
    )  # fmt: skip


def test_the_one_named_rule_is_found_again(database_url: str, record: Callable[..., Recorded]) -> None:
    rule = RequiresActionBy.none_if_owned_by_operator_or_manager
    record(registry_with(own_event(ENDED=OUTCOME | {"set_requires_action_by": rule})), *a_call())
    record(registry_with(), a_late_event())
    assert what_stands(database_url).cases["AB-1"]["requires_action_by"] is None


def test_new_events_of_a_code_that_is_gone_are_refused(record: Callable[..., Recorded]) -> None:
    """Though its logs fold, and its definition is known."""
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    registry = registry_with()
    record(registry, a_late_event())
    assert registry.find("own", "ENDED")[0] is not None
    recorded = record(registry, event("own", "ENDED", 60, actor=OPERATOR))
    assert dict(recorded.dead) == {"unknown_event": 1}
    recorded = record(registry_with(own_event(OTHER=OUTCOME)), event("own", "ENDED", 60, actor=OPERATOR))
    assert dict(recorded.dead) == {"unknown_code": 1}


def test_a_stored_log_keeps_its_own_type_and_level(database_url: str, record: Callable[..., Recorded]) -> None:
    """A code that becomes less does not take the outcome from a case that has it."""
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    record(registry_with(own_event(ENDED=OUTCOME | {"level": LogLevel.MINOR})), a_late_event())
    assert what_stands(database_url).cases["AB-1"]["outcome_code"] == "ENDED"


# --- codes --check ---


def findings(engine: Engine, registry: EventRegistry) -> list[tuple[str, str, int]]:
    with engine.connect() as db:
        return [(found.finding, found.code, found.logs) for found in check(registry, definitions.used_codes(db))]


def test_a_registry_that_has_what_the_log_used_passes(record: Callable[..., Recorded], engine: Engine) -> None:
    """New codes, words, places and permissions are an organisation's own business; so are codes that nobody used."""
    record(registry_with(own_event(ENDED=OUTCOME, UNUSED=OUTCOME)), *a_call())
    free = {"description": "Other words", "order": 3, "selectable_by": []}
    assert findings(engine, registry_with(own_event(ENDED=OUTCOME | free, NEW=OUTCOME))) == []


def test_a_removed_code_is_found(record: Callable[..., Recorded], engine: Engine) -> None:
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call(), event("own", "ENDED", 50, actor=OPERATOR))
    assert findings(engine, registry_with()) == [("removed", "ENDED", 2)]
    assert findings(engine, registry_with(own_event(OTHER=OUTCOME))) == [("removed", "ENDED", 2)]


@pytest.mark.parametrize(
    "changed",
    [
        {"type": LogType.SYSTEM},
        {"level": LogLevel.MODERATE},
        {"stops_timer": False},
        {"set_requires_action_by": None},
        {"set_requires_action_by": RequiresActionBy.none_if_owned_by_operator_or_manager},
    ],
)
def test_a_contradicted_code_is_found(record: Callable[..., Recorded], engine: Engine, changed: Json) -> None:
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    assert findings(engine, registry_with(own_event(ENDED=OUTCOME | changed))) == [("contradicted", "ENDED", 1)]


@pytest.mark.parametrize("attribute", ["creates_case", "starts_timer", "cancels_timer"])
def test_a_code_that_does_more_than_it_did_is_found(
    record: Callable[..., Recorded], engine: Engine, attribute: str
) -> None:
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    cls = own_event(ENDED=OUTCOME)
    setattr(cls, attribute, ("ENDED",))
    assert findings(engine, registry_with(cls)) == [("contradicted", "ENDED", 1)]


def test_what_tells_two_outcomes_apart_is_kept_and_outlives_its_code(
    database_url: str, record: Callable[..., Recorded], engine: Engine
) -> None:
    """Two outcomes for two rooms stay two when the case is folded again without the class; to change it is found."""
    cls = own_event(ENDED=OUTCOME)
    cls.distinguished_by = ("room",)
    rooms = [event("own", "ENDED", 20 + n, actor=OPERATOR, context={"room": room}) for n, room in enumerate("aba")]
    record(registry_with(cls), *a_call(), *rooms)
    assert record(registry_with(), a_late_event()).recorded == 1
    after = what_stands(database_url)
    assert [after.logs["/test", one["id"]]["suppressed"] for one in rooms] == [False] * 3
    assert findings(engine, registry_with(cls)) == []
    with engine.connect() as db:
        [found] = check(registry_with(own_event(ENDED=OUTCOME)), definitions.used_codes(db))
    assert "distinguished_by was room and is nothing" in found.message


def test_where_no_definition_was_kept_the_logs_speak(
    database_url: str, record: Callable[..., Recorded], engine: Engine
) -> None:
    """Of logs older than the table: type and level stand in the logs themselves."""
    record(registry_with(own_event(ENDED=OUTCOME)), *a_call())
    with psycopg.connect(database_url) as db:
        db.execute("delete from code_definition")
    assert findings(engine, registry_with(own_event(ENDED=OUTCOME))) == []
    assert findings(engine, registry_with(own_event(ENDED=OUTCOME | {"level": LogLevel.MINOR}))) == [
        ("contradicted", "ENDED", 1)
    ]
    assert findings(engine, registry_with()) == [("removed", "ENDED", 1)]
