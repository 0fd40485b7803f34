"""The diagnosis of whether a case is in scope of legal aid."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.apps.legalaid.events import code_of_status
from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log

_CREATED: Final = "DIAGNOSIS_CREATED"


class Diagnosis(BaseEvent):
    key = "diagnosis"
    code_by_params = True
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
        if code == _CREATED:
            read.text(context, "state")
            read.text(context, "category")

    def apply(self, case: CaseState, log: Log) -> None:
        if log.code != _CREATED:  # deleted: with the diagnosis goes what it found of the scope
            case.scope_state = None
            return
        if (state := read.text(log.context, "state")) is not None:
            case.scope_state = state
        if (category := read.text(log.context, "category")) is not None:
            case.category = category


event_registry.register(Diagnosis)
