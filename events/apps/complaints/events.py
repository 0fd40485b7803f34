"""A complaint about how a case was handled: created, owned, answered, closed, voided and reopened."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType, Role
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log

_BY_ANYONE: Final[dict[str, Any]] = {
    "type": LogType.SYSTEM,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "stops_timer": False,
}
_BY_OPERATOR: Final[dict[str, Any]] = {**_BY_ANYONE, "selectable_by": [Role.OPERATOR]}


class Complaint(BaseEvent):
    """`context.complaint` names the complaint; without it the case's one unnamed one is meant (docs/rules.md §5.7)."""

    key = "complaint"
    codes = {
        "COMPLAINT_CREATED": {**_BY_ANYONE, "description": "Complaint created"},
        "OWNER_SET": {**_BY_ANYONE, "description": "Complaint owner set"},
        "COMPLAINT_NOTE": {**_BY_OPERATOR, "level": LogLevel.MINOR, "description": "Complaint note"},
        "HOLDING_LETTER_SENT": {**_BY_OPERATOR, "description": "Complaint holding letter sent"},
        "FULL_RESPONSE_SENT": {**_BY_OPERATOR, "description": "Complaint full response sent"},
        "TRANSFERRED_TO_SPECIALIST": {**_BY_OPERATOR, "description": "Complaint transferred to specialist"},
        "COMPLAINT_CLOSED": {**_BY_OPERATOR, "description": "Complaint closed"},
        "COMPLAINT_VOID": {**_BY_OPERATOR, "description": "Complaint voided"},
        "COMPLAINT_REOPENED": {**_BY_ANYONE, "description": "Complaint reopened"},
    }

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        read.text(context, "complaint")

    def apply(self, case: CaseState, log: Log) -> None:
        name = read.text(log.context, "complaint") or ""
        if log.code in ("COMPLAINT_CREATED", "COMPLAINT_REOPENED"):
            case.open_complaints = tuple(sorted({*case.open_complaints, name}))
            case.complaint_flag = True
        elif log.code in ("COMPLAINT_CLOSED", "COMPLAINT_VOID"):
            case.open_complaints = tuple(other for other in case.open_complaints if other != name)
            case.complaint_flag = bool(case.open_complaints)


event_registry.register(Complaint)
