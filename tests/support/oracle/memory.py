"""A world in memory: what the store does with a plan, as simply as can be, so that the fold is tested without one."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from caselog.events.errors import EventError
from caselog.events.folding.fold import Plan, World, fold
from caselog.events.folding.refold import (
    Past,
    Window,
    ahead_of_creation,
    earliest,
    late_for_actors,
    late_for_cases,
    refold,
)
from caselog.events.folding.resolve import Rules, Screened, screen
from caselog.events.model.message import Event, parse_event
from caselog.events.model.registry import EventRegistry, autodiscover, event_registry
from caselog.events.model.state import MEMORY, CaseState, Log, TimerState
from support.oracle.reference import Outcome
from support.oracle.stored import body, outcome_of

LONDON: Final = ZoneInfo("Europe/London")
NO_EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)
NO_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


def screened(events: Iterable[dict[str, Any]]) -> list[Screened]:
    """Those of the events, given as JSON objects, that may be folded."""
    passed = []
    for position, event in enumerate(events):
        try:
            passed.append(screen(position, parse_event(body(event)), event_registry, NO_LATEST))
        except EventError:
            continue
    return passed


class MemoryWorld:
    """Events in, batch by batch; `cases`, `timers`, `logs`, `refused` and `waiting` out."""

    def __init__(self, *, registry: EventRegistry | None = None, search_context: tuple[str, ...] = ()) -> None:
        if registry is None:
            autodiscover()
        self.registry = registry or event_registry
        self.rules = Rules(zone=LONDON, search_context=search_context)
        self.cases: dict[str, CaseState] = {}
        self.timers: dict[int, TimerState] = {}
        self.logs: dict[int, Log] = {}
        self.refused: dict[tuple[str, str], EventError] = {}
        self.waiting: dict[tuple[str, str], Event] = {}
        self._ids = itertools.count(1)

    def record(self, *batch: dict[str, Any]) -> Plan:
        """Record events, given as JSON objects; then those that waited for the cases created. The batch's plan."""
        plan = self._record([parse_event(body(event)) for event in batch])
        while ready := [event for event in self.waiting.values() if event.subject in self.cases]:
            self._record(ready)
        return plan

    def outcome(self) -> Outcome:
        """What stands, in the words of the reference."""
        logs = [msgspec.structs.asdict(log) | {"case_reference": log.case} for log in self.logs.values()]
        cases = [
            {k: v for k, v in msgspec.structs.asdict(case).items() if k not in MEMORY} | {"state": case.state}
            for case in self.cases.values()
        ]
        report = Counter(
            (
                log.occurred_at.astimezone(LONDON).date(), log.key, log.code, log.category, log.provider,
                log.organisation, log.case_source,
            )
            for log in self.logs.values()
            if log.type == "outcome" and not log.suppressed
        )  # fmt: skip
        names = ("day", "key", "code", "category", "provider", "organisation", "source")
        return outcome_of(
            logs=logs,
            cases=cases,
            timers=[msgspec.structs.asdict(t) | {"case_reference": t.case} for t in self.timers.values()],
            dead=[{"source": s, "event_id": i, "reason": e.reason} for (s, i), e in self.refused.items()],
            parked=[{"source": source, "event_id": event_id} for source, event_id in self.waiting],
            report=[dict(zip(names, row, strict=True)) | {"outcomes": many} for row, many in report.items()],
        )

    def _record(self, events: list[Event]) -> Plan:
        known = {(log.source, log.event_id) for log in self.logs.values()}
        screened: list[Screened] = []
        for event in {(event.source, event.id): event for event in reversed(events)}.values():
            self.waiting.pop((event.source, event.id), None)
            if (event.source, event.id) in known:
                continue
            try:
                screened.append(screen(len(screened), event, self.registry, NO_LATEST))
            except EventError as fault:
                self.refused[event.source, event.id] = fault
        plan = self._fold(screened)
        self._carry_out(plan)
        by_position = {s.position: s.event for s in screened}
        for position, error in plan.refused:
            self.refused[by_position[position].source, by_position[position].id] = error
        for position in plan.parked:
            self.waiting[by_position[position].source, by_position[position].id] = by_position[position]
        return plan

    def _fold(self, batch: list[Screened]) -> Plan:
        """As the recorder does: fold what comes in order, fold again what does not."""
        last = {log.actor: log.order_key for log in self._in_order(self.logs.values()) if log.actor is not None}
        first = earliest(batch)
        late = late_for_actors(batch, first, last) or late_for_cases(batch, first, self.cases)
        actors = first.actors.keys()
        world = World(
            cases=self.cases, timers={t.actor: t for t in self.timers.values() if t.running and t.actor in actors}
        )
        if not late and not ahead_of_creation(first, self.cases):
            return fold(batch, world, self.registry, self.rules, self._ids)
        # Everything is folded again, where the store loads no more than it must.
        windows = {actor: [self._whole_log(actor)] for actor in actors}
        touched = {s.case for s in batch} | {log.case for parts in windows.values() for log in parts[0].logs}
        cases = {c: [log for log in self.logs.values() if log.case == c] for c in self.cases.keys() & touched}
        return refold(batch, world, Past(windows=windows, cases=cases), self.registry, self.rules, self._ids)

    def _whole_log(self, actor: str) -> Window:
        return Window(
            start=(NO_EARLIEST, "", ""),
            end=None,
            logs=self._in_order(log for log in self.logs.values() if log.actor == actor),
            timers=[timer for timer in self.timers.values() if timer.actor == actor],
        )

    @staticmethod
    def _in_order(logs: Iterable[Log]) -> list[Log]:
        return sorted(logs, key=lambda log: log.order_key)

    def _carry_out(self, plan: Plan) -> None:
        """Insert what is new, update what stands: the store relies on the plan's word for which is which."""
        plan = copy.deepcopy(plan)
        assert plan.created == plan.cases.keys() - self.cases.keys()
        assert plan.started == plan.timers.keys() - self.timers.keys()
        assert plan.removed <= self.timers.keys()
        assert len({log.id for log in plan.logs}) == len(plan.logs) == len(plan.positions)
        for before, after in plan.rewritten:
            assert self.logs[before.id] == before
            self.logs[after.id] = after
        for timer_id in plan.removed:
            del self.timers[timer_id]
        self.logs |= {log.id: log for log in plan.logs}
        self.timers |= plan.timers
        self.cases |= plan.cases
