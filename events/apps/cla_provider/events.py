"""Specialist providers open, accept, reject, close, reopen and split the cases that are assigned to them."""

from __future__ import annotations

from typing import Any, Final

from caselog.events.apps.provider_views import viewed_by_provider, viewed_under_timer
from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log


def has_provider(case: CaseState) -> bool:
    """Without one, never assigned or sent back, a case is accepted and closed in nobody's list: only an outcome."""
    return case.provider is not None


class AcceptCase(BaseEvent):
    key = "accept_case"
    codes = {
        "SPOP": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Case taken",
            "stops_timer": False,
            "set_requires_action_by": RequiresActionBy.PROVIDER,
        },
    }

    def acts_on(self, case: CaseState, log: Log) -> bool:
        return has_provider(case)

    def apply(self, case: CaseState, log: Log) -> None:
        if case.provider_accepted is None:  # an assignment empties it: the first since then counts
            case.provider_accepted = log.occurred_at
        case.provider_closed = None


class RejectCase(BaseEvent):
    key = "reject_case"
    codes = {
        "MIS-OOS": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Misdiagnosed, out of scope",
            "stops_timer": False,
            "order": 10,
            "set_requires_action_by": None,
        },
        "MIS-MEANS": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Misdiagnosed, means test isn't correct",
            "stops_timer": False,
            "order": 20,
            "set_requires_action_by": None,
        },
        "COI": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.SPECIALIST],
            "description": "Conflict of Interest",
            "stops_timer": False,
            "order": 30,
            "set_requires_action_by": RequiresActionBy.OPERATOR,
        },
        "MIS": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Misdiagnosed, assigned to wrong Specialist or another Specialist is dealing with client",
            "stops_timer": False,
            "order": 40,
            "set_requires_action_by": RequiresActionBy.OPERATOR,
        },
        "MERI": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.SPECIALIST],
            "description": "Merits - not eligible",
            "stops_timer": False,
            "order": 50,
            "set_requires_action_by": None,
        },
        "DUPL": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.SPECIALIST],
            "description": "Duplicate case",
            "stops_timer": False,
            "order": 60,
            "set_requires_action_by": None,
        },
        "CLOT": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [Role.SPECIALIST],
            "description": "Other",
            "stops_timer": False,
            "order": 70,
            "set_requires_action_by": None,
        },
    }
    # The case goes back to the call centre, to be assigned to somebody else.
    back_to_operator = frozenset({"COI", "MIS"})

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        if read.flag(params, "is_conflict", where="params"):
            return "COI"
        return super().get_log_code(case, **params)

    def acts_on(self, case: CaseState, log: Log) -> bool:
        return log.code in self.back_to_operator or has_provider(case)

    def apply(self, case: CaseState, log: Log) -> None:
        if log.code in self.back_to_operator:
            case.provider = case.provider_assigned_at = None
            case.provider_viewed = case.provider_accepted = case.provider_closed = None
        else:
            case.provider_closed = log.occurred_at


class OpenCase(BaseEvent):
    key = "open_case"
    codes = {
        "CASE_VIEWED": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Case opened by provider",
            "stops_timer": False,
            "set_requires_action_by": RequiresActionBy.PROVIDER,
        },
    }

    def apply(self, case: CaseState, log: Log) -> None:
        viewed_under_timer(case, log)
        viewed_by_provider(case, log)


_CLOSED: Final[dict[str, Any]] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "stops_timer": False,
    "set_requires_action_by": None,
}


class CloseCase(BaseEvent):
    key = "close_case"
    codes = {
        "CLSP": {**_CLOSED, "description": "Closed SP Case"},
        "DREFER": {**_CLOSED, "description": "Arranged an appointment with a F2F specialist"},
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        return "DREFER" if read.flag(params, "is_debt_referral", where="params") else "CLSP"

    def acts_on(self, case: CaseState, log: Log) -> bool:
        return has_provider(case)

    def apply(self, case: CaseState, log: Log) -> None:
        case.provider_closed = log.occurred_at


class ReopenCase(BaseEvent):
    key = "reopen_case"
    codes = {
        "REOPEN": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Reopened SP Case",
            "stops_timer": False,
        },
    }

    def acts_on(self, case: CaseState, log: Log) -> bool:
        return has_provider(case)

    def apply(self, case: CaseState, log: Log) -> None:
        case.provider_closed = None


class SplitCase(BaseEvent):
    """A new case is split off. The original case gets its REF-…_CREATED as an event of its own, with the code given."""

    key = "split_case"
    codes = {
        "REF-EXT_CREATED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Split case created and referred externally",
            "stops_timer": False,
        },
        "REF-INT_CREATED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Split case created and referred internally",
            "stops_timer": False,
        },
        "REF-INT": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Referred internally",
            "stops_timer": False,
        },
        "REF-EXT": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Referred externally",
            "stops_timer": False,
        },
    }

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        return "REF-INT" if read.flag(params, "internal", where="params") else "REF-EXT"


for event in (AcceptCase, RejectCase, OpenCase, CloseCase, ReopenCase, SplitCase):
    event_registry.register(event)
