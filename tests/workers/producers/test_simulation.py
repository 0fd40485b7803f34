"""Simulated journeys: valid, in order, repeatable, and as a call centre lives them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, time, timedelta
from itertools import count, islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from caselog.events.folding.fold import Plan, World, fold
from caselog.events.folding.resolve import Rules, screen
from caselog.events.model.message import Event, parse_event
from caselog.events.model.registry import autodiscover, event_registry
from caselog.workers.producers.simulation import live, simulate

LONDON = ZoneInfo("Europe/London")
FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _bundled() -> None:
    autodiscover()


@pytest.fixture(scope="module")
def journeys() -> list[dict[str, Any]]:
    return list(simulate(400, 7))


def decoded(events: list[dict[str, Any]]) -> list[Event]:
    return [parse_event(msgspec.json.encode(event)) for event in events]


def folded(events: list[dict[str, Any]]) -> Plan:
    """What becomes of the events when they are recorded one after the other, in the order in which they are given."""
    world, whole, ids = World(), Plan(), count(1)
    for position, event in enumerate(decoded(events)):
        screened = screen(position, event, event_registry, FAR)
        plan = fold([screened], world, event_registry, Rules(zone=LONDON), ids)
        whole.logs += plan.logs
        whole.refused += plan.refused
        whole.parked += plan.parked
        whole.timers |= plan.timers
        running = {timer.actor: timer for timer in whole.timers.values() if timer.running}
        world = World(cases={**world.cases, **plan.cases}, timers=running)
    whole.cases = dict(world.cases)
    return whole


@pytest.fixture(scope="module")
def recorded(journeys: list[dict[str, Any]]) -> Plan:
    autodiscover()
    return folded(journeys)


def test_every_event_is_recorded_when_published_in_order(journeys: list[dict[str, Any]], recorded: Plan) -> None:
    """None is malformed, unknown, refused for its role or by a rule, or waits for its case."""
    assert recorded.refused == []
    assert recorded.parked == []
    assert len(recorded.logs) == len(journeys)


def test_the_same_seed_gives_the_same_events_on_any_machine() -> None:
    """Another process, another hash seed, another time zone: the same bytes. Another seed: others."""
    program = (
        "import hashlib, msgspec; from caselog.workers.producers.simulation import simulate;"
        "print(hashlib.sha256(b''.join(msgspec.json.encode(event) for event in simulate(50, 7))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "TZ": "Asia/Tokyo"}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    digest = hashlib.sha256(b"".join(msgspec.json.encode(event) for event in simulate(50, 7))).hexdigest()
    assert other.stdout.strip() == digest
    assert list(simulate(50, 8)) != list(simulate(50, 7))


def test_the_events_come_in_the_order_of_time_source_and_id(journeys: list[dict[str, Any]]) -> None:
    keys = [event.order_key for event in decoded(journeys)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_no_id_comes_twice(journeys: list[dict[str, Any]]) -> None:
    assert len({(event["source"], event["id"]) for event in journeys}) == len(journeys)


def test_as_many_cases_begin_as_asked_for_and_split_cases_besides(recorded: Plan) -> None:
    begun = [case for case in recorded.cases.values() if case.from_case is None]
    assert len(begun) == 400
    assert all(re.fullmatch(r"[A-Z]{2}-\d{4}-\d{4}", reference) for reference in recorded.cases)


@pytest.mark.parametrize("cases", [0, 1, 26])
def test_few_cases_are_possible_too(cases: int) -> None:
    events = list(simulate(cases, 3))
    created = [event for event in folded(events).cases.values() if event.from_case is None]
    assert len(created) == cases


def test_a_case_has_nine_to_twelve_events_on_average(journeys: list[dict[str, Any]]) -> None:
    assert 9 <= len(journeys) / 400 <= 12


def test_every_time_lies_within_the_opening_hours(journeys: list[dict[str, Any]]) -> None:
    """Monday to Friday 09:00 to 20:00, Saturday 09:00 to 12:30, in London, summer and winter."""
    for event in decoded(journeys):
        local = event.time.astimezone(LONDON)
        assert local.weekday() < 6, local
        assert time(9) <= local.time() <= (time(20) if local.weekday() < 5 else time(12, 30)), local


def test_the_journeys_are_spread_over_days_and_lie_in_the_past(journeys: list[dict[str, Any]]) -> None:
    days = {event["time"][:10] for event in journeys}
    assert len(days) > 16
    last = list(simulate(5000, 1))[-1]["time"]
    assert last < "2026", "journeys end before the year in which this was written"


def test_an_operator_has_one_timer_at_a_time_and_every_timer_ends(
    journeys: list[dict[str, Any]], recorded: Plan
) -> None:
    """Each TIMER_STARTED starts one, and the timers of one operator never overlap."""
    started = [event for event in journeys if event["data"].get("code") == "TIMER_STARTED"]
    assert len(recorded.timers) == len(started)
    assert not any(timer.running for timer in recorded.timers.values())
    by_operator = defaultdict(list)
    for timer in recorded.timers.values():
        assert timer.stopped_at is not None
        assert timedelta(0) < timer.stopped_at - timer.started_at < timedelta(hours=1)
        by_operator[timer.actor].append((timer.started_at, timer.stopped_at))
    assert len(by_operator) > 1
    for spells in by_operator.values():
        spells.sort()
        assert all(earlier[1] < later[0] for earlier, later in pairwise(spells))


def test_the_journeys_hold_all_that_a_call_centre_lives() -> None:
    """Calls, callbacks, referrals, rejections, complaints, splits, alternative help; and what is to be suppressed."""
    plan = folded(list(simulate(2000, 5)))
    seen = Counter((log.key, log.code) for log in plan.logs)
    bundled = {key for key, cls in event_registry.all().items() if cls.__module__.startswith("caselog.events.apps.")}
    assert {(code.key, code.code) for code in event_registry.codes() if code.key in bundled} == seen.keys()
    assert {case.state for case in plan.cases.values()} == {"new", "opened", "accepted", "rejected", "completed"}
    assert {case.source for case in plan.cases.values()} == {"PHONE", "WEB", "VOICEMAIL", "SMS"}
    assert {log.code for log in plan.logs if log.suppressed} >= {"CALL_STARTED"}
    assert any(log.suppressed and log.type == "outcome" for log in plan.logs)
    assert any(timer.cancelled for timer in plan.timers.values())
    assert any(case.billable_time > 0 for case in plan.cases.values())
    assert all(case.callback_attempt <= 3 for case in plan.cases.values())


def test_some_events_leave_their_code_to_the_class(journeys: list[dict[str, Any]]) -> None:
    without = sum("code" not in event["data"] for event in journeys)
    assert 0.1 < without / len(journeys) < 0.6


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def lived(run: str, minutes: int) -> list[dict[str, Any]]:
    clock, events = Clock(), []
    groups = live(run, clock)
    for _ in range(minutes * 60):
        clock.now += timedelta(seconds=1)
        group = next(groups)
        assert all(parse_event(msgspec.json.encode(event)).time <= clock.now for event in group)
        events += group
    return events


def test_live_events_have_happened_and_come_in_order() -> None:
    """What `live` hands out is never ahead of the caller's clock, and nothing of it is refused."""
    events = lived("a", 5)
    keys = [event.order_key for event in decoded(events)]
    assert keys == sorted(keys)
    assert min(keys)[0] >= Clock().now
    plan = folded(events)
    assert (plan.refused, plan.parked) == ([], [])
    assert len(plan.cases) > 50
    assert {"accepted", "completed"} & {case.state for case in plan.cases.values()}


def test_two_live_runs_share_neither_ids_nor_cases_nor_operators() -> None:
    def names(events: list[dict[str, Any]]) -> set[str]:
        timed = {event["data"]["actor"]["id"] for event in events if event["type"] == "timer"}
        return {event["id"] for event in events} | {event.get("subject", "") for event in events} - {""} | timed

    assert not names(lived("a", 2)) & names(lived("b", 2))


def test_live_never_ends() -> None:
    clock = Clock()
    groups = live("a", clock)
    assert list(islice(groups, 3)) == [[], [], []]
    clock.now += timedelta(minutes=1)
    assert next(groups)
