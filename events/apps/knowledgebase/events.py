"""The client is sent to help outside the service, face to face or from the knowledge base."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.model.codes import LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log

_SENT_ELSEWHERE: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [Role.OPERATOR, Role.SPECIALIST],
    "stops_timer": True,
    "set_requires_action_by": RequiresActionBy.none_if_owned_by_operator_or_manager,
}


class AlternativeHelp(BaseEvent):
    key = "alternative_help"
    codes = {
        "IRKB": {**_SENT_ELSEWHERE, "description": "Assigned to alternative help from Knowledgebase"},
        "COSPF": {**_SENT_ELSEWHERE, "description": "Assigned to F2F provider"},
        "SPFN": {**_SENT_ELSEWHERE, "description": "Assigned to F2F provider (Housing and Family)"},
        "SPFM": {**_SENT_ELSEWHERE, "description": "Assigned to F2F provider (Debt, Education and Discrimination)"},
        "EDFF": {
            **_SENT_ELSEWHERE,
            "description": "Assigned to F2F provider (Education specialist providers not available)",
        },
    }

    # Where the sender leaves it to the case's category, face to face help is one of these, or else COSPF.
    codes_of_categories: Final = {
        "family": "SPFN",
        "housing": "SPFN",
        "debt": "SPFM",
        "education": "SPFM",
        "discrimination": "SPFM",
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        category = None if case is None else case.category
        return "COSPF" if category is None else self.codes_of_categories.get(category, "COSPF")

    def apply(self, case: CaseState, log: Log) -> None:
        case.reset_callback()


event_registry.register(AlternativeHelp)
