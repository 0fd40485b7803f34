"""Whether an event that comes under a recorded one's name is that one again, or another."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders.rewriting import JSON_VALUES, rewritten
from support.oracle.memory import MemoryWorld

from caselog.events.folding.identity import (
    canonical_json,
    differences,
    is_same_json,
    refuse_another,
    refuse_another_than_parked,
)
from caselog.events.model.message import Event, parse_event
from caselog.events.model.state import Log

Json = dict[str, Any]

EVENT: Json = {
    "specversion": "1.0", "id": "7", "source": "/s", "type": "means_test", "subject": "AB-1",
    "time": "2026-03-02T09:00:00.123456+00:00",
    "data": {
        "code": "MT_PASSED", "actor": {"id": "anna", "role": "specialist", "provider": "prov-1"},
        "notes": "her neighbour drinks", "context": {"state": "yes", "tel": "020 7946"}, "patch": {"forwards": [1]},
        "colour": "red",
    },
}  # fmt: skip
SECRETS = ("neighbour", "7946", "020", "anna", "boris", "prov-", "red", "blue", "secretly")


def log_of(event: Json) -> Log:
    """The log entry that recording it makes."""
    world = MemoryWorld()
    created = {**EVENT, "id": "0", "type": "case", "time": "2026-01-01T00:00:00Z", "data": {"code": "CASE_CREATED"}}
    world.record(created, event)
    [log] = [log for log in world.logs.values() if log.event_id == event["id"]]
    return log


def event(**changes: Any) -> Event:
    """The event with attributes changed, or members of its data: `data_notes`."""
    attributes = {name: value for name, value in changes.items() if not name.startswith("data_")}
    data = {name.removeprefix("data_"): value for name, value in changes.items() if name.startswith("data_")}
    return parse_event(json.dumps({**EVENT, **attributes, "data": {**EVENT["data"], **data}}).encode())


ANOTHER = {
    "type": event(type="diagnosis"),
    "subject": event(subject="AB-2"),
    "no subject": event(subject=None),
    "time": event(time="2026-03-02T09:00:00.123458Z"),
    "data.code": event(data_code="MT_FAILED"),
    "data.actor.id": event(data_actor={"id": "boris", "role": "specialist", "provider": "prov-1"}),
    "data.actor.role": event(data_actor={"id": "anna", "provider": "prov-1"}),
    "data.actor.provider": event(data_actor={"id": "anna", "role": "specialist", "provider": "prov-2"}),
    "data.notes": event(data_notes="secretly"),
    "no data.notes": event(data_notes=None),
    "data.context": event(data_context={"state": "yes", "tel": "020 7946 0"}),
    "data.patch": event(data_patch={"forwards": [2]}),
    "another member of data": event(data_colour="blue"),
}


@pytest.mark.parametrize("name", ANOTHER)
def test_another_event_is_told_by_what_it_says_otherwise_and_by_nothing_personal(name: str) -> None:
    """The name of the attribute that differs, and no other; values of attributes that are no personal data."""
    attribute = name.removeprefix("no ")
    for error in (refuse_another(ANOTHER[name], log_of(EVENT)), refuse_another_than_parked(ANOTHER[name], event())):
        assert error is not None
        assert error.reason == "rejected"
        told = str(error).partition("They differ in ")[2].partition(". The first stands")[0]
        assert told.partition(" (")[0] == attribute
        assert ", data" not in told
        assert "id of its own" in str(error)
        assert not [secret for secret in SECRETS if secret in str(error)]
    shown = {"type": "'means_test' there", "subject": "'AB-1' there", "data.code": "'MT_FAILED' here"}
    assert shown.get(name, attribute) in str(refuse_another(ANOTHER[name], log_of(EVENT)))


@settings(deadline=None)
@given(st.data())
def test_the_same_event_written_otherwise_is_the_same(data: st.DataObject) -> None:
    written = {**EVENT, "data": {**EVENT["data"], "context": {"any": data.draw(JSON_VALUES)}}}
    again = parse_event(data.draw(rewritten(written)))
    assert differences(again, log_of(written)) == []
    assert refuse_another_than_parked(again, parse_event(json.dumps(written).encode())) is None


def test_what_is_not_kept_in_the_log_is_not_compared() -> None:
    """Params and what is said of the data; who passed the event on; a code that it leaves to its class."""
    log = log_of(EVENT)
    for same in (
        event(data_params={"status": "failed"}, data_code=None),
        event(dataschema="/x", datacontenttype="text/plain"),
        event(traceparent="00-ab-cd-01", tracestate="v=2", hops=3),
    ):
        assert differences(same, log) == []
    timer = {"id": "9", "source": "/s", "specversion": "1.0", "type": "timer", "time": EVENT["time"]}
    timer |= {"data": {"code": "TIMER_STARTED", "actor": {"id": "anna"}}}
    assert differences(parse_event(json.dumps(timer | {"subject": "AB-9"}).encode()), log_of(timer)) == []


def test_every_attribute_that_the_log_takes_from_the_event_is_compared() -> None:
    """A column that the log will have one day must not be forgotten here."""
    derived = {"timer_id", "suppressed", "category", "provider", "organisation", "case_source", "case_created_at"}
    copied = {"id", "source", "event_id", "type", "level"}
    compared = {"key", "case", "code", "occurred_at", "actor", "role", "actor_provider", "notes", "context", "patch"}
    assert set(Log.__struct_fields__) == derived | copied | compared | {"extensions"}


@settings(deadline=None)
@given(data=st.data(), value=JSON_VALUES)
def test_the_canonical_text_of_a_value_is_the_same_however_the_value_is_written(
    data: st.DataObject, value: Any
) -> None:
    """Also as PostgreSQL writes it; and another value has another text."""
    again = parse_event(data.draw(rewritten({**EVENT, "data": {**EVENT["data"], "context": {"any": value}}})))
    assert again.data.context is not None
    assert canonical_json(again.data.context["any"]) == canonical_json(value)
    assert canonical_json([value]) != canonical_json(value)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (1, 1.0, True),
        (1e300, 10**300, True),
        (-0.0, 0, True),
        (1e-7, 0.0000001, True),
        (2**53, 2**53 + 1, False),
        (1, True, False),
        (0, None, False),
        ("1", 1, False),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}, True),
        ([1, 2], [2, 1], False),
        ({"a": None}, {}, False),
    ],
)
def test_canonical_texts_are_equal_where_the_values_are(one: Any, other: Any, *, is_same: bool) -> None:
    assert (canonical_json(one) == canonical_json(other)) is is_same


@given(JSON_VALUES, JSON_VALUES)
def test_equal_json_is_what_postgresql_and_people_call_equal(one: Any, other: Any) -> None:
    assert is_same_json(one, one)
    assert is_same_json(one, other) is is_same_json(other, one)
    if not is_same_json(one, other):
        assert json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [*itertools.combinations([None, True, False, 2, "2", [2], {"2": 2}, [], {}, "", 2.5, 10**400], 2), (1, True)],
)
def test_values_of_different_kinds_are_never_equal(one: Any, other: Any) -> None:
    assert not is_same_json(one, other)
    assert not is_same_json({"a": [one]}, {"a": [other]})
    assert not is_same_json({"a": one}, {"b": one})


def test_a_number_is_equal_however_it_is_kept() -> None:
    assert is_same_json({"a": [1, 10**308]}, {"a": [1.0, 1e308]})
    assert not is_same_json(10**400, 1e308)
    assert not is_same_json(2**53 + 1, 2**53)


def test_times_are_the_same_up_to_the_microsecond_that_is_kept() -> None:
    log = log_of(EVENT)
    assert log.occurred_at == datetime(2026, 3, 2, 9, 0, 0, 123_456, tzinfo=UTC)
    for same in ("09:00:00.1234567Z", "10:00:00.123456999+01:00", "09:00:00.123456Z"):
        assert differences(event(time=f"2026-03-02T{same}"), log) == []
    assert differences(event(time="2026-03-02T09:00:00.123Z"), log) != []
