"""Folding late events again, held against deciding them one by one with everything folded anew for each."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle.memory import MemoryWorld
from support.oracle.plain_refold import PlainFold

from caselog.events.errors import EventRejected
from caselog.events.folding import resolve as resolving
from caselog.events.folding.fold import Plan, World
from caselog.events.folding.refold import Past, refold
from caselog.events.folding.resolve import Screened
from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log

Json = dict[str, Any]

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OUTCOME: Json = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "description": "d",
    "stops_timer": False,
}
STOPS: Json = OUTCOME | {"stops_timer": True}
SYSTEM: Json = OUTCOME | {"type": LogType.SYSTEM, "level": LogLevel.MINOR}


class Moody(BaseEvent):
    """Its rules look at whatever was folded before; its context says at what, so that any event may break any other."""

    key = "moody"
    codes = {"ONE": OUTCOME, "TWO": STOPS, "SEEN": SYSTEM, "BEGUN": SYSTEM, "ENDED": SYSTEM, "MADE": SYSTEM}
    creates_case = ("MADE",)
    starts_timer = ("BEGUN",)
    cancels_timer = ("ENDED",)

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        if case is None:
            raise EventRejected("shown no case")
        if params.get("unless") == case.callback_attempt % 3:
            raise ZeroDivisionError
        if "refuses" in params and params["refuses"] == case.scope_state:
            raise EventRejected("not now")
        return "ONE" if case.callback_attempt % 2 else "TWO"

    def suppresses(self, case: CaseState, log: Log) -> bool:
        return log.code == "SEEN" and log.timer_id in case.viewed_timers

    def apply(self, case: CaseState, log: Log) -> None:
        case.callback_attempt += 1
        if log.code == "SEEN" and log.timer_id is not None:
            case.viewed_timers += (log.timer_id,)
        if log.context.get("only") not in (None, case.scope_state):
            raise ValueError
        if log.context.get("modulo") == case.callback_attempt % 3:
            raise EventRejected("one too many")
        if log.context.get("untimed") and log.timer_id is not None:
            raise ZeroDivisionError
        case.scope_state = log.context.get("says", case.scope_state)


@pytest.fixture(scope="module")
def registry() -> EventRegistry:
    autodiscover()
    own = EventRegistry()
    for cls in event_registry.all().values():
        own.register(cls)
    own.register(Moody)
    return own


class ComparedWorld(MemoryWorld):
    """A world in which each batch is folded as if all of it were late, and held against the plain way."""

    refolds = 0

    def _fold(self, batch: list[Screened]) -> Plan:
        ids = [next(self._ids) for _ in batch]
        actors = sorted({s.actor for s in batch if s.actor is not None})
        windows = {actor: [self._whole_log(actor)] for actor in actors}
        touched = {s.case for s in batch} | {log.case for parts in windows.values() for log in parts[0].logs}
        cases = {c: [log for log in self.logs.values() if log.case == c] for c in self.cases.keys() & touched}
        world = World(
            cases=self.cases, timers={t.actor: t for t in self.timers.values() if t.running and t.actor in actors}
        )
        stood = copy.deepcopy((self.logs, self.cases))
        plan = refold(batch, world, Past(windows=windows, cases=cases), self.registry, self.rules, iter(ids))
        assert (self.logs, self.cases) == stood, "what is recorded was changed in place"
        by_position = {screened.position: log_id for screened, log_id in zip(batch, ids, strict=True)}
        self._expected = PlainFold(self.logs.values(), self.cases, self.registry, self.rules).run(batch, by_position)
        return plan

    def _carry_out(self, plan: Plan) -> None:
        super()._carry_out(plan)
        expected = self._expected
        assert {at: str(error).partition("\n")[0] for at, error in plan.refused} == {
            at: str(error).partition("\n")[0] for at, error in expected.refused.items()
        }
        assert set(plan.parked) == expected.parked
        for log_id, log in expected.logs.items():
            assert self.logs[log_id] == log
        assert self.logs.keys() == expected.logs.keys()
        assert self.timers == expected.timers
        assert self.cases == expected.cases


_CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "only": st.sampled_from(["a", "b"]),
        "modulo": st.integers(0, 2),
        "untimed": st.just(value=True),
        "says": st.sampled_from(["a", "b"]),
    },
)
_PARAMS = st.fixed_dictionaries({}, optional={"unless": st.integers(0, 2), "refuses": st.sampled_from(["a", "b"])})


@st.composite
def events(draw: st.DrawFn) -> Json:
    key = draw(st.sampled_from(["moody"] * 6 + ["case", "case", "timer"]))
    data: Json = {"actor": {"id": draw(st.sampled_from(["ann", "ben", "cid"])), "role": "operator"}}
    if key == "timer":
        data["code"] = draw(st.sampled_from(["TIMER_STARTED", "TIMER_STARTED", "TIMER_CANCELLED"]))
    elif key == "case":
        data["code"] = draw(st.sampled_from(["CASE_VIEWED", "CASE_VIEWED", "CASE_CREATED"]))
    else:
        code = draw(st.sampled_from([None, None, *Moody.codes]))
        data |= {"params": draw(_PARAMS)} if code is None else {"code": code}
        data["context"] = draw(_CONTEXTS)
    if key != "timer" and not draw(st.integers(0, 3)):
        del data["actor"]
    subject = {} if key == "timer" else {"subject": draw(st.sampled_from(["A", "A", "B"]))}
    minute = draw(st.integers(0, 12))
    return {
        "specversion": "1.0",
        "source": "/test",
        "type": key,
        "time": (NINE + timedelta(minutes=minute)).isoformat(),
        "data": data,
        **subject,
    }


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[Json]]:
    """Batches of events of two cases and three actors, in any order, some of them twice."""
    drawn = draw(st.lists(events(), min_size=1, max_size=24))
    for case in "AB":
        time = (NINE + timedelta(minutes=draw(st.integers(0, 12)))).isoformat()
        data = {"code": "CASE_CREATED"}
        drawn.append(
            {"specversion": "1.0", "source": "/test", "type": "case", "subject": case, "time": time, "data": data}
        )
    named = [one | {"id": f"{at:03}"} for at, one in enumerate(draw(st.permutations(drawn)))]
    named = draw(st.permutations(named + draw(st.lists(st.sampled_from(named), max_size=4))))
    cuts = sorted(draw(st.lists(st.integers(0, len(named)), max_size=4)))
    return [named[a:b] for a, b in zip([0, *cuts], [*cuts, len(named)], strict=True) if a < b]


@settings(max_examples=100, deadline=None)
@given(batches=deliveries())
def test_a_batch_is_folded_again_as_if_its_events_had_come_one_by_one(
    batches: list[list[Json]], registry: EventRegistry
) -> None:
    """Codes, refusals, what waits, logs, timers and cases; rules that raise by what was folded before them included."""
    world = ComparedWorld(registry=registry)
    for batch in batches:
        world.record(*batch)


def _late(number: int, **data: Any) -> Json:
    """An event without a code of case A, between its creation and what came after it."""
    return {
        "specversion": "1.0",
        "source": "/test",
        "id": f"late {number:04}",
        "type": "moody",
        "subject": "A",
        "time": (NINE + timedelta(seconds=number + 1)).isoformat(),
        "data": data,
    }


def _world(registry: EventRegistry) -> MemoryWorld:
    world = MemoryWorld(registry=registry)
    made = _late(0) | {"type": "case", "id": "made", "data": {"code": "CASE_CREATED"}}
    last = _late(0) | {"id": "last", "time": (NINE + timedelta(days=1)).isoformat(), "data": {"code": "SEEN"}}
    began = made | {"type": "timer", "id": "timer", "data": {"code": "TIMER_STARTED", "actor": {"id": "ann"}}}
    del began["subject"]
    world.record(made, began, last | {"data": {"code": "SEEN", "actor": {"id": "ann"}}})
    return world


# What all of them say. Of the second, each would end the timer that the next one cannot stand: none is known to be
# refused before the one before it is.
_POISON: Json = {
    "no code, and a rule that raises": {"params": {"unless": 1}, "context": {"only": "never"}},
    "a chain": {"code": "TWO", "context": {"untimed": True}, "actor": {"id": "ann"}},
}


@pytest.mark.parametrize("poison", _POISON)
def test_however_many_late_events_are_refused_each_log_is_folded_once_and_one_traceback_written_for_each(
    registry: EventRegistry, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    folded: list[object] = []
    apply = Moody.apply
    written: list[str] = []
    failure = resolving.failure

    def counted(self: Moody, case: CaseState, log: Log) -> None:
        folded.append(log.event_id)
        apply(self, case, log)

    def once(what: str, error: BaseException) -> str:
        written.append(what)
        return failure(what, error)

    world = _world(registry)
    monkeypatch.setattr(Moody, "apply", counted)
    monkeypatch.setattr("caselog.events.folding.fold.failure", once)
    monkeypatch.setattr("caselog.events.folding.resolve.failure", once)
    plan = world.record(*[_late(n, **_POISON[poison]) for n in range(1, 401)])
    assert [error.reason for _, error in plan.refused] == ["failed"] * 400
    assert len(folded) <= 402
    assert len(written) == 400


def test_stored_logs_whose_rule_refuses_by_now_stand_and_nobody_writes_why(
    registry: EventRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = _world(registry)
    world.record(*[_late(n, code="ONE") for n in range(1, 50)])

    def refuses(*_: object) -> None:
        raise ZeroDivisionError

    def never(*_: object) -> str:
        raise AssertionError("a traceback was written for a log that stands")

    monkeypatch.setattr(Moody, "apply", refuses)
    monkeypatch.setattr("caselog.events.folding.fold.failure", never)
    plan = world.record(_late(0) | {"type": "case", "data": {"code": "CASE_VIEWED"}})
    assert (len(plan.logs), plan.refused) == (1, [])
    assert world.cases["A"].callback_attempt == 0


def test_a_rule_that_ends_the_process_ends_its_event(registry: EventRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(Moody, "apply", leaves)
    plan = _world(registry).record(_late(1, code="ONE"))
    assert [str(error).partition(":")[0] for _, error in plan.refused] == ["applying 'moody'/'ONE' raised SystemExit"]
