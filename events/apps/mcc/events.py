"""The category of law of a case is changed."""

from __future__ import annotations

from typing import Any

from caselog.events.model import context as read
from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.registry import BaseEvent, event_registry
from caselog.events.model.state import CaseState, Log


class ChangeCategory(BaseEvent):
    key = "change_category"
    codes = {
        "CATEGORY_CHANGED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "Category of law changed",
            "stops_timer": False,
        },
    }

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        read.text(context, "new_category")

    def apply(self, case: CaseState, log: Log) -> None:
        if (given := read.text(log.context, "new_category")) is not None:
            case.category = given


event_registry.register(ChangeCategory)
