"""What can happen to a ticket of a help desk. Use it with CASELOG_APPS=examples.helpdesk."""

from __future__ import annotations

from typing import Any, Final

from caselog.events import BaseEvent, LogLevel, LogType, event_registry
from caselog.events.model import context as read
from caselog.events.model.state import CaseState, Log

# A ticket is what caselog calls a case: columns of the case, and where a help desk has the value for them.
COLUMNS: Final = {"category": "product", "organisation": "customer"}


class Ticket(BaseEvent):
    """A ticket comes into being."""

    key = "ticket"
    codes = {
        "CREATED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Ticket created",
            "stops_timer": False,
        },
    }
    creates_case = ("CREATED",)

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        for member in COLUMNS.values():
            read.text(context, member)

    def apply(self, case: CaseState, log: Log) -> None:
        for column, member in COLUMNS.items():
            setattr(case, column, read.text(log.context, member))


# What most steps have in common: an outcome that becomes the ticket's `outcome_code`.
_STEP: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "stops_timer": False,
}


class Work(BaseEvent):
    """A step of the work on a ticket."""

    key = "work"
    codes = {
        "INSERTED": {**_STEP, "description": "Insert ticket", "order": 10},
        "SERIOUSNESS": {**_STEP, "description": "Assign seriousness", "order": 20},
        "TAKEN": {**_STEP, "description": "Take in charge ticket", "order": 30},
        # It can be read in the log and counts in reports, but it is not where a ticket stands.
        "WAITING": {**_STEP, "level": LogLevel.MODERATE, "description": "Wait", "order": 40},
        "UPGRADE": {**_STEP, "description": "Require upgrade", "order": 50},
        "INTERVENTION": {**_STEP, "description": "Schedule intervention", "order": 60},
        "RESOLVED": {**_STEP, "description": "Resolve ticket", "order": 70},
        # Nobody has the next move on a closed ticket.
        "CLOSED": {**_STEP, "description": "Closed", "order": 80, "set_requires_action_by": None},
    }

    def apply(self, case: CaseState, log: Log) -> None:
        # `state` of the case is then "rejected" or "completed" for a closed ticket.
        if log.code == "TAKEN" and case.provider_accepted is None:
            case.provider_accepted = log.occurred_at
        case.provider_closed = log.occurred_at if log.code == "CLOSED" else None


class Anomaly(BaseEvent):
    """The developers' side: a fault of the software behind the ticket."""

    key = "anomaly"
    codes = {
        "CREATED": {**_STEP, "type": LogType.EVENT, "description": "Create SW anomaly"},
        "RESOLVED": {**_STEP, "type": LogType.EVENT, "description": "Resolve SW anomaly"},
    }


class Verdict(BaseEvent):
    """What the bug tracker said in the end."""

    key = "verdict"
    codes = {
        "VERIFIED": {**_STEP, "description": "Fix verified"},
        "RESOLVED": {**_STEP, "description": "Fault resolved"},
        "INVALID": {**_STEP, "description": "No fault"},
        "DUPLICATE": {**_STEP, "description": "Known fault"},
    }


for event in (Ticket, Work, Anomaly, Verdict):
    event_registry.register(event)
