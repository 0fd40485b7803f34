"""Somebody looks at a case: shared by the apps whose events say so."""

from __future__ import annotations

from caselog.events.model.codes import Role
from caselog.events.model.state import CaseState, Log


def viewed_under_timer(case: CaseState, log: Log) -> None:
    """Remember the timer, if any, under which the case is looked at: once is enough."""
    if log.timer_id is not None and log.timer_id not in case.viewed_timers:
        case.viewed_timers += (log.timer_id,)


def viewed_by_provider(case: CaseState, log: Log) -> None:
    """Set `provider_viewed` at the first view by the provider's staff since the assignment (docs/rules.md §5.4).

    An assignment empties `provider_viewed`, so "not yet set since" is "empty".
    """
    if case.provider is None or log.role != Role.SPECIALIST or log.actor_provider != case.provider:
        return
    if case.provider_viewed is None:
        case.provider_viewed = log.occurred_at
