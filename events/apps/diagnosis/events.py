"""The diagnosis of whether a case is in scope of legal aid."""

from __future__ import annotations

from typing import Any, Final

from events import context as read
from events.apps.legalaid.events import code_of_status
from events.codes import LogLevel, LogType
from events.registry import BaseEvent, event_registry
from events.state import CaseState, Log

# An incomplete diagnosis never came to a state of its own (RULES.md §5 names DIAGNOSIS_… only).
_WITHOUT_STATE: Final = "INCOMPLETE_DIAGNOSIS_DELETED"


class Diagnosis(BaseEvent):
    key = "diagnosis"
    codes = {
        "DIAGNOSIS_CREATED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Diagnosis created",
            "stops_timer": False,
        },
        "INCOMPLETE_DIAGNOSIS_DELETED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Incomplete Diagnosis deleted",
            "stops_timer": False,
        },
        "DIAGNOSIS_DELETED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Diagnosis deleted",
            "stops_timer": False,
        },
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        statuses = {
            "created": "DIAGNOSIS_CREATED",
            "incomplete_deleted": "INCOMPLETE_DIAGNOSIS_DELETED",
            "deleted": "DIAGNOSIS_DELETED",
        }
        return code_of_status(self.key, statuses, params)

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        if code is not None and code != _WITHOUT_STATE:
            read.text(context, "state")

    def apply(self, case: CaseState, log: Log) -> None:
        if log.code != _WITHOUT_STATE and (given := read.text(log.context, "state")) is not None:
            case.scope_state = given


event_registry.register(Diagnosis)
