"""Deciding a batch as plainly as can be: one event after the other, everything before it folded anew for each.

What `caselog.events.folding.refold` does in one pass, this does in the square of it. It shares the steps for a single
log (`TimerFold`, `fold_case`), and nothing of the way in which they are put together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import msgspec

from caselog.events.errors import EventError
from caselog.events.folding.fold import TimerFold, World, fold_case_or_refuse, in_order, make_log
from caselog.events.folding.refold import definition
from caselog.events.folding.resolve import Rules, Screened, resolve
from caselog.events.model.codes import Code
from caselog.events.model.registry import EventRegistry
from caselog.events.model.state import CaseState, Log, TimerState


class Decided(msgspec.Struct, kw_only=True):
    """What stands after a batch: all logs and timers by id, all cases; what was refused, by position, and parked."""

    logs: dict[int, Log]
    cases: dict[str, CaseState]
    timers: dict[int, TimerState]
    refused: dict[int, EventError]
    parked: set[int]


class PlainFold:
    """Every log that is stored, all cases that exist: none of it is changed."""

    def __init__(
        self, stored: Iterable[Log], cases: Mapping[str, CaseState], registry: EventRegistry, rules: Rules
    ) -> None:
        self._standing = [copy.copy(log) for log in stored]
        self._known = cases
        self._registry = registry
        self._rules = rules
        # Events of the batch that are timed before their case's creation: what they do to timers counts at the end.
        self._early: dict[int, int | None] = {}

    def run(self, batch: list[Screened], ids: Mapping[int, int]) -> Decided:
        refused: dict[int, EventError] = {}
        parked: set[int] = set()
        for screened in self._one_by_one(batch):
            if not self._is_ready(screened) and screened.case not in self._known:
                parked.add(screened.position)
                continue
            try:
                self._standing.append(self._decide(screened, ids[screened.position]))
            except EventError as error:
                refused[screened.position] = error
        self._early.clear()
        logs = [copy.copy(log) for log in self._standing]
        timers = self._fold_timers(logs)
        references = sorted({log.case for log in logs if log.case is not None})
        cases = {reference: self._fold_case(reference, logs) for reference in references}
        for timer in timers.values():
            if timer.case is not None and timer.seconds is not None and not timer.cancelled:
                cases[timer.case].billable_time += timer.seconds
        return Decided(logs={log.id: log for log in logs}, cases=cases, timers=timers, refused=refused, parked=parked)

    def _one_by_one(self, batch: list[Screened]) -> Iterable[Screened]:
        """In order; what waits for a creation comes right after the first that is not refused."""
        left = in_order(batch, World())
        while left:
            ready = [s for s in left if self._is_ready(s)]
            if not ready:
                yield from left
                return
            # The first by its own time; for what waited, that of the creation that it waited for.
            screened = min(ready, key=self._turn)
            left.remove(screened)
            yield screened

    def _is_ready(self, screened: Screened) -> bool:
        if screened.case is None or screened.creates_case:
            return True
        return self._creation(screened.case) is not None

    def _turn(self, screened: Screened) -> tuple[object, ...]:
        creation = None if screened.case is None else self._creation(screened.case)
        if creation is None or screened.creates_case or screened.order_key > creation.order_key:
            return (screened.order_key, False, screened.order_key)
        return (creation.order_key, True, screened.order_key)

    def _creation(self, reference: str) -> Log | None:
        creations = [log for log in self._standing if log.case == reference and self._code(log).creates_case]
        return min(creations, key=lambda log: log.order_key, default=None)

    def _code(self, log: Log) -> Code:
        return definition(log, self._registry)[0]

    def _decide(self, screened: Screened, log_id: int) -> Log:
        key, code = screened.order_key, screened.code
        creation = None if screened.case is None else self._creation(screened.case)
        is_early = not screened.creates_case and creation is not None and key < creation.order_key
        logs = [copy.copy(log) for log in self._standing]
        self._fold_timers(logs)
        before = [log for log in logs if log.order_key < key]
        case = None
        if screened.creates_case and (creation is None or key < creation.order_key):
            case = CaseState(reference=screened.case or "")  # it comes before everything else of its case
        elif screened.case is not None:
            first = [log for log in logs if is_early and creation is not None and log.id == creation.id]
            case = self._fold_case(screened.case, first + before)
        if code is None:
            code = resolve(screened.event, screened.registered, self._registry, copy.copy(case))
        log = make_log(screened, code, log_id)
        running = self._running(screened, before)
        log.timer_id = running.id if running is not None else log_id if code.starts_timer and log.actor else None
        if is_early:
            self._early[log_id] = log.timer_id
        if case is not None:
            fold_case_or_refuse(case, log, code, screened.registered, self._rules)
        return log

    def _running(self, screened: Screened, before: list[Log]) -> TimerState | None:
        timers = TimerFold({})
        for log in sorted(before, key=lambda log: log.order_key):
            if log.actor == screened.actor and log.id not in self._early:
                timers.fold(log, self._code(log))
        return timers.running(screened.actor, screened.event.time)

    def _fold_timers(self, logs: list[Log]) -> dict[int, TimerState]:
        timers = TimerFold({})
        for log in sorted(logs, key=lambda log: log.order_key):
            if log.id in self._early:
                log.timer_id = self._early[log.id]
            else:
                log.timer_id = timers.covering(log, self._code(log))
                timers.fold(log, self._code(log))
        return timers.changed

    def _fold_case(self, reference: str, logs: list[Log]) -> CaseState:
        own = sorted((log for log in logs if log.case == reference), key=lambda log: log.order_key)
        creation = next((log for log in own if self._code(log).creates_case), None)
        case = CaseState(reference=reference)
        for log in own if creation is None else [creation, *(log for log in own if log is not creation)]:
            after = copy.copy(case)
            try:
                fold_case_or_refuse(after, log, *definition(log, self._registry), self._rules)
            except EventError:
                continue
            case = after
        return case
