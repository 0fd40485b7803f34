"""What can happen to a case: the event classes and their codes, the message, the fold, and the producers' Publisher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caselog.events.errors import BufferFull, EventRejected, MalformedEvent, PublisherClosed, PublishError
from caselog.events.model.codes import LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.registry import BaseEvent, autodiscover, event_registry

if TYPE_CHECKING:
    from caselog.events.transport.publisher import Publisher

__all__ = [
    "BaseEvent",
    "BufferFull",
    "EventRejected",
    "LogLevel",
    "LogType",
    "MalformedEvent",
    "PublishError",
    "Publisher",
    "PublisherClosed",
    "RequiresActionBy",
    "Role",
    "autodiscover",
    "event_registry",
]


def __getattr__(name: str) -> Any:
    """Give out the Publisher when it is first asked for: it needs kombu, which an app's `events.py` does not."""
    if name == "Publisher":
        from caselog.events.transport.publisher import Publisher  # noqa: PLC0415 - see above

        return Publisher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
