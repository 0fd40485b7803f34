"""A case's history, folded without a database: which log set which column, and by which rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders.plain_code import FIELDS

from caselog.events.errors import EventRejected
from caselog.events.folding.case_history import History, case_history
from caselog.events.folding.resolve import Rules
from caselog.events.folding.rules_in_words import rule_in_words
from caselog.events.model.codes import LogLevel
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log

RULES = Rules(zone=ZoneInfo("Europe/London"))
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
COLUMNS = (
    "reference", "category", "source", "organisation", "outcome_code", "outcome_code_id", "level",
    "requires_action_by", "requires_action_at", "callback_attempt", "provider", "provider_assigned_at",
    "provider_viewed", "provider_accepted", "provider_closed", "billable_time", "complaint_flag",
    "eligibility_state", "scope_state", "from_case", "search_field", "state", "created_at",
)  # fmt: skip
# Something of everything that the bundled rules read.
CONTEXT: dict[str, Any] = {
    "source": "WEB", "category": "debt", "organisation": "org-1", "eligibility_state": "unknown", "from_case": "OLD-1",
    "provider": "prov-1", "provider_assigned_at": "2026-03-01T09:00:00Z", "requires_action_by": "2_provider",
    "requires_action_at": "2026-03-03T09:00:00Z", "new_category": "housing", "state": "yes", "complaint_flag": True,
}  # fmt: skip


class Own(BaseEvent):
    """An organisation's own event, whose rule writes what its log's context says."""

    key = "own"
    codes = {"DONE": FIELDS | {"set_requires_action_by": None}, "TOLD": FIELDS | {"level": LogLevel.MINOR}}

    def apply(self, case: CaseState, log: Log) -> None:
        if log.context.get("refuse"):
            raise EventRejected("not any more")
        for name, value in log.context.items():
            setattr(case, name, value)

    def suppresses(self, case: CaseState, log: Log) -> bool:
        return log.notes == "nothing new" or case.category == "shut"


@pytest.fixture(scope="module")
def registry() -> EventRegistry:
    autodiscover()
    own = EventRegistry()
    own.restore(event_registry.snapshot())
    own.register(Own)
    return own


def a_log(registry: EventRegistry, number: int, key: str, code: str, **fields: Any) -> Log:
    """The number is its id, and the minutes after nine at which it happened."""
    definition = registry.get_code(key, code)
    return Log(
        id=number,
        source="/test",
        event_id=str(number),
        key=key,
        code=code,
        type=definition.type.value,
        level=definition.level.value,
        occurred_at=NINE + timedelta(minutes=number),
        case="AB-1",
        **fields,
    )


def created(registry: EventRegistry, **context: Any) -> Log:
    return a_log(registry, 1, "case", "CASE_CREATED", context=context)


def history_of(registry: EventRegistry, *logs: Log, stretches: list[list[Log]] | None = None) -> History:
    history = case_history("AB-1", logs, stretches or [], registry, RULES)
    assert history is not None
    return history


def cause_of(history: History, column: str) -> int | None:
    cause = history.causes.get(column)
    return None if cause is None else cause.entry.log.id


def test_every_column_that_a_bundled_code_sets_has_words(registry: EventRegistry) -> None:
    """Each code after a creation and after an assignment: whatever it set, the rule can be said."""
    specialist = {"actor": "anna", "role": "specialist", "actor_provider": "prov-1"}
    before = [
        created(registry, **CONTEXT),
        a_log(registry, 2, "assign_to_provider", "REFSP", context=CONTEXT, actor="op-1"),
    ]
    for code in registry.codes():
        if code.key in ("own", "timer"):
            continue
        history = history_of(registry, *before, a_log(registry, 3, code.key, code.code, context=CONTEXT, **specialist))
        for column in COLUMNS:
            words = rule_in_words(column, getattr(history.case, column), history)
            assert len(words) > 10, (code.key, code.code, column)


def test_a_column_that_was_written_again_was_set_by_the_later_log(registry: EventRegistry) -> None:
    """Also where it has the same value as before."""
    history = history_of(
        registry,
        created(registry, **CONTEXT),
        *(a_log(registry, n, "reopen_case", "REOPEN", notes=str(n)) for n in (2, 3)),
    )
    assert cause_of(history, "provider_closed") == cause_of(history, "outcome_code") == 3


def test_what_an_event_does_not_give_it_does_not_set(registry: EventRegistry) -> None:
    """A change of category without one; a creation without one; the rule for requires_action_by that leaves it."""
    without = history_of(registry, created(registry), a_log(registry, 2, "change_category", "CATEGORY_CHANGED"))
    assert cause_of(without, "category") is None
    assert cause_of(without, "source") == 1  # PHONE is what a creation without a source means
    given_first = history_of(
        registry, created(registry, category="debt"), a_log(registry, 2, "change_category", "CATEGORY_CHANGED")
    )
    assert cause_of(given_first, "category") == 1
    left = history_of(
        registry,
        created(registry, **CONTEXT),
        a_log(registry, 2, "accept_case", "SPOP"),
        a_log(registry, 3, "decline_help", "DESP"),
    )
    assert (left.case.requires_action_by, cause_of(left, "requires_action_by")) == ("2_provider", 2)
    taken = history_of(registry, created(registry), a_log(registry, 3, "decline_help", "DESP"))
    assert (taken.case.requires_action_by, cause_of(taken, "requires_action_by")) == (None, 3)


def test_on_a_case_without_a_provider_a_providers_code_sets_its_outcome_alone(registry: EventRegistry) -> None:
    history = history_of(registry, created(registry), a_log(registry, 2, "accept_case", "SPOP"))
    assert [name for name in COLUMNS if cause_of(history, name) == 2] == ["outcome_code", "outcome_code_id", "level"]


def test_what_was_only_tried_on_a_copy_was_not_written(registry: EventRegistry) -> None:
    """A second assignment that counts has set what it set once; one that repeats it has set nothing."""
    assignments = [
        a_log(registry, n, "assign_to_provider", "REFSP", context={"provider": provider})
        for n, provider in ((2, "prov-1"), (3, "prov-2"), (4, "prov-2"))
    ]
    history = history_of(registry, created(registry), *assignments)
    assert [entry.log.suppressed for entry in history.entries] == [False, False, False, True]
    own = ("outcome_code", "requires_action_by")
    assert {(cause_of(history, name), history.causes[name].applied) for name in own} == {(3, False)}
    assert {(cause_of(history, name), history.causes[name].applied) for name in ("provider", "provider_closed")} == {
        (3, True)
    }


def test_a_suppressed_log_says_what_stands_in_its_place(registry: EventRegistry) -> None:
    """By the rule that suppressed it, also where the same words said it before."""
    twice = [a_log(registry, number, "suspend_case", "TERM", actor="op-1") for number in (2, 3)]
    repeated = history_of(registry, created(registry), *twice).entries[-1].why
    assert repeated == "the same outcome as log 2, on the same day, and would change nothing of the case"
    own = [a_log(registry, n, "own", "DONE", context={"category": to}) for n, to in ((2, "shut"), (3, "open"))]
    assert history_of(registry, created(registry), *own).entries[-1].why == f"{Own.__module__}.Own.suppresses says so"
    opened = a_log(registry, 2, "open_case", "CASE_VIEWED", actor="op-1")
    viewed = a_log(registry, 3, "case", "CASE_VIEWED", actor="op-1")
    start = a_log(registry, 1, "timer", "TIMER_STARTED", actor="op-1")
    start.case = None
    history = history_of(registry, created(registry), opened, viewed, stretches=[[start, opened, viewed]])
    assert history.entries[-1].why == "created or viewed already under timer 1, by log 2"


def test_a_suppressed_log_sets_nothing(registry: EventRegistry) -> None:
    twice = [a_log(registry, number, "suspend_case", "TERM", actor="op-1") for number in (2, 3)]
    history = history_of(registry, created(registry), *twice)
    assert [entry.log.suppressed for entry in history.entries] == [False, False, True]
    assert {cause_of(history, name) for name in ("outcome_code", "outcome_code_id", "level")} == {2}


def test_the_state_is_explained_by_what_decided_it(registry: EventRegistry) -> None:
    """A view of an accepted case does not make its state; a closing does, and so does what it is measured by."""
    anna = {"actor": "anna", "role": "specialist", "actor_provider": "prov-1"}
    logs = [
        created(registry),
        a_log(registry, 2, "assign_to_provider", "REFSP", context=CONTEXT),
        a_log(registry, 3, "accept_case", "SPOP", **anna),
        a_log(registry, 4, "open_case", "CASE_VIEWED", **anna),
        a_log(registry, 5, "close_case", "CLSP", **anna),
    ]
    states = [history_of(registry, *logs[:size]) for size in range(1, 6)]
    assert [(history.case.state, cause_of(history, "state")) for history in states] == [
        ("new", None), ("new", 2), ("accepted", 3), ("accepted", 3), ("completed", 5),
    ]  # fmt: skip
    assert cause_of(states[3], "provider_viewed") == 4


def test_an_organisations_own_rule_is_named_by_class_and_method(registry: EventRegistry) -> None:
    """What its `apply` wrote is told from what its code says, also for a column that both set."""
    context = {"category": "own", "requires_action_by": "2_provider"}
    history = history_of(registry, created(registry), a_log(registry, 2, "own", "DONE", context=context))
    own = f"set by {Own.__module__}.Own.apply"
    assert rule_in_words("category", "own", history) == own
    assert rule_in_words("requires_action_by", "2_provider", history) == own
    assert rule_in_words("outcome_code", "DONE", history).startswith("the code of the latest")


def test_an_organisations_own_reason_to_suppress_is_named(registry: EventRegistry) -> None:
    entry = a_log(registry, 2, "own", "TOLD", notes="nothing new")
    history = history_of(registry, created(registry), entry)
    assert history.entries[1].why == f"{Own.__module__}.Own.suppresses says so"


def test_a_stored_log_that_its_rule_refuses_now_is_without_effect(registry: EventRegistry) -> None:
    """The rule was another when it was recorded: it stays in the log, and the case is folded without it."""
    refused = a_log(registry, 2, "own", "DONE", context={"refuse": True})
    history = history_of(registry, created(registry), refused, a_log(registry, 3, "accept_case", "SPOP"))
    assert history.entries[1].why is not None
    assert "EventRejected" in history.entries[1].why
    assert (history.case.outcome_code, cause_of(history, "outcome_code")) == ("SPOP", 3)


def test_a_case_that_no_log_creates_has_no_history(registry: EventRegistry) -> None:
    assert case_history("AB-1", [a_log(registry, 2, "accept_case", "SPOP")], [], registry, RULES) is None


def test_what_happened_before_the_creation_comes_after_it(registry: EventRegistry) -> None:
    early = a_log(registry, 0, "accept_case", "SPOP")
    history = history_of(registry, early, created(registry))
    assert [entry.log.id for entry in history.entries] == [1, 0]
    assert history.case.outcome_code == "SPOP"


def test_billable_time_is_explained_by_the_timer_that_ended_last(registry: EventRegistry) -> None:
    """And what is stored as derived is not looked at: the timers are folded from the actor's log."""
    start = a_log(registry, 2, "timer", "TIMER_STARTED", actor="op-1")
    start.case = None
    term = a_log(registry, 7, "suspend_case", "TERM", actor="op-1", timer_id=99, suppressed=True)
    history = history_of(registry, created(registry), term, stretches=[[start, term]])
    assert (history.case.billable_time, cause_of(history, "billable_time")) == (300, 7)
    assert history.entries[1].log.timer_id == 2
    assert "timer 2 of op-1, gave 300" in rule_in_words("billable_time", 300, history)
    assert term.timer_id == 99  # what was handed over is not changed


@given(order=st.permutations(range(6)))
def test_the_order_in_which_logs_are_loaded_does_not_matter(order: list[int], registry: EventRegistry) -> None:
    logs = [
        created(registry, **CONTEXT),
        *(a_log(registry, n, "call_me_back", f"CB{n - 1}", context=CONTEXT, actor="op-1") for n in (2, 3, 4)),
        a_log(registry, 5, "accept_case", "SPOP"),
        a_log(registry, 6, "stop_call_me_back", "CBC", actor="op-1"),
    ]
    one, other = history_of(registry, *logs), history_of(registry, *(logs[at] for at in order))
    assert one.case == other.case
    assert {name: cause_of(one, name) for name in one.causes} == {name: cause_of(other, name) for name in other.causes}
