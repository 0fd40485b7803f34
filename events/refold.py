"""Late events: fold again what they change, and say what has to be rewritten (DESIGN.md, decision 4).

An event that sorts before something already folded cannot just be applied. Its case is folded again from its whole
log, and its actor's timers from the timer that covers that moment up to the next log that ends any timer: after such
a log no timer runs, whatever came before, so nothing later can differ.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Final

import msgspec

from events.codes import Code, LogLevel, LogType
from events.errors import EventError
from events.fold import Plan, TimerFold, World, fold_case_or_refuse, in_order, make_log
from events.registry import BaseEvent, EventRegistry, Registered
from events.resolve import Rules, Screened, resolve
from events.state import CaseState, Log, OrderKey, TimerState

_DERIVED: Final = attrgetter(
    "timer_id", "suppressed", "category", "provider", "organisation", "case_source", "case_created_at"
)


class Window(msgspec.Struct, kw_only=True):
    """A stretch of an actor's log that late events fall into, in order.

    It begins where no timer ran, and ends with a log that ends any timer; `end` is None where it reaches to the end
    of the log. `timers` are those that were started in it, as stored.
    """

    start: OrderKey
    end: OrderKey | None
    logs: list[Log]
    timers: list[TimerState]

    def holds(self, key: OrderKey) -> bool:
        return self.start <= key and (self.end is None or key <= self.end)


class Past(msgspec.Struct, kw_only=True):
    """What is recorded and has to be folded again: windows by actor, in order; whole logs by case."""

    windows: Mapping[str, list[Window]] = msgspec.field(default_factory=dict)
    cases: Mapping[str, list[Log]] = msgspec.field(default_factory=dict)


class Earliest(msgspec.Struct, frozen=True):
    """When each actor, case and creation comes first in a batch: mostly enough to tell that nothing of it is late."""

    actors: dict[str, OrderKey] = msgspec.field(default_factory=dict)
    cases: dict[str, OrderKey] = msgspec.field(default_factory=dict)
    creations: dict[str, OrderKey] = msgspec.field(default_factory=dict)


def earliest(batch: Iterable[Screened]) -> Earliest:
    found = Earliest()
    for screened in batch:
        key = screened.order_key
        if (actor := screened.actor) is not None and key < found.actors.setdefault(actor, key):
            found.actors[actor] = key
        if (case := screened.case) is not None:
            if key < found.cases.setdefault(case, key):
                found.cases[case] = key
            if screened.creates_case and key < found.creations.setdefault(case, key):
                found.creations[case] = key
    return found


def late_for_actors(batch: Iterable[Screened], first: Earliest, last: Mapping[str, OrderKey]) -> list[Screened]:
    """The events that do not come after the last log of their actor; `last` has its order key, by actor."""
    suspects = {actor for actor, key in last.items() if actor in first.actors and first.actors[actor] <= key}
    if not suspects:
        return []
    return [s for s in batch if s.actor in suspects and s.order_key <= last[s.actor]]


def late_for_cases(batch: Iterable[Screened], first: Earliest, cases: Mapping[str, CaseState]) -> list[Screened]:
    """The events that do not come after the last log of their case, as it stands."""
    suspects = {
        reference
        for reference, case in cases.items()
        if reference in first.creations
        or (case.last_log is not None and reference in first.cases and first.cases[reference] <= case.last_log)
    }
    return [s for s in batch if s.case in suspects and _is_late(s, cases[s.case])] if suspects else []


def _is_late(screened: Screened, case: CaseState) -> bool:
    if case.last_log is not None and screened.order_key <= case.last_log:
        return True
    # Perhaps this one, being earlier, is the case's creation, and the other the second.
    return screened.creates_case and case.created_at is not None and screened.event.time <= case.created_at


def ahead_of_creation(first: Earliest, cases: Mapping[str, CaseState]) -> bool:
    """Whether an event is timed before the creation of its case, and both are new: then no one order suits all."""
    return any(first.cases[case] < key for case, key in first.creations.items() if case not in cases)


def definition(log: Log, registry: EventRegistry) -> tuple[Code, Registered]:
    """What a stored log's code means, registered, retired, or else by its type and level alone.

    Type and level are always the log's own. Where its class is gone, so are the class's rules.
    """
    code, registered = registry.find(log.key, log.code)
    if code is None:
        code = Code(
            key=log.key,
            code=log.code,
            type=LogType(log.type),
            level=LogLevel(log.level),
            selectable_by=(),
            description="no longer registered",
            stops_timer=False,
        )
    elif code.level != log.level or code.type != log.type:
        code = msgspec.structs.replace(code, type=LogType(log.type), level=LogLevel(log.level))
    return code, registered or _NO_LONGER_REGISTERED


class _NoLongerRegistered(BaseEvent):
    key = "no longer registered"


_NO_LONGER_REGISTERED: Final = Registered(_NoLongerRegistered)


def refold(  # noqa: PLR0917 - the arguments of `fold`, and the past
    batch: Iterable[Screened], world: World, past: Past, registry: EventRegistry, rules: Rules, ids: Iterator[int]
) -> Plan:
    """Fold a batch of which some events are late. As `events.fold.fold`, and in the plan also what is rewritten."""
    batch = list(batch)
    given = {screened.position: next(ids) for screened in batch}
    refused: dict[int, EventError] = {}
    while True:
        attempt = _Attempt(world, past, registry, rules)
        attempt.run([s for s in batch if s.position not in refused], given)
        if not attempt.refused:
            attempt.plan.refused = list(refused.items())
            return attempt.plan
        # What an event that is refused did to timers and cases is undone by folding once more, without it.
        refused |= attempt.refused


class _Entry(msgspec.Struct):
    """A log in hand with what its code means. `position` is that of its event; None for a stored one."""

    log: Log
    code: Code
    registered: Registered
    position: int | None = None


def _in_case_order(entries: Iterable[_Entry], base: CaseState) -> list[_Entry]:
    """A case's log in order: where `base` is not created yet, the first of its creations before everything else."""
    entries = list(entries)
    creation = None
    if base.created_at is None:
        creation = min((entry.log.order_key for entry in entries if entry.code.creates_case), default=None)
    return sorted(entries, key=lambda entry: (entry.log.order_key != creation, entry.log.order_key))


class _Attempt:
    def __init__(self, world: World, past: Past, registry: EventRegistry, rules: Rules) -> None:
        self.plan = Plan()
        self.refused: dict[int, EventError] = {}
        self._world = world
        self._past = past
        self._registry = registry
        self._rules = rules
        # One copy of each stored log, whether its case or its actor is the reason to fold it again.
        # The cases' are read under the cases' locks, after the windows': they win, where another recorder has meanwhile
        # written what a log derives from its case.
        originals = {log.id: log for parts in past.windows.values() for window in parts for log in window.logs}
        originals |= {log.id: log for logs in past.cases.values() for log in logs}
        self._originals = originals
        self._stored = {log_id: _Entry(copy.copy(log), *definition(log, registry)) for log_id, log in originals.items()}
        self._of_case: defaultdict[str, list[_Entry]] = defaultdict(list)
        self._of_actor: defaultdict[str, list[_Entry]] = defaultdict(list)
        self._billed: defaultdict[str, int] = defaultdict(int)
        for reference, logs in past.cases.items():
            self._of_case[reference] = [self._stored[log.id] for log in logs]

    def run(self, batch: list[Screened], ids: Mapping[int, int]) -> None:
        for screened in in_order(batch, self._world):
            self._resolve(screened, ids[screened.position])
        for actor in {*self._of_actor, *self._past.windows}:
            self._fold_timers(actor)
        for reference in self._of_case:
            self._fold_case(reference)
        for log_id, entry in self._stored.items():
            if _DERIVED(entry.log) != _DERIVED(self._originals[log_id]):
                self.plan.rewritten.append((self._originals[log_id], entry.log))

    def _resolve(self, screened: Screened, log_id: int) -> None:
        reference = screened.case
        if reference is not None and not screened.creates_case:
            created = any(entry.code.creates_case for entry in self._of_case.get(reference, ()))
            if reference not in self._world.cases and not created:
                self.plan.parked.append(screened.position)
                return
        try:
            code = screened.code
            if code is None:
                case = None if reference is None else self._case_before(reference, screened.event.order_key)
                code = resolve(screened.event, screened.registered, self._registry, case)
        except EventError as error:
            self.refused[screened.position] = error
            return
        entry = _Entry(make_log(screened, code, log_id), code, screened.registered, screened.position)
        self.plan.logs.append(entry.log)
        self.plan.positions.append(screened.position)
        if entry.log.actor is not None:
            self._of_actor[entry.log.actor].append(entry)
        if reference is not None:
            self._of_case[reference].append(entry)

    def _case_before(self, reference: str, key: OrderKey) -> CaseState:
        """The case as folded up to that moment among what is recorded (RULES.md §1.5)."""
        case = self._base(reference)
        for entry in _in_case_order(self._of_case[reference], case):
            if case.created_at is None or entry.log.order_key < key:
                case = self._folded(case, _Entry(copy.copy(entry.log), entry.code, entry.registered)) or case
        return case

    def _base(self, reference: str) -> CaseState:
        known = self._world.cases.get(reference)
        if known is None or reference in self._past.cases:
            return CaseState(reference=reference)
        return copy.copy(known)

    def _fold_timers(self, actor: str) -> None:
        running = self._world.timers.get(actor)
        fresh = self._of_actor[actor]
        for window in self._past.windows.get(actor, ()):
            inside = [entry for entry in fresh if window.holds(entry.log.order_key)]
            fresh = [entry for entry in fresh if not window.holds(entry.log.order_key)]
            self._take_over(window, self._fold_stretch([self._stored[log.id] for log in window.logs] + inside, None))
            if running is not None and any(timer.id == running.id for timer in window.timers):
                running = None
        timers = self._fold_stretch(fresh, running)
        self.plan.timers |= timers.changed
        self.plan.started |= timers.started
        for timer in timers.changed.values():
            self._bill(timer, 1)

    def _fold_stretch(self, entries: list[_Entry], running: TimerState | None) -> TimerFold:
        timers = TimerFold({} if running is None else {running.actor: running})
        for entry in sorted(entries, key=lambda entry: entry.log.order_key):
            entry.log.timer_id = timers.covering(entry.log, entry.code)
            timers.fold(entry.log, entry.code)
        return timers

    def _take_over(self, window: Window, folded: TimerFold) -> None:
        """Compare the timers of a window as stored with those that the fold gives."""
        stored = {timer.id: timer for timer in window.timers}
        self.plan.removed |= stored.keys() - folded.changed.keys()
        for timer in stored.values():
            self._bill(timer, -1)
        for timer in folded.changed.values():
            self._bill(timer, 1)
            if timer.id not in stored:
                self.plan.started.add(timer.id)
            if timer != stored.get(timer.id):
                self.plan.timers[timer.id] = timer

    def _bill(self, timer: TimerState, sign: int) -> None:
        if timer.case is not None and timer.seconds is not None and not timer.cancelled:
            self._billed[timer.case] += sign * timer.seconds

    def _fold_case(self, reference: str) -> None:
        known = self._world.cases.get(reference)
        case = self._base(reference)
        for entry in _in_case_order(self._of_case[reference], case):
            folded = self._folded(case, entry)
            if folded is not None:
                case = folded
        case.billable_time = (0 if known is None else known.billable_time) + self._billed.pop(reference, 0)
        if known is None:
            self.plan.created.add(reference)
        if case != known:
            self.plan.cases[reference] = case

    def _folded(self, case: CaseState, entry: _Entry) -> CaseState | None:
        """The case with the log folded in; None where a rule refuses it: a stored log then stands without effect."""
        after = copy.copy(case)
        try:
            fold_case_or_refuse(after, entry.log, entry.code, entry.registered, self._rules)
        except EventError as error:
            if entry.position is not None:
                self.refused[entry.position] = error
            return None
        return after
