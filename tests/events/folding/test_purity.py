"""The fold is a function: the same states and events give the same plan, and what it is given stays as it was."""

from __future__ import annotations

import ast
import copy
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders.strategies import event_sets
from support.oracle.memory import MemoryWorld, screened

from caselog.events.errors import EventFailed
from caselog.events.folding.fold import Plan, World, fold
from caselog.events.folding.refold import Past, refold
from caselog.events.model.registry import BaseEvent, EventRegistry, event_registry
from caselog.events.model.state import CaseState, Log

Json = dict[str, Any]
EVENTS = Path(__file__).parents[3] / "events"
PURE = sorted(
    [
        *EVENTS.glob("apps/**/*.py"),
        *EVENTS.glob("folding/*.py"),
        *EVENTS.glob("calendar/*.py"),
        EVENTS / "model/state.py",
    ]
)


def told(plan: Plan) -> Any:
    """The plan as plain values, errors by what they say."""
    plain = {name: getattr(plan, name) for name in plan.__struct_fields__ if name != "refused"}
    return msgspec.to_builtins(plain), [(position, str(error)) for position, error in plan.refused]


@settings(max_examples=60, deadline=None)
@given(before=event_sets(most=12), batch=event_sets(most=12), data=st.data())
def test_the_same_batch_on_the_same_world_gives_the_same_plan_and_changes_nothing_else(
    before: list[Json], batch: list[Json], data: st.DataObject
) -> None:
    """Neither the world nor the events are touched; and the order within a batch does not matter."""
    world = MemoryWorld()
    world.record(*before)
    passed = screened(batch)
    given_world = World(cases=world.cases, timers={t.actor: t for t in world.timers.values() if t.running})
    untouched = copy.deepcopy(given_world)
    plan = fold(passed, given_world, event_registry, world.rules, itertools.count(1000))
    assert given_world == untouched
    again = fold(passed, given_world, event_registry, world.rules, itertools.count(1000))
    shuffled = data.draw(st.permutations(passed))
    otherwise = fold(shuffled, given_world, event_registry, world.rules, itertools.count(1000))
    assert told(plan) == told(again) == told(otherwise)


@settings(max_examples=60, deadline=None)
@given(before=event_sets(most=12), batch=event_sets(most=12))
def test_folding_the_past_again_does_not_change_what_was_loaded_of_it(before: list[Json], batch: list[Json]) -> None:
    world = MemoryWorld()
    world.record(*before)
    passed = [
        s for s in screened(batch) if (s.event.source, s.event.id) not in {(e["source"], e["id"]) for e in before}
    ]
    given_world = World(cases=world.cases)
    past = Past(cases={c: [log for log in world.logs.values() if log.case == c] for c in world.cases})
    untouched = copy.deepcopy((given_world, past))
    plan = refold(passed, given_world, past, event_registry, world.rules, itertools.count(1000))
    assert (given_world, past) == untouched
    assert told(plan) == told(refold(passed, given_world, past, event_registry, world.rules, itertools.count(1000)))


# Times come with the events: `datetime.now` and its like have no place in a rule.
FORBIDDEN_MODULES = {"os", "time", "random", "uuid", "socket", "subprocess", "pathlib", "threading", "logging", "io"}
FORBIDDEN_CALLS = {"now", "utcnow", "today", "open", "print", "input", "getenv"}


@pytest.mark.parametrize("module", PURE, ids=lambda path: str(path.relative_to(EVENTS)))
def test_the_rules_ask_no_clock_and_no_chance_and_touch_no_file(module: Path) -> None:
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & FORBIDDEN_MODULES, ast.unparse(node)
        if isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            assert called not in FORBIDDEN_CALLS, ast.unparse(node)


class HalfDone(BaseEvent):
    """Creates a case; and fails half-way through changing one."""

    key = "half"
    codes = {
        name: {"type": "outcome", "level": 29, "selectable_by": [], "description": "d", "stops_timer": True}
        for name in ("MADE", "BREAKS", "TIMED")
    }
    creates_case = ("MADE",)
    starts_timer = ("TIMED",)

    def apply(self, case: CaseState, log: Log) -> None:
        case.category = log.code
        if log.code == "BREAKS":
            case.open_complaints += ("x",)
            raise ZeroDivisionError


def test_a_rule_that_fails_half_way_leaves_no_trace_but_its_refusal() -> None:
    """Not on the case, not on the timer that its code would have stopped; what comes after it is folded."""
    registry = EventRegistry()
    registry.register(HalfDone)
    world = MemoryWorld(registry=registry)
    actor = {"id": "op-1"}
    codes = ["MADE", "TIMED", "BREAKS", "MADE"]
    story = [
        {"specversion": "1.0", "id": str(n), "source": "/s", "type": "half", "subject": "A-1",
         "time": datetime(2026, 3, 2, 9, n, tzinfo=UTC).isoformat(), "data": {"code": code, "actor": actor}}
        for n, code in enumerate(codes)
    ]  # fmt: skip
    world.record(*story[:3])
    assert [type(error) for error in world.refused.values()] == [EventFailed]
    assert "ZeroDivisionError" in str(world.refused["/s", "2"])
    case = world.cases["A-1"]
    assert (case.category, case.outcome_code, case.open_complaints) == ("TIMED", "TIMED", ())
    assert [timer.running for timer in world.timers.values()] == [True]
    world.record(story[3])
    assert [timer.stopped_at for timer in world.timers.values()] == [datetime(2026, 3, 2, 9, 3, tzinfo=UTC)]
