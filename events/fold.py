"""The fold: states and events in, a plan out. No clock, no database, no randomness (RULES.md §2 to §5).

`fold` takes a batch in any order and folds it in order. What the plan says is carried out by `schema/store.py` in one
transaction. The two steps, `TimerFold` for actors and `fold_case` for cases, see logs only, so they fold what arrives
and what is already in the log alike.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Final

import msgspec

from events.codes import Code, RequiresActionBy
from events.errors import EventError, EventFailed
from events.registry import EventRegistry, Registered
from events.resolve import Rules, Screened, failure, resolve
from events.state import CaseState, Log, OrderKey, TimerState

_order_key: Final = attrgetter("order_key")


class World(msgspec.Struct, kw_only=True):
    """What is recorded so far about the cases and actors of a batch; the fold reads it and changes nothing of it.

    `cases` has those that exist, by reference; `timers` the running ones, by actor.
    """

    cases: Mapping[str, CaseState] = msgspec.field(default_factory=dict)
    timers: Mapping[str, TimerState] = msgspec.field(default_factory=dict)


class Plan(msgspec.Struct, kw_only=True):
    """What a batch does to the world.

    `logs` are new; `cases` by reference and `timers` by id as they are afterwards, those in `created` and `started`
    being new; `refused` and `parked` by the positions of their events. Only late events (`events.refold`) make
    `rewritten`, stored logs as they were and with their derived fields as they are now, and `removed`, timers that
    turn out never to have been started.
    """

    logs: list[Log] = msgspec.field(default_factory=list)
    cases: dict[str, CaseState] = msgspec.field(default_factory=dict)
    created: set[str] = msgspec.field(default_factory=set)
    timers: dict[int, TimerState] = msgspec.field(default_factory=dict)
    started: set[int] = msgspec.field(default_factory=set)
    refused: list[tuple[int, EventError]] = msgspec.field(default_factory=list)
    parked: list[int] = msgspec.field(default_factory=list)
    positions: list[int] = msgspec.field(default_factory=list)
    """The position of each log's event, parallel to `logs`."""
    rewritten: list[tuple[Log, Log]] = msgspec.field(default_factory=list)
    removed: set[int] = msgspec.field(default_factory=set)


def fold(batch: Iterable[Screened], world: World, registry: EventRegistry, rules: Rules, ids: Iterator[int]) -> Plan:
    """Fold a batch into the world. `ids` gives each new log its id; at most one an event is taken.

    An event that an app's rule refuses or fails on changes nothing; it is in the plan's `refused`.
    """
    plan = Plan()
    timers = TimerFold(world.timers)
    for screened in in_order(batch, world):
        reference = screened.case
        case = None
        if reference is not None:
            case = plan.cases.get(reference) or world.cases.get(reference)
            if case is None and not screened.creates_case:
                plan.parked.append(screened.position)
                continue
        try:
            code = screened.code or resolve(screened.event, screened.registered, registry, case)
            log = make_log(screened, code, next(ids))
            log.timer_id = timers.covering(log, code)
            if reference is not None:
                # A copy: what a rule that fails half-way did to the case is thrown away with it.
                case = CaseState(reference=reference) if case is None else copy.copy(case)
                fold_case_or_refuse(case, log, code, screened.registered, rules)
        except EventError as error:
            plan.refused.append((screened.position, error))
            continue
        ended = timers.fold(log, code)
        if case is not None and reference is not None:
            if ended is not None and not ended.cancelled:
                case.billable_time += ended.seconds or 0
            if reference not in world.cases:
                plan.created.add(reference)
            plan.cases[reference] = case
        plan.logs.append(log)
        plan.positions.append(screened.position)
    plan.timers, plan.started = timers.changed, timers.started
    return plan


def in_order(batch: Iterable[Screened], world: World) -> list[Screened]:
    """The batch by (time, source, id), a case's creation before everything else of its case (RULES.md "Order")."""
    ordered = sorted(batch, key=_order_key)
    creations: dict[str, OrderKey] = {}
    for screened in ordered:
        if screened.creates_case and screened.case is not None and screened.case not in world.cases:
            creations.setdefault(screened.case, screened.order_key)
    if not any(s.case in creations and s.order_key < creations[s.case] for s in ordered):
        return ordered

    def place(screened: Screened) -> tuple[OrderKey, bool]:
        created = creations.get(screened.case or "")
        if created is None:
            return (screened.order_key, False)
        # What happened to a case "before" it was created waits for its creation, and comes right after it.
        return (max(screened.order_key, created), screened.order_key != created)

    return sorted(ordered, key=place)


class TimerFold:
    """The actors' timers, log by log (RULES.md §4)."""

    def __init__(self, running: Mapping[str, TimerState]) -> None:
        self._running = dict(running)
        self.changed: dict[int, TimerState] = {}
        self.started: set[int] = set()

    def covering(self, log: Log, code: Code) -> int | None:
        """The id of the timer that the log carries; for a log that starts one, its own id."""
        timer = self._runs(log)
        if timer is not None:
            return timer.id
        return log.id if code.starts_timer and log.actor is not None else None

    def fold(self, log: Log, code: Code) -> TimerState | None:
        """Take the log in. Returns the timer that it ended, if it ended one."""
        timer = self._runs(log)
        if timer is None:
            if code.starts_timer and log.actor is not None:
                timer = TimerState(id=log.id, actor=log.actor, started_at=log.occurred_at, case=log.case)
                self._running[log.actor] = self.changed[timer.id] = timer
                self.started.add(timer.id)
            return None
        ends = code.stops_timer or code.cancels_timer
        if not ends and log.case in (None, timer.case):
            return None
        if timer.id not in self.changed:
            timer = copy.copy(timer)
            self._running[timer.actor] = self.changed[timer.id] = timer
        timer.case = log.case or timer.case
        if not ends:
            return None
        timer.stopped_at, timer.cancelled = log.occurred_at, code.cancels_timer
        del self._running[timer.actor]
        return timer

    def _runs(self, log: Log) -> TimerState | None:
        timer = self._running.get(log.actor) if log.actor is not None else None
        return timer if timer is not None and log.occurred_at >= timer.started_at else None


def fold_case(case: CaseState, log: Log, code: Code, registered: Registered, rules: Rules) -> None:
    """Take one log into its case: decide whether it is suppressed, and what it sets (RULES.md §3, §5).

    Changes `case`, and the derived fields of `log` that depend on the case. Billable time is the timers' business.
    """
    fingerprint = _fingerprint(log, rules) if code.sets_outcome else None
    if code.creates_case and case.created_at is None:
        log.suppressed = False
        case.created_at = log.occurred_at
        case.search_field = _search_field(log, rules)
    else:
        key = log.order_key
        if case.last_log is None or key > case.last_log:
            case.last_log = key
        log.suppressed = (
            code.creates_case
            or (fingerprint is not None and fingerprint == case.last_outcome)
            or (registered.may_suppress and registered.event.suppresses(case, log))
        )
    if not log.suppressed:
        if code.touches_requires_action:
            action = code.set_requires_action_by
            if callable(action):
                value = action(case)
                action = None if value is None else RequiresActionBy(value)
            case.requires_action_by = None if action is None else action._value_
        if code.sets_outcome:
            case.outcome_code, case.outcome_code_id, case.level = code.code, log.id, int(code.level)
            case.last_outcome = fingerprint
        if registered.applies:
            registered.event.apply(case, log)
    log.category, log.provider = case.category, case.provider
    log.organisation, log.case_source, log.case_created_at = case.organisation, case.source, case.created_at


def fold_case_or_refuse(case: CaseState, log: Log, code: Code, registered: Registered, rules: Rules) -> None:
    """As `fold_case`; whatever an app's rule raises is an `EventError`. Then `case` is not to be used any more."""
    try:
        fold_case(case, log, code, registered, rules)
    except EventError:
        raise
    except Exception as error:
        raise EventFailed(failure(f"applying {log.key!r}/{log.code!r}", error)) from error


def make_log(screened: Screened, code: Code, log_id: int) -> Log:
    """The log entry of an event whose code is resolved; what is derived is filled in by the fold."""
    event, data, actor = screened.event, screened.event.data, screened.event.data.actor
    # By place, which takes half as long as by name.
    return Log(
        log_id,
        event.source,
        event.id,
        code.key,
        code.code,
        code.type._value_,
        code.level._value_,
        event.time,
        screened.case,
        screened.actor,
        None if actor is None or actor.role is None else actor.role._value_,
        None if actor is None else actor.provider,
        data.notes or "",
        data.context or {},
        data.patch,
        _extensions(screened),
    )


def _extensions(screened: Screened) -> dict[str, str] | None:
    event = screened.event
    if event.extensions is None and event.traceparent is None and event.tracestate is None:
        return None
    trace = {"traceparent": event.traceparent, "tracestate": event.tracestate}
    return {name: value for name, value in trace.items() if value is not None} | (event.extensions or {})


def _fingerprint(log: Log, rules: Rules) -> str:
    """Equal for two outcomes of the same local day with the same key, code and notes (RULES.md §3.1)."""
    day = log.occurred_at.astimezone(rules.zone).date()
    notes = hashlib.blake2b(log.notes.encode(), digest_size=16).hexdigest() if log.notes else ""
    return f"{day} {log.key} {log.code} {notes}"


def _search_field(log: Log, rules: Rules) -> str:
    """The reference without dashes, then the context values that the setting names (RULES.md §5, CASE_CREATED)."""
    values = [log.context.get(name) for name in rules.search_context]
    return " ".join([(log.case or "").replace("-", ""), *(str(value) for value in values if value not in (None, ""))])
