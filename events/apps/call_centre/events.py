"""Operators assign cases to providers, put the assignment off, note that help was declined, and call back."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.errors import EventRejected
from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log

_ASSIGNED: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "stops_timer": True,
    "set_requires_action_by": RequiresActionBy.PROVIDER_REVIEW,
}


class AssignToProvider(BaseEvent):
    key = "assign_to_provider"
    codes = {
        "REFSP": {**_ASSIGNED, "description": "Referred to Specialist"},
        "MANALC": {**_ASSIGNED, "description": "Manually allocated to Specialist"},
        "MANREF": {**_ASSIGNED, "description": "Manually allocated to Specialist for course-correction"},
        "SPOR": {**_ASSIGNED, "description": "Referred to Specialist for second opinion"},
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        for name, code in (("is_spor", "SPOR"), ("is_manual_ref", "MANREF"), ("is_manual", "MANALC")):
            if read.flag(params, name, where="params"):
                return code
        return "REFSP"

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        read.required_text(context, "provider")

    def apply(self, case: CaseState, log: Log) -> None:
        case.provider = read.required_text(log.context, "provider")
        case.provider_assigned_at = log.occurred_at
        case.provider_viewed = case.provider_accepted = case.provider_closed = None
        case.reset_callback()


class DeferAssignment(BaseEvent):
    key = "defer_assignment"
    codes = {
        "CBSP": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.OPERATOR],
            "description": "Will call back later for Specialist",
            "stops_timer": True,
        },
    }


_DECLINED: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [Role.OPERATOR],
    "stops_timer": True,
    "set_requires_action_by": RequiresActionBy.none_if_owned_by_operator_or_manager,
}


class DeclineHelp(BaseEvent):
    key = "decline_help"
    codes = {
        "DESP": {**_DECLINED, "description": "Client declined Specialist"},
        "DECL": {**_DECLINED, "description": "Client declined all help options"},
        "NRES": {**_DECLINED, "description": "No resources available to help"},
    }


_CALLBACK: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [Role.OPERATOR],
    "stops_timer": True,
    "set_requires_action_by": RequiresActionBy.OPERATOR,
}


class CallMeBack(BaseEvent):
    key = "call_me_back"
    codes = {
        # The public web form asks for callbacks.
        "CB1": {**_CALLBACK, "description": "Callback 1", "selectable_by": [Role.OPERATOR, Role.WEB]},
        "CB2": {**_CALLBACK, "description": "Callback 2"},
        "CB3": {**_CALLBACK, "description": "Callback 3"},
        "PCB": {**_CALLBACK, "description": "Priority callback"},
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        if read.flag(params, "priority_callback", where="params"):
            return "PCB"
        attempts = 0 if case is None else case.callback_attempt
        if attempts >= 3:  # noqa: PLR2004 - there are CB1, CB2 and CB3
            raise EventRejected(
                f"the case has had {attempts} callbacks, and CB3 is the last: close or assign the case, cancel the "
                f"callback (stop_call_me_back), or send params.priority_callback."
            )
        return ("CB1", "CB2", "CB3")[attempts]

    def get_repeated_code(self, case: CaseState, context: dict[str, Any]) -> str | None:
        """One at the moment that is awaited already was sent twice: it is that callback again, and not the next."""
        if case.requires_action_at is None or read.required_moment(context, "requires_action_at") != (
            case.requires_action_at
        ):
            return None
        return case.callback_code

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        read.required_moment(context, "requires_action_at")

    def apply(self, case: CaseState, log: Log) -> None:
        case.requires_action_at = read.required_moment(log.context, "requires_action_at")
        case.callback_attempt += 1
        case.callback_code = log.code
        case.called_back = True
        case.call_started = False  # the next CALL_STARTED counts again (docs/rules.md §3.3)


class StopCallMeBack(BaseEvent):
    key = "stop_call_me_back"
    codes = {
        "CBC": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.OPERATOR],
            "description": "Callback Cancelled",
            "stops_timer": True,
            "set_requires_action_by": RequiresActionBy.none_if_owned_by_operator_or_manager,
        },
        "CALLBACK_COMPLETE": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Callback complete",
            "stops_timer": False,
        },
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        cancel = read.flag(params, "cancel", where="params")
        complete = read.flag(params, "complete", where="params")
        if not cancel and not complete:
            raise EventRejected("params say neither cancel nor complete: send one of them as true, or data.code.")
        if case is None or case.callback_attempt == 0:
            raise EventRejected("the case has no callback to stop: log the callback first (call_me_back).")
        return "CBC" if cancel else "CALLBACK_COMPLETE"

    def apply(self, case: CaseState, log: Log) -> None:
        case.reset_callback()


for event in (AssignToProvider, DeferAssignment, DeclineHelp, CallMeBack, StopCallMeBack):
    event_registry.register(event)
