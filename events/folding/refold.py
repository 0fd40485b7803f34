"""Late events: fold again what they change, and say what has to be rewritten (docs/design.md "Late events").

An event that sorts before something already folded cannot just be applied. Its case is folded again from its whole
log, and its actor's timers from the timer that covers that moment up to the next log that ends any timer: after such
a log no timer runs, whatever came before, so nothing later can differ.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from caselog.events.errors import EventError
from caselog.events.folding.fold import (
    STORED,
    Plan,
    TimerFold,
    Watch,
    World,
    fold_case_or_refuse,
    make_log,
    refusal,
    unwatched,
)
from caselog.events.folding.resolve import Rules, Screened, resolve
from caselog.events.model.codes import Code, LogLevel, LogType
from caselog.events.model.registry import BaseEvent, EventRegistry, Registered
from caselog.events.model.state import CaseState, Log, OrderKey, TimerState

_order_key: Final = attrgetter("order_key")
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
    batch: Iterable[Screened],
    world: World,
    past: Past,
    registry: EventRegistry,
    rules: Rules,
    ids: Iterator[int],
    watch: Watch = unwatched,
) -> Plan:
    """Fold a batch of which some events are late: as `fold` does, and in the plan also what is rewritten.

    The events are decided one by one in order, each against what is recorded and what was accepted before it, as if
    they had come so; an event that is refused was never there. That is one pass over the batch and the past. A second
    one is for events that are timed before the creation of their case: they can be decided only once it is there, and
    what they do to their actor's timers has by then been passed. So it does not count for what else the batch decides,
    and afterwards everything is folded once more, with all that was accepted in its place.
    """
    batch = list(batch)
    given = {screened.position: next(ids) for screened in batch}
    first = _Pass(world, past, registry, rules, watch)
    first.run(batch, given, {})
    if not first.is_out_of_place:
        return first.plan
    second = _Pass(world, past, registry, rules, watch)
    second.run([s for s in batch if s.position in first.accepted], given, first.accepted)
    second.plan.refused, second.plan.parked = first.plan.refused, first.plan.parked
    return second.plan


class _Entry(msgspec.Struct):
    """A log that stands, with what its code means."""

    log: Log
    code: Code
    registered: Registered
    order_key: OrderKey


class _Early(msgspec.Struct):
    """An event that waits for the creation of its case. `timer_id` is that of the timer that runs at its moment."""

    screened: Screened
    timer_id: int | None


class _Case:
    """A case that is being folded. While it `waits` for its creation, what comes before that is kept `early`."""

    def __init__(self, state: CaseState, *, is_folded: bool) -> None:
        self.state = state
        self.is_folded = is_folded
        self.waits = state.created_at is None
        self.early: list[_Entry | _Early] = []


class _Timers:
    """An actor's timers: those of each window, and those of what lies outside of all of them."""

    def __init__(self, windows: Sequence[Window], running: TimerState | None) -> None:
        self.windows = [(window, TimerFold({})) for window in windows]
        if running is not None and any(timer.id == running.id for window in windows for timer in window.timers):
            running = None
        self.others = TimerFold({} if running is None else {running.actor: running})
        self._next = 0

    def at(self, key: OrderKey) -> TimerFold:
        """The timers that a log with this key belongs to. Keys are asked for in order."""
        windows = self.windows
        while self._next < len(windows) and (end := windows[self._next][0].end) is not None and end < key:
            self._next += 1
        if self._next < len(windows) and windows[self._next][0].holds(key):
            return windows[self._next][1]
        return self.others


class _Pass:
    """One pass over a batch and its past, in order. `accepted` are the events that are recorded, by position."""

    def __init__(self, world: World, past: Past, registry: EventRegistry, rules: Rules, watch: Watch) -> None:
        self.plan = Plan()
        self.accepted: dict[int, _Entry] = {}
        self.is_out_of_place = False
        self._world = world
        self._past = past
        self._registry = registry
        self._rules = rules
        self._watch = watch
        # One copy of each stored log, whether its case or its actor is the reason to fold it again.
        # The cases' are read under the cases' locks, after the windows': they win, where another recorder has meanwhile
        # written what a log derives from its case.
        self._in_windows = {log.id for parts in past.windows.values() for window in parts for log in window.logs}
        originals = {log.id: log for parts in past.windows.values() for window in parts for log in window.logs}
        originals |= {log.id: log for logs in past.cases.values() for log in logs}
        self._originals = originals
        self._stored = [_Entry(copy.copy(log), *definition(log, registry), log.order_key) for log in originals.values()]
        self._billed: defaultdict[str, int] = defaultdict(int)
        self._timers = {actor: _Timers(windows, world.timers.get(actor)) for actor, windows in past.windows.items()}
        self._cases: dict[str, _Case] = {}
        for reference in past.cases:
            self._case(reference)
        self._ids: Mapping[int, int] = {}

    def run(self, batch: list[Screened], ids: Mapping[int, int], accepted: Mapping[int, _Entry]) -> None:
        """`accepted` are events of the batch that are decided already: they stand as stored logs do."""
        self._ids = ids
        steps: list[_Entry | Screened] = [*self._stored]
        for screened in batch:
            entry = accepted.get(screened.position)
            if entry is not None:
                self._accept(screened.position, entry)
            steps.append(entry or screened)
        for step in sorted(steps, key=_order_key):
            if isinstance(step, Screened):
                self._take_event(step)
            else:
                self._take_log(step)
        for reference, case in self._cases.items():
            if case.waits:
                self._give_up(reference, case)
        self._finish_timers()
        self._finish_cases()
        for entry in self._stored:
            original = self._originals[entry.log.id]
            if _DERIVED(entry.log) != _DERIVED(original):
                self.plan.rewritten.append((original, entry.log))

    def _accept(self, position: int, entry: _Entry) -> None:
        self.accepted[position] = entry
        self.plan.logs.append(entry.log)
        self.plan.positions.append(position)

    def _take_log(self, entry: _Entry) -> None:
        """A log that stands: it counts for its actor's timers whatever its case makes of it."""
        log = entry.log
        if log.actor is not None and (log.id not in self._originals or log.id in self._in_windows):
            timers = self._timers_of(log.actor).at(entry.order_key)
            log.timer_id = timers.covering(log, entry.code)
            timers.fold(log, entry.code)
        if log.case is None or (log.id in self._originals and log.case not in self._past.cases):
            return
        case = self._case(log.case)
        if case.waits and not entry.code.creates_case:
            case.early.append(entry)
            return
        self._fold_log(case, entry)
        if case.waits:
            self._create(case)

    def _take_event(self, screened: Screened) -> None:
        timers = None if screened.actor is None else self._timers_of(screened.actor).at(screened.order_key)
        if screened.case is None:
            self._decide(screened, None, timers)
            return
        case = self._case(screened.case)
        if not case.waits:
            self._decide(screened, case, timers)
        elif not screened.creates_case:
            running = None if timers is None else timers.running(screened.actor, screened.event.time)
            case.early.append(_Early(screened, None if running is None else running.id))
        elif self._decide(screened, case, timers):
            self._create(case)

    def _create(self, case: _Case) -> None:
        """The first of a case's creations is taken in: what is timed before it comes right after it, in order."""
        early, case.waits, case.early = case.early, False, []
        for one in early:
            if isinstance(one, _Entry):
                self._fold_log(case, one)
            else:
                self._decide(one.screened, case, None, one)

    def _give_up(self, reference: str, case: _Case) -> None:
        """No log creates the case: where it does not exist, its events wait for it."""
        if reference in self._world.cases:
            self._create(case)
        else:
            self.plan.parked += [one.screened.position for one in case.early if isinstance(one, _Early)]

    def _decide(
        self, screened: Screened, case: _Case | None, timers: TimerFold | None, early: _Early | None = None
    ) -> bool:
        """Resolve an event and fold it, or refuse it, which leaves everything as it was. Whether it is accepted."""
        after = None
        self._watch(screened.position)
        try:
            code = screened.code
            if code is None:
                seen = None if case is None else copy.copy(case.state)
                code = resolve(screened.event, screened.registered, self._registry, seen)
            log = make_log(screened, code, self._ids[screened.position])
            if timers is not None:
                log.timer_id = timers.covering(log, code)
            elif early is not None and log.actor is not None:
                log.timer_id = early.timer_id or (log.id if code.starts_timer else None)
            if case is not None:
                after = copy.copy(case.state)
                fold_case_or_refuse(after, log, code, screened.registered, self._rules)
        except EventError as error:
            self.plan.refused.append((screened.position, error))
            return False
        if case is not None and after is not None:
            case.state, case.is_folded = after, True
        if timers is not None:
            timers.fold(log, code)
        self.is_out_of_place |= early is not None and (log.timer_id is not None or code.creates_case)
        self._accept(screened.position, _Entry(log, code, screened.registered, screened.order_key))
        return True

    def _fold_log(self, case: _Case, entry: _Entry) -> None:
        """Take a log that stands into its case. One that a rule refuses by now stands without effect."""
        self._watch(STORED)
        case.is_folded = True
        after = copy.copy(case.state)
        if refusal(after, entry.log, entry.code, entry.registered, self._rules) is None:
            case.state = after

    def _timers_of(self, actor: str) -> _Timers:
        timers = self._timers.get(actor)
        if timers is None:
            timers = self._timers[actor] = _Timers((), self._world.timers.get(actor))
        return timers

    def _case(self, reference: str) -> _Case:
        case = self._cases.get(reference)
        if case is None:
            known = self._world.cases.get(reference)
            is_refolded = reference in self._past.cases
            state = CaseState(reference=reference) if known is None or is_refolded else copy.copy(known)
            case = self._cases[reference] = _Case(state, is_folded=is_refolded)
        return case

    def _finish_timers(self) -> None:
        for timers in self._timers.values():
            for window, folded in timers.windows:
                self._take_over(window, folded)
            self.plan.timers |= timers.others.changed
            self.plan.started |= timers.others.started
            for timer in timers.others.changed.values():
                self._bill(timer, 1)

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

    def _finish_cases(self) -> None:
        for reference, case in self._cases.items():
            if not case.is_folded:
                continue
            known = self._world.cases.get(reference)
            case.state.billable_time = (0 if known is None else known.billable_time) + self._billed[reference]
            if known is None:
                self.plan.created.add(reference)
            if case.state != known:
                self.plan.cases[reference] = case.state
