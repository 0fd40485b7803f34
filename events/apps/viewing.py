"""A specialist looks at a case: shared by the apps whose events say so."""

from __future__ import annotations

from events.codes import Role
from events.state import CaseState, Log


def viewed_by_provider(case: CaseState, log: Log) -> None:
    """Set `provider_viewed` where a specialist of the case's provider is the first since the assignment (RULES.md §5).

    An assignment empties `provider_viewed`, so "not yet set since" is "empty".
    """
    if case.provider is None or log.role != Role.SPECIALIST or log.actor_provider != case.provider:
        return
    if case.provider_viewed is None:
        case.provider_viewed = log.occurred_at
