"""What the strategies draw: all that a call centre lives, so that a law that is checked with them is checked on it.

A fault that no drawn set of events can show is a fault that no property test finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.builders.strategies import event_sets, report_event_sets
from support.oracle.reference import ASSIGNMENTS, CALLBACKS, WRITE_PROVIDER_TIMES, Outcome, fold_all

Json = dict[str, Any]
LONDON = ZoneInfo("Europe/London")
MANY = 300


def drawn(sets: st.SearchStrategy[list[Json]]) -> list[tuple[list[Json], Outcome]]:
    """The same sets each time, and what becomes of them."""
    found = []

    @settings(
        max_examples=MANY,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sets)
    def draw(events: list[Json]) -> None:
        found.append((events, fold_all(events)))

    draw()
    return found


@pytest.fixture(scope="module")
def any_events() -> list[tuple[list[Json], Outcome]]:
    return drawn(event_sets())


@pytest.fixture(scope="module")
def reported_events() -> list[tuple[list[Json], Outcome]]:
    return drawn(report_event_sets())


def kept(outcome: Outcome, *codes: str, **members: Any) -> list[Json]:
    return [
        log
        for log in outcome.logs.values()
        if log["code"] in codes and not log["suppressed"] and all(log[name] == value for name, value in members.items())
    ]


def on_one_day(logs: list[Json]) -> bool:
    """Two of them are about one case, on one local day."""
    seen = [(log["case"], log["occurred_at"].astimezone(LONDON).date()) for log in logs]
    return len(set(seen)) < len(seen)


def many(logs: list[Json], of: Callable[[Json], Any]) -> bool:
    """Two of one case that differ in that."""
    return any(a["case"] == b["case"] and of(a) != of(b) for a in logs for b in logs)


def is_split(outcome: Outcome) -> list[Json]:
    return [case for case in outcome.cases.values() if case["from_case"] is not None and case["provider"] is not None]


KINDS: dict[str, Callable[[Outcome], Any]] = {
    "two assignments on one day": lambda o: on_one_day(kept(o, *ASSIGNMENTS, notes="")),
    "two on one day to one provider, which did something in between": lambda o: on_one_day(
        kept(o, "REFSP", provider="prov-1", notes="")
    ),
    "a repetition": lambda o: any(log["suppressed"] and log["type"] == "outcome" for log in o.logs.values()),
    "two callbacks on one day": lambda o: on_one_day(kept(o, "CB1", notes="")),
    "a callback by the web form": lambda o: kept(o, "CB1", role="web"),
    "a callback that the web form may not make": lambda o: "role_not_allowed" in o.refused.values(),
    "a manager who does what operators may": lambda o: kept(o, "CALL_STARTED", "CB2", "IRCB", role="operator_manager"),
    "an SMS that is called back": lambda o: kept(o, "CB1", case_source="SMS"),
    "a voicemail that is called back": lambda o: kept(o, "CB1", case_source="VOICEMAIL"),
    "complaints in twos, one of them unnamed": lambda o: many(
        kept(o, "COMPLAINT_CREATED"), lambda log: log["context"].get("complaint")
    ),
    "a complaint that is reopened": lambda o: kept(o, "COMPLAINT_CLOSED") and kept(o, "COMPLAINT_REOPENED"),
    "a split case with an action owner": lambda o: [c for c in is_split(o) if c["requires_action_by"] != "operator"],
    "provider codes of a case that never had one": lambda o: any(
        log["code"] in WRITE_PROVIDER_TIMES
        and log["provider"] is None
        and not kept(o, *ASSIGNMENTS, "COI", "MIS", case=log["case"])
        for log in o.logs.values()
    ),
    "a category by the diagnosis": lambda o: any(
        log["category"] == log["context"].get("category") is not None for log in kept(o, "DIAGNOSIS_CREATED")
    ),
    "a timer that a suppressed log stops": lambda o: any(
        log["suppressed"] and log["timer"] and o.timers[log["timer"]]["stopped_at"] == log["occurred_at"]
        for log in o.logs.values()
        if log["type"] == "outcome"
    ),
    "an event before its case's creation": lambda o: any(
        log["occurred_at"] < o.cases[log["case"]]["created_at"] for log in o.logs.values() if log["case"] is not None
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sets", ["any_events", "reported_events"])
def test_the_sets_hold_all_that_a_call_centre_lives(sets: str, kind: str, request: pytest.FixtureRequest) -> None:
    assert any(KINDS[kind](outcome) for _, outcome in request.getfixturevalue(sets))


RESOLVED: dict[str, Callable[[Json, Json], bool]] = {
    "a callback sent twice": lambda event, log: event["type"] == "call_me_back" and log["suppressed"],
    "a callback of the web form": lambda event, log: event["type"] == "call_me_back" and log["role"] == "web",
    "alternative help of two kinds": lambda event, log: (
        event["type"] == "alternative_help" and log["code"][:3] == "SPF"
    ),
    "alternative help elsewhere": lambda event, log: event["type"] == "alternative_help" and log["code"] == "COSPF",
    "a callback after another": lambda event, log: event["type"] == "call_me_back" and log["code"] in CALLBACKS[1:],
}


@pytest.mark.parametrize("kind", RESOLVED)
def test_codes_are_left_to_the_class_where_they_depend_on_the_case(
    kind: str, any_events: list[tuple[list[Json], Outcome]]
) -> None:
    assert any(
        RESOLVED[kind](event, outcome.logs[event["source"], event["id"]])
        for events, outcome in any_events
        for event in events
        if event["data"].get("code") is None and (event["source"], event["id"]) in outcome.logs
    )


@pytest.mark.parametrize("name", ["code", "notes", "context", "params", "patch"])
def test_members_are_null_too(name: str, any_events: list[tuple[list[Json], Outcome]]) -> None:
    assert any(event["data"].get(name, "") is None for events, _ in any_events for event in events)
