"""A code without effect of its own, for tests that register event classes."""

from __future__ import annotations

from typing import Any

from caselog.events.model.codes import LogLevel, LogType

FIELDS: dict[str, Any] = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "description": "d",
    "stops_timer": False,
}
