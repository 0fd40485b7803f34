"""The rules in words: what a column of a case means, and by which rule a log set it (docs/rules.md §5)."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.folding.case_history import Cause, History
from caselog.events.model.codes import RequiresActionBy
from caselog.events.phrases import count_of

_LATEST_OUTCOME: Final = "of the latest unsuppressed outcome at level HIGH or above"
# What the fold itself sets, whatever the organisation's codes are.
_FOLD: Final = {
    "reference": "the subject of the event that created the case",
    "created_at": "the time of the event that created the case",
    "search_field": "the reference without dashes, then the context values that CASELOG_SEARCH_CONTEXT names",
    "outcome_code": f"the code {_LATEST_OUTCOME}",
    "outcome_code_id": f"the log {_LATEST_OUTCOME}",
    "level": f"the level {_LATEST_OUTCOME}",
}
_DEFAULTS: Final = {
    "requires_action_by": "no log has set it: a new case is the operators'",
    "callback_attempt": "no log has set it: no callback has been arranged",
    "billable_time": "no timer that counts has ended on this case",
    "complaint_flag": "no log has set it: no complaint was ever made",
    "state": "not viewed, accepted or closed yet: new",
    "modified_at": "no log's doing: the database's clock when this row was last written",
}
_STATES: Final = {
    "new": "neither viewed nor accepted nor closed: new",
    "opened": "viewed, neither accepted nor closed: opened",
    "accepted": "accepted and not closed: accepted",
    "rejected": "closed and never accepted: rejected",
    "completed": "closed and accepted: completed",
}
_FIRST_VIEW: Final = "the first view by a specialist of the case's provider since the assignment"
_EMPTIED: Final = "emptied by the assignment, for the new provider to set"
_SPLIT: Final = "from the creation's context, since a split keeps it (from_case is given)"
_RESET: Final = "the callback is reset: nothing is due any more"
_BACK: Final = "emptied: the case goes back to the call centre, to be assigned anew"
# What the bundled apps' `apply` sets, by event key.
_APPLIED: Final[dict[str, dict[str, str]]] = {
    "case": {
        "source": "context.source of the creation; PHONE where it gives none",
        "category": "context.category of the creation",
        "organisation": "context.organisation",
        "eligibility_state": "context.eligibility_state of the creation",
        "from_case": "context.from_case of the creation",
        "provider": _SPLIT,
        "provider_assigned_at": _SPLIT,
        "requires_action_by": _SPLIT,
        "provider_viewed": _FIRST_VIEW,
        "complaint_flag": "context.complaint_flag; raised where that is not given",
    },
    "open_case": {"provider_viewed": _FIRST_VIEW},
    "assign_to_provider": {
        "provider": "context.provider of the assignment",
        "provider_assigned_at": "the time of the assignment",
        "provider_viewed": _EMPTIED,
        "provider_accepted": _EMPTIED,
        "provider_closed": _EMPTIED,
        "requires_action_at": _RESET,
        "callback_attempt": _RESET,
    },
    "accept_case": {
        "provider_accepted": "the first acceptance since the assignment",
        "provider_closed": "emptied: the case is accepted",
    },
    "reject_case": {
        "provider_closed": "the time of the rejection",
        "provider": _BACK,
        "provider_assigned_at": _BACK,
        "provider_viewed": _BACK,
        "provider_accepted": _BACK,
    },
    "close_case": {"provider_closed": "the time at which the provider closed it"},
    "reopen_case": {"provider_closed": "emptied: the case is open again"},
    "call_me_back": {
        "requires_action_at": "context.requires_action_at of the callback",
        "callback_attempt": "one more callback",
    },
    "stop_call_me_back": {"requires_action_at": _RESET, "callback_attempt": _RESET},
    "alternative_help": {"requires_action_at": _RESET, "callback_attempt": _RESET},
    "change_category": {"category": "context.new_category"},
    "means_test": {"eligibility_state": "context.state of the means test"},
    "diagnosis": {"scope_state": "context.state of the diagnosis", "category": "context.category of the diagnosis"},
    "complaint": {"complaint_flag": "a complaint is open: true; the last open one closed or void: false"},
}


def rule_in_words(column: str, value: Any, history: History) -> str:
    """Why a column of a case has its value: the rule by which its cause set it, or that it has its default."""
    cause = history.causes.get(column)
    if cause is None:
        return _DEFAULTS.get(column, "no log has set it: empty")
    if column == "billable_time":
        timer, _ = history.billed[-1]
        timers = count_of(len(history.billed), "stopped timer that was", "stopped timers that were")
        return (
            f"whole seconds of its {timers} not "
            f"cancelled; the last, timer {timer.id} of {timer.actor}, gave {timer.seconds}"
        )
    if column == "state":
        return _STATES[value]
    if cause.applied:
        return _applied(column, value, cause)
    return _requires_action(cause) if column == "requires_action_by" else _FOLD[column]


def _applied(column: str, value: Any, cause: Cause) -> str:
    cls = cause.entry.registered.cls
    if not cls.__module__.startswith("caselog.events.apps."):
        return f"set by {cls.__module__}.{cls.__qualname__}.apply"
    if column == "provider_closed" and value is None and cls.key == "reject_case":
        return _BACK
    if column == "scope_state" and value is None and cls.key == "diagnosis":
        return "emptied: the diagnosis is deleted"
    return _APPLIED[cls.key][column]


def _requires_action(cause: Cause) -> str:
    code = cause.entry.code
    action = code.set_requires_action_by
    if not callable(action):
        return f"set_requires_action_by of {code.key}/{code.code}: {'nobody' if action is None else str(action)}"
    if action is RequiresActionBy.none_if_owned_by_operator_or_manager:
        return f"{code.key}/{code.code}: nobody, where an operator or a manager had the next move"
    return f"set_requires_action_by of {code.key}/{code.code}: the rule {getattr(action, '__qualname__', repr(action))}"
