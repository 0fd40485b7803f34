"""The log folded afresh: what timers, cases and derived columns ought to be, said by the log alone.

`caselog verify` and `caselog rebuild` hold what is stored against this. The steps are those of the recorder's fold;
what is not used here is anything that was folded before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

import msgspec

from caselog.events.folding.facts import Facts, FactsFold
from caselog.events.folding.fold import TimerFold, refusal
from caselog.events.folding.refold import definition
from caselog.events.folding.resolve import Rules
from caselog.events.model.codes import Code
from caselog.events.model.registry import EventRegistry, Registered
from caselog.events.model.state import CaseState, Log, TimerState

_CASE_FIELDS: Final = tuple(name for name in CaseState.__struct_fields__ if name != "reference")
_order: Final = attrgetter("occurred_at", "source", "event_id")


class Definitions:
    """What stored logs' codes mean, each looked up once."""

    def __init__(self, registry: EventRegistry) -> None:
        self._registry = registry
        self._found: dict[tuple[str, str, str, int], tuple[Code, Registered]] = {}

    def of(self, log: Log) -> tuple[Code, Registered]:
        name = (log.key, log.code, log.type, log.level)
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = definition(log, self._registry)
        return found

    def codes(self) -> list[Code]:
        """Every code that is known, registered or retired."""
        return self._registry.folded_codes()

    def timer_starts(self) -> list[tuple[str, str]]:
        """The (key, code) that start a timer of the actor where none runs."""
        return [(code.key, code.code) for code in self._registry.folded_codes() if code.starts_timer]

    def timer_ends(self) -> list[tuple[str, str]]:
        """The (key, code) after which no timer of the actor runs."""
        return [
            (code.key, code.code) for code in self._registry.folded_codes() if code.stops_timer or code.cancels_timer
        ]


class ActorAfresh:
    """One actor's timers, log by log in order, from a moment at which none ran (docs/rules.md §4).

    Holds no more than the running timer, however long the log is.
    """

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._timers = TimerFold({})

    def take(self, log: Log) -> tuple[int | None, TimerState | None]:
        """Take the next log in. Returns the id of the timer that it carries, and the timer that it ended, if any."""
        code, _ = self._definitions.of(log)
        covering = self._timers.covering(log, code)
        ended = self._timers.fold(log, code)
        if ended is not None:
            del self._timers.changed[ended.id]
            self._timers.started.discard(ended.id)
        return covering, ended

    def running(self) -> TimerState | None:
        return next(iter(self._timers.changed.values()), None)


class WholeCase(msgspec.Struct, frozen=True):
    """A case as its whole log says it is, and the facts that reports keep of it."""

    case: CaseState
    facts: Facts


def fold_whole_case(reference: str, logs: Iterable[Log], definitions: Definitions, rules: Rules) -> WholeCase | None:
    """A case folded from its whole log, which may come in any order; billable time aside, which is the timers'.

    The logs carry their timers already; their other derived fields are written. A stored log that a rule refuses
    stands without effect. None where no log creates the case.
    """
    logs = in_case_order(logs, definitions)
    case = CaseState(reference=reference)
    facts = FactsFold(reference, rules.working_time)
    for log in logs:
        if refusal(case, log, *definitions.of(log), rules) is not None:
            # What the rule did half-way is in `case`: once more from the start, with a copy to fall back on.
            facts = FactsFold(reference, rules.working_time)
            for case, each in steps(reference, logs, definitions, rules):
                facts.take(each, case)
            break
        facts.take(log, case)
    return None if case.created_at is None else WholeCase(case, facts.facts)


def steps(
    reference: str, logs: Iterable[Log], definitions: Definitions, rules: Rules
) -> Iterator[tuple[CaseState, Log]]:
    """The case after each of its logs, which are in its order."""
    case = CaseState(reference=reference)
    for log in logs:
        after = copy.copy(case)
        if refusal(after, log, *definitions.of(log), rules) is not None:
            after = case
        yield after, log
        case = after


def set_by(reference: str, logs: Iterable[Log], definitions: Definitions, rules: Rules) -> dict[str, Log]:
    """For each field of a case, the log that last changed it; a field that nothing changed has the creation's."""
    found: dict[str, Log] = {}
    before = CaseState(reference=reference)
    for case, log in steps(reference, in_case_order(logs, definitions), definitions, rules):
        created = before.created_at is None and case.created_at is not None
        for name in _CASE_FIELDS:
            if created or getattr(case, name) != getattr(before, name):
                found[name] = log
        if case.state != before.state or created:
            found["state"] = log
        if log.timer_id is not None and definitions.of(log)[0].stops_timer:
            found["billable_time"] = log
        before = case
    return found


def in_case_order(logs: Iterable[Log], definitions: Definitions) -> list[Log]:
    """A case's whole log in order: the first of its creations before everything else (docs/rules.md "Order")."""
    ordered = sorted(logs, key=_order)
    creation = next((at for at, log in enumerate(ordered) if definitions.of(log)[0].creates_case), 0)
    return [*ordered[creation : creation + 1], *ordered[:creation], *ordered[creation + 1 :]]
