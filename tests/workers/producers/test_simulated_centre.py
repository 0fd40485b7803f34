"""Simulated journeys hold what goes wrong at a real centre: what repeats, what only looks so, and who may do it.

Each kind is counted in what the independent reading makes of 300 journeys, so that whoever takes a second assignment
for a repetition, or counts an SMS from its callback, has figures here that differ from it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support.oracle.reference import ASSIGNMENTS, CALLBACKS, FACTS, fold_all
from support.oracle.report_reference import after_working_minutes, report

from caselog.workers.producers.simulation import simulate

Json = dict[str, Any]
LONDON = ZoneInfo("Europe/London")
JOURNEYS = list(simulate(300, 7))
OUTCOME = fold_all(JOURNEYS)


def _lives() -> list[list[Json]]:
    lives: dict[str, list[Json]] = {}
    for _, log in sorted(OUTCOME.logs.items(), key=lambda one: (one[1]["occurred_at"], *one[0])):
        if log["case"] is not None:
            lives.setdefault(log["case"], []).append(log)
    return list(lives.values())


LIVES = _lives()
"""The logs of each case, in the order of their times."""


def alike(*codes: str) -> list[Json]:
    """Outcomes of these codes that look like repetitions: of the day, key, code and notes of the outcome before."""
    found: list[Json] = []
    for life in LIVES:
        last: Json | None = None
        for log in life:
            if log["type"] == "outcome":
                if last is not None and says(last) == says(log) and log["code"] in codes:
                    found.append(log)
                last = last if log["suppressed"] else log
    return found


def says(log: Json) -> tuple[Any, ...]:
    return (log["key"], log["code"], log["notes"], log["occurred_at"].astimezone(LONDON).date())


def kept(*codes: str, **members: Any) -> list[Json]:
    return [
        log
        for life in LIVES
        for log in life
        if log["code"] in codes and not log["suppressed"] and all(log[name] == value for name, value in members.items())
    ]


def counted(logs: list[Json]) -> list[Json]:
    return [log for log in logs if not log["suppressed"]]


def sent_again() -> list[Json]:
    """Assignments to the provider that has the case, which viewed, rejected or closed it meanwhile."""
    return [
        later
        for life in LIVES
        for earlier, later in pairwise([log for log in life if log["code"] in ASSIGNMENTS])
        if earlier["provider"] == later["provider"] and not later["suppressed"]
    ]


def viewed_first_by_another() -> list[Json]:
    """First views by the provider, after somebody else opened the case on the same day."""
    return [log for log in counted(alike("CASE_VIEWED")) if log["role"] == "specialist"]


def from_creation() -> list[Json]:
    """Callbacks of who wrote or spoke, whose deadline would be another if it counted from the callback."""
    return [
        log
        for source in ("SMS", "VOICEMAIL")
        for log in kept("CB1", case_source=source)
        if deadline(OUTCOME.cases[log["case"]]["created_at"])
        != deadline(datetime.fromisoformat(log["context"]["requires_action_at"]))
    ]


def deadline(moment: datetime) -> datetime:
    return after_working_minutes(moment, 120, LONDON)


def complaints_in_twos() -> list[Json]:
    """Cases with a named complaint and one without a name, the second begun before the first was over."""
    ever: Json = {"first": date(2020, 1, 1), "last": date(2030, 1, 1), "now": datetime(2027, 1, 1, tzinfo=LONDON)}
    rows = report("complaints", OUTCOME, **ever)
    return [
        a
        for a in rows
        for b in rows
        if a["reference"] == b["reference"] and a["complaint"] is None and b["complaint"] is not None
        if a["created_at"] < (b["closed_at"] or ever["now"]) and b["created_at"] < (a["closed_at"] or ever["now"])
    ]


def splits() -> list[Json]:
    """The cases that stayed with the provider of the case that they came out of."""
    return [case for case in OUTCOME.cases.values() if case["from_case"] is not None and case["provider"] is not None]


def stopped_without_effect() -> list[Json]:
    return [log for log in OUTCOME.logs.values() if log["suppressed"] and log["type"] == "outcome"]


KINDS: dict[str, Callable[[], list[Json]]] = {
    "a second assignment on one day": lambda: counted(alike(*ASSIGNMENTS)),
    "a second callback on one day": lambda: counted(alike(*CALLBACKS)),
    "a case sent to the same provider again": sent_again,
    "a first view after somebody else's": viewed_first_by_another,
    "an outcome pressed twice": stopped_without_effect,
    "a callback that the web form booked": lambda: kept("CB1", role="web"),
    "a callback that the web form sent twice": lambda: [log for log in alike("CB1") if log["suppressed"]],
    "what operators may, done by a manager": lambda: [
        log
        for log in kept(*(code for _, code in FACTS), role="operator_manager")
        if FACTS[log["key"], log["code"]].selectable_by
    ],
    "an SMS or a voicemail whose time runs from its creation": from_creation,
    "complaints in twos": complaints_in_twos,
    "a complaint that is reopened": lambda: kept("COMPLAINT_REOPENED"),
    "a case that is reopened": lambda: kept("REOPEN"),
    "a debt referral": lambda: kept("DREFER"),
    "an internal split": splits,
    "a category that the diagnosis finds": lambda: [
        log for life in LIVES for log in kept("DIAGNOSIS_CREATED", case=life[0]["case"]) if life[0]["category"] is None
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_a_centres_day_occurs_in_300_journeys(kind: str) -> None:
    assert KINDS[kind]()


def test_nothing_of_it_is_refused_or_waits() -> None:
    assert (OUTCOME.refused, OUTCOME.waiting) == ({}, set())


def test_the_forms_that_ask_for_notes_send_them() -> None:
    assert [log for log in kept("REOPEN", "DREFER") if not log["notes"]] == []


def test_an_internal_split_keeps_who_has_to_act_on_its_case() -> None:
    """Compared with the case that was split, as it stood then."""
    events = sorted(JOURNEYS, key=lambda event: (event["time"], event["source"], event["id"]))
    for split in splits():
        creation = next(event for event in events if event.get("subject") == split["reference"])
        stood = fold_all(events[: events.index(creation)]).cases[split["from_case"]]
        assert creation["data"]["context"]["provider"] == stood["provider"]
        assert creation["data"]["context"]["requires_action_by"] == stood["requires_action_by"]
        assert (
            datetime.fromisoformat(creation["data"]["context"]["provider_assigned_at"])
            == (stood["provider_assigned_at"])
        )
