"""A case as it was, and why: its log folded again up to a moment, watching which log set which column.

What happened up to a moment is the part of the log up to it, and what was known at a moment is the part that was
recorded by then: whoever loads the logs chooses the part, and the fold is the same for both.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from caselog.events.folding.fold import TimerFold, is_repetition, refusal
from caselog.events.folding.refold import definition
from caselog.events.folding.resolve import Rules
from caselog.events.model.codes import Code
from caselog.events.model.registry import EventRegistry, Registered
from caselog.events.model.state import CaseState, Log, TimerState

_OUTCOME: Final = ("outcome_code", "outcome_code_id", "level")
_VIEWS: Final = (("case", "CASE_CREATED"), ("case", "CASE_VIEWED"), ("open_case", "CASE_VIEWED"))


class Entry(msgspec.Struct, kw_only=True):
    """A log of the case with what its code means. `why` it is suppressed or without effect; None where it has one."""

    log: Log
    code: Code
    registered: Registered
    why: str | None = None


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The log that last set a column; `applied` where the class's own rule did, and not what its code says."""

    entry: Entry
    applied: bool = False


class History(msgspec.Struct, kw_only=True):
    """What a case's log says: the case, its log in order, the cause of each column that a log set.

    `billed` are the case's ended timers that count, each with the log that ended it, the last to end last.
    """

    case: CaseState
    entries: list[Entry]
    causes: dict[str, Cause]
    billed: list[tuple[TimerState, Entry]]


class _Watched(CaseState, kw_only=True):
    """A case that notes which of its columns are written."""

    written: list[str] = msgspec.field(default_factory=list)

    def __copy__(self) -> _Watched:
        """A case that has nothing written yet: what is tried on a copy was not written here."""
        return _Watched(**{name: getattr(self, name) for name in CaseState.__struct_fields__})

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "written":
            self.written.append(name)
        super().__setattr__(name, value)


def case_history(
    reference: str, logs: Iterable[Log], stretches: Iterable[Sequence[Log]], registry: EventRegistry, rules: Rules
) -> History | None:
    """Fold a case's logs, given in any order; None where no log among them creates it.

    `stretches` are the parts of its actors' logs that its timers depend on: each in order, from where no timer ran, as
    `caselog.schema.operations.case_logs` loads them. What `logs` have as derived is not looked at.
    """
    timer_ids, ended = _timers(stretches, registry)
    entries = []
    for log in logs:
        # A copy: the fold writes what is derived into it.
        own = msgspec.structs.replace(log, timer_id=timer_ids.get(log.id), suppressed=False)
        code, registered = definition(own, registry)
        entries.append(Entry(log=own, code=code, registered=registered))
    creation = min((entry.log.order_key for entry in entries if entry.code.creates_case), default=None)
    if creation is None:
        return None
    entries.sort(key=lambda entry: (entry.log.order_key != creation, entry.log.order_key))
    case = _Watched(reference=reference)
    causes: dict[str, Cause] = {}
    for position, entry in enumerate(entries):
        after = copy.copy(case)
        if (error := refusal(after, entry.log, entry.code, entry.registered, rules)) is not None:
            entry.why = f"without effect: the rule of its class refuses it now ({type(error).__name__})"
            continue
        if entry.log.suppressed:
            entry.why = _why_suppressed(entry, entries[:position], case, causes, rules)
        causes |= _set_by(entry, case, after)
        case = after
    billed = [(ended[entry.log.id], entry) for entry in entries if entry.log.id in ended]
    billed = [(timer, entry) for timer, entry in billed if timer.case == reference and not timer.cancelled]
    plain = CaseState(**{name: getattr(case, name) for name in CaseState.__struct_fields__})
    plain.billable_time = sum(timer.seconds or 0 for timer, _ in billed)
    if billed:
        causes["billable_time"] = Cause(entry=billed[-1][1])
    if (state := _cause_of_state(plain, causes, entries)) is not None:
        causes["state"] = state
    return History(case=plain, entries=entries, causes=causes, billed=billed)


def _timers(
    stretches: Iterable[Sequence[Log]], registry: EventRegistry
) -> tuple[dict[int, int | None], dict[int, TimerState]]:
    """The timer that each log carries, and the timer that each log ended, both by the log's id."""
    timer_ids: dict[int, int | None] = {}
    ended: dict[int, TimerState] = {}
    for stretch in stretches:
        timers = TimerFold({})
        for log in stretch:
            code, _ = definition(log, registry)
            timer_ids[log.id] = timers.covering(log, code)
            if (timer := timers.fold(log, code)) is not None:
                ended[log.id] = timer
    return timer_ids, ended


def _set_by(entry: Entry, before: _Watched, after: _Watched) -> dict[str, Cause]:
    """The columns that this log set; also to the value that they had, where its rule says so."""
    written = Counter(after.written)
    code = entry.code
    own = Counter[str]()
    if before.created_at is None:
        own.update(("created_at", "search_field"))
    if not entry.log.suppressed:
        own.update(_OUTCOME if code.sets_outcome else ())
        own.update(("requires_action_by",) if code.touches_requires_action else ())
    if callable(code.set_requires_action_by) and after.requires_action_by == before.requires_action_by:
        # A rule that gives back what there is has left it alone.
        written["requires_action_by"] -= own["requires_action_by"]
    causes = {
        name: Cause(entry=entry, applied=times > own[name])
        for name, times in written.items()
        # What a creation does not say has its default afterwards as before: nothing has set it.
        if times > 0 and (before.created_at is not None or getattr(before, name) != getattr(after, name))
    }
    if "created_at" in causes:
        causes["reference"] = causes["created_at"]
    return causes


def _cause_of_state(case: CaseState, causes: dict[str, Cause], entries: list[Entry]) -> Cause | None:
    """The log that last set one of the columns that decided the state: no others are looked at (docs/rules.md §5.6)."""
    decided = ["provider_closed", "provider_accepted"]
    if case.provider_closed is None and case.provider_accepted is None:
        decided.append("provider_viewed")
    order = {entry.log.id: position for position, entry in enumerate(entries)}
    found = [causes[name] for name in decided if name in causes]
    return max(found, key=lambda cause: order[cause.entry.log.id], default=None)


def _why_suppressed(
    entry: Entry, earlier: Sequence[Entry], before: CaseState, causes: dict[str, Cause], rules: Rules
) -> str:
    """The rule of docs/rules.md §3 that keeps a log without effect, in words, with the log that stands for it."""
    log = entry.log
    if entry.code.creates_case:
        return f"the case was created already, by log {causes['created_at'].entry.log.id}"
    if is_repetition(before, log, entry.code, entry.registered, rules):
        return (
            f"the same outcome as log {before.outcome_code_id}, on the same day, and would change nothing of the case"
        )
    if entry.registered.cls.__module__ == "caselog.events.apps.legalaid.events":
        effective = [other.log for other in earlier if other.why is None]
        if log.code == "CASE_VIEWED":
            by = [o.id for o in effective if o.timer_id == log.timer_id and (o.key, o.code) in _VIEWS]
            return f"created or viewed already under timer {log.timer_id}, by log {by[-1]}"
        if log.code == "CALL_STARTED":
            by = [other.id for other in effective if (other.key, other.code) == (log.key, log.code)]
            return f"a call was started already, by log {by[-1]}, since the latest callback"
    return f"{entry.registered.cls.__module__}.{entry.registered.cls.__qualname__}.suppresses says so"
