"""An operator's timer is started and cancelled. What stops it is any code with `stops_timer` (docs/rules.md §4)."""

from __future__ import annotations

from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.registry import BaseEvent, event_registry


class Timer(BaseEvent):
    key = "timer"
    needs_case = False
    codes = {
        "TIMER_STARTED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.MINOR,
            "selectable_by": [],
            "description": "Timer started",
            "stops_timer": False,
        },
        "TIMER_CANCELLED": {
            "type": LogType.SYSTEM,
            "level": LogLevel.MINOR,
            "selectable_by": [],
            "description": "Timer cancelled",
            "stops_timer": False,
        },
    }
    starts_timer = ("TIMER_STARTED",)
    cancels_timer = ("TIMER_CANCELLED",)


event_registry.register(Timer)
