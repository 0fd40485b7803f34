"""A case's creation, views and flags; its means test; calls that ended without an assignment."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.apps.provider_views import viewed_by_provider, viewed_under_timer
from caselog.events.errors import CodeNotResolved
from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log

SOURCES: Final = ("PHONE", "VOICEMAIL", "SMS", "WEB")
# A case reference may have as many characters as an event's subject.
REFERENCE_CHARACTERS: Final = 255


def code_of_status(key: str, codes: dict[str, str], params: dict[str, Any]) -> str:
    """The code that `params.status` stands for. Raises `CodeNotResolved` where it stands for none."""
    status = params.get("status")
    if isinstance(status, str) and status in codes:
        return codes[status]
    raise CodeNotResolved(
        f"event {key!r} has no code, and params.status is none of {', '.join(codes)}: send one of these, or data.code."
    )


class CaseEvent(BaseEvent):
    key = "case"
    codes = {
        "CASE_CREATED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Case created",
            "stops_timer": False,
        },
        "CASE_VIEWED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.MINOR,
            "selectable_by": [],
            "description": "Case viewed",
            "stops_timer": False,
        },
        "CASE_ORGANISATION_SET": {
            "type": LogType.SYSTEM,
            "level": LogLevel.MINOR,
            "selectable_by": [],
            "description": "Case organisation set",
            "stops_timer": False,
        },
        "COMPLAINT_FLAG_TOGGLED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.MINOR,
            "selectable_by": [],
            "description": "Complaint flag toggled",
            "stops_timer": False,
        },
        "CALL_STARTED": {
            "type": LogType.EVENT,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.OPERATOR],
            "description": "Operator started call",
            "stops_timer": False,
        },
    }
    creates_case = ("CASE_CREATED",)
    code_by_params = True

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        statuses = {
            "created": "CASE_CREATED",
            "viewed": "CASE_VIEWED",
            "complaint_flag_toggled": "COMPLAINT_FLAG_TOGGLED",
            "call_started": "CALL_STARTED",
        }
        return code_of_status(self.key, statuses, params)

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        if code == "CASE_CREATED":
            # What it sets is what it reads: a case that nobody will see is the simplest check.
            _create(CaseState(reference=""), context)
        elif code == "CASE_ORGANISATION_SET":
            read.text(context, "organisation")
        elif code == "COMPLAINT_FLAG_TOGGLED":
            read.flag(context, "complaint_flag")

    def suppresses(self, case: CaseState, log: Log) -> bool:
        if log.code == "CASE_VIEWED":  # docs/rules.md §3.2
            return log.timer_id is not None and log.timer_id in case.viewed_timers
        return log.code == "CALL_STARTED" and case.call_started  # docs/rules.md §3.3

    def apply(self, case: CaseState, log: Log) -> None:
        if log.code in ("CASE_CREATED", "CASE_VIEWED"):
            viewed_under_timer(case, log)
        if log.code == "CASE_CREATED":
            _create(case, log.context)
        elif log.code == "CASE_VIEWED":
            viewed_by_provider(case, log)
        elif log.code == "CALL_STARTED":
            case.call_started = True
        elif log.code == "CASE_ORGANISATION_SET":
            if (organisation := read.text(log.context, "organisation")) is not None:
                case.organisation = organisation
        elif log.code == "COMPLAINT_FLAG_TOGGLED":
            given = read.flag(log.context, "complaint_flag")
            case.complaint_flag = True if given is None else given


def _create(case: CaseState, context: dict[str, Any]) -> None:
    case.source = read.one_of(context, "source", SOURCES) or "PHONE"
    case.category = read.text(context, "category")
    case.organisation = read.text(context, "organisation")
    case.eligibility_state = read.text(context, "eligibility_state")
    case.from_case = read.text(context, "from_case", most=REFERENCE_CHARACTERS)
    if case.from_case is None:
        return
    case.provider = read.text(context, "provider")
    case.provider_assigned_at = read.moment(context, "provider_assigned_at")
    if "requires_action_by" in context:  # null says that nobody has the next move
        case.requires_action_by = read.one_of(context, "requires_action_by", RequiresActionBy)


class MeansTest(BaseEvent):
    key = "means_test"
    code_by_params = True
    codes = {
        "MT_CREATED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Means test created",
            "stops_timer": False,
        },
        "MT_CHANGED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Means test changed",
            "stops_timer": False,
        },
        "MT_PASSED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Means test passed",
            "stops_timer": False,
        },
        "MT_FAILED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Means test failed",
            "stops_timer": False,
        },
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        statuses = {
            "created": "MT_CREATED",
            "changed": "MT_CHANGED",
            "passed": "MT_PASSED",
            "failed": "MT_FAILED",
        }
        return code_of_status(self.key, statuses, params)

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        read.text(context, "state")

    def apply(self, case: CaseState, log: Log) -> None:
        if (given := read.text(log.context, "state")) is not None:
            case.eligibility_state = given


# The call ended without an assignment: what the codes of `suspend_case` have in common.
_CALL_ENDED: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [Role.OPERATOR],
    "stops_timer": True,
    "set_requires_action_by": RequiresActionBy.none_if_owned_by_operator_or_manager,
}
_SPECIALISTS_TOO: Final = {"selectable_by": [Role.OPERATOR, Role.SPECIALIST]}


class SuspendCase(BaseEvent):
    key = "suspend_case"
    codes = {
        "INSUF": {**_CALL_ENDED, "description": "Not enough info to continue", "order": 10},
        "ABND": {**_CALL_ENDED, **_SPECIALISTS_TOO, "description": "Client abandoned call", "order": 20},
        "TERM": {**_CALL_ENDED, **_SPECIALISTS_TOO, "description": "Hung up call", "order": 30},
        "IRCB": {
            **_CALL_ENDED,
            "description": "Booked appointment with senior member of staff",
            "order": 40,
            "set_requires_action_by": RequiresActionBy.OPERATOR_MANAGER,
        },
        "COPE": {**_CALL_ENDED, "description": "Case opened in error", "order": 50},
        "DUPL": {**_CALL_ENDED, "description": "Duplicate", "order": 60},
        "WROF": {
            **_CALL_ENDED,
            "description": "Write off case - use only under senior instruction",
            "order": 70,
        },
        "RDSP": {**_CALL_ENDED, "description": "Sent back to Specialist", "order": 80},
        "SAME": {**_CALL_ENDED, "description": "Read out prior alternate help", "order": 90},
        "MRNB": {**_CALL_ENDED, "description": "Manager reviewed non-billable", "order": 100},
        "MRCC": {**_CALL_ENDED, "description": "Manager reviewed compliant case", "order": 110},
        "REFDPA": {**_CALL_ENDED, "description": "Refused DPA", "order": 120},
        "RELBD": {**_CALL_ENDED, "description": "Don't transfer / COI identifier", "order": 130},
        "RSTR": {**_CALL_ENDED, "description": "Restricted from service", "order": 140},
        "NOLA": {**_CALL_ENDED, "description": "No Legal Aid", "order": 150},
    }


event_registry.register(CaseEvent)
event_registry.register(MeansTest)
event_registry.register(SuspendCase)
