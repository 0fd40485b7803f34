"""The fold: states and events in, a plan out. No clock, no database, no randomness (docs/rules.md §2 to §5).

`fold` takes a batch in any order and folds it in order. What the plan says is carried out by
`schema/recording/store.py` in one transaction. The two steps, `TimerFold` for actors and `fold_case` for cases, see
logs only, so they fold what arrives and what is already in the log alike.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from caselog.events.errors import EventError, EventFailed, Interrupted
from caselog.events.folding.identity import canonical_json
from caselog.events.folding.resolve import Rules, Screened, failure, resolve
from caselog.events.model.codes import Code, RequiresActionBy
from caselog.events.model.columns import ask
from caselog.events.model.registry import EventRegistry, Registered
from caselog.events.model.state import CaseState, Log, OrderKey, TimerState

_order_key: Final = attrgetter("order_key")
Watch: TypeAlias = Callable[[int], object]
"""Called before rules of classes are: with the position of the event whose they are, or `STORED`."""
STORED: Final = -1


def unwatched(_position: int) -> None:
    """Nobody wants to know whose rules are called."""


class World(msgspec.Struct, kw_only=True):
    """What is recorded so far about the cases and actors of a batch; the fold reads it and changes nothing of it.

    `cases` has those that exist, by reference; `timers` the running ones, by actor.
    """

    cases: Mapping[str, CaseState] = msgspec.field(default_factory=dict)
    timers: Mapping[str, TimerState] = msgspec.field(default_factory=dict)


class Plan(msgspec.Struct, kw_only=True):
    """What a batch does to the world.

    `logs` are new; `cases` by reference and `timers` by id as they are afterwards, those in `created` and `started`
    being new; `refused` and `parked` by the positions of their events. Only late events
    (`caselog.events.folding.refold`) make `rewritten`, stored logs as they were and with their derived fields as they
    are now, and `removed`, timers that turn out never to have been started.
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


def fold(  # noqa: PLR0917 - as it is called by place
    batch: Iterable[Screened],
    world: World,
    registry: EventRegistry,
    rules: Rules,
    ids: Iterator[int],
    watch: Watch = unwatched,
) -> Plan:
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
        watch(screened.position)
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
    """The batch by (time, source, id), a case's creation before everything else of its case (docs/rules.md "Order")."""
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
    """The actors' timers, log by log (docs/rules.md §4)."""

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

    def running(self, actor: str | None, moment: datetime) -> TimerState | None:
        """The timer that runs for this actor; None where it was started after that moment only."""
        timer = self._running.get(actor) if actor is not None else None
        return timer if timer is not None and moment >= timer.started_at else None

    def _runs(self, log: Log) -> TimerState | None:
        timer = self._running.get(log.actor) if log.actor is not None else None
        return timer if timer is not None and log.occurred_at >= timer.started_at else None


def fold_case(case: CaseState, log: Log, code: Code, registered: Registered, rules: Rules) -> None:
    """Take one log into its case: decide whether it is suppressed, and what it sets (docs/rules.md §3, §5).

    Changes `case`, and the derived fields of `log` that depend on the case. Billable time is the timers' business.
    """
    says = _fingerprint(log, code, rules) if code.sets_outcome else None
    log.suppressed = False
    if code.creates_case and case.created_at is None:
        case.created_at = log.occurred_at
        case.search_field = _search_field(log, rules)
    else:
        key = log.order_key
        if case.last_log is None or key > case.last_log:
            case.last_log = key
        log.suppressed = (
            code.creates_case
            or (says is not None and says == case.last_outcome and _changes_nothing(case, log, code, registered, says))
            or (registered.may_suppress and registered.event.suppresses(case, log))
        )
    if not log.suppressed:
        _take_effect(case, log, code, registered, says)
    log.category, log.provider = case.category, case.provider
    log.organisation, log.case_source, log.case_created_at = case.organisation, case.source, case.created_at


def is_repetition(case: CaseState, log: Log, code: Code, registered: Registered, rules: Rules) -> bool:
    """Whether the log says the case's latest outcome again, on the same day, and would change no column of the case.

    `case` is the case before the log, and stays as it is.
    """
    if not code.sets_outcome or case.last_outcome is None:
        return False
    says = _fingerprint(log, code, rules)
    return says == case.last_outcome and _changes_nothing(case, log, code, registered, says)


def _changes_nothing(case: CaseState, log: Log, code: Code, registered: Registered, says: str) -> bool:
    """Tried on a copy, so that it holds for whatever an organisation's own rules do."""
    after = copy.copy(case)
    _take_effect(after, log, code, registered, says)
    return not after.differs_from(case)


def _take_effect(case: CaseState, log: Log, code: Code, registered: Registered, says: str | None) -> None:
    """What an unsuppressed log does. `says` is its fingerprint, where it becomes the case's outcome."""
    acts = registered.always_acts or registered.event.acts_on(case, log)
    if acts and code.touches_requires_action:
        action = code.set_requires_action_by
        if callable(action):
            what = f"set_requires_action_by of {code.key!r}/{code.code!r}"
            value = action(case) if registered.is_bundled else ask(action, what, case)
            action = None if value is None else RequiresActionBy(value)
        case.requires_action_by = None if action is None else action._value_
    if says is not None:
        case.outcome_code, case.outcome_code_id, case.level = code.code, log.id, int(code.level)
        case.last_outcome = says
    if acts and registered.applies:
        registered.event.apply(case, log)


def fold_case_or_refuse(case: CaseState, log: Log, code: Code, registered: Registered, rules: Rules) -> None:
    """As `fold_case`; whatever an app's rule raises is an `EventError`. Then `case` is not to be used any more."""
    error = refusal(case, log, code, registered, rules)
    if isinstance(error, EventError):
        raise error
    if error is not None:
        raise EventFailed(failure(f"applying {log.key!r}/{log.code!r}", error)) from error


def refusal(case: CaseState, log: Log, code: Code, registered: Registered, rules: Rules) -> BaseException | None:
    """As `fold_case`; what an app's rule raises, as it is. Then `case` is not to be used any more.

    For logs that stand: what a rule says of them by now is nobody's dead letter, and to format it would take longer
    than the fold.
    """
    try:
        fold_case(case, log, code, registered, rules)
    except Interrupted:
        raise
    except BaseException as error:  # noqa: BLE001 - see above
        return error
    return None


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


def _fingerprint(log: Log, code: Code, rules: Rules) -> str:
    """Equal for two outcomes of the same local day that say the same: key, code, notes, and what tells them apart."""
    day = log.occurred_at.astimezone(rules.zone).date()
    says = f"{day} {log.key} {log.code} {_digest(log.notes) if log.notes else ''}"
    if code.distinguished_by:
        given = [log.context.get(name) for name in code.distinguished_by]
        says += f" {_digest(canonical_json(given))}"
    return says


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _search_field(log: Log, rules: Rules) -> str:
    """The reference without dashes, then the context values that the setting names (docs/rules.md §5, CASE_CREATED)."""
    values = [log.context.get(name) for name in rules.search_context]
    return " ".join([(log.case or "").replace("-", ""), *(str(value) for value in values if value not in (None, ""))])
