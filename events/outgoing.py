"""What a producer hands over, made into the JSON of one valid event."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from threading import Lock
from time import time_ns
from typing import Any, Final
from uuid import UUID

import msgspec

from events.errors import MalformedEvent
from events.message import Event, parse_event
from events.traceparent import current_traceparent

_encoder: Final = msgspec.json.Encoder()
# AMQP's limit is 255 bytes for the whole routing key; queues are bound by its first word.
_KEY_CHARACTERS_MAX: Final = 240
_stamp_lock: Final = Lock()
_last_stamp = 0


def encode(event: Mapping[str, Any] | Event | bytes | str, source: str | None) -> tuple[bytes, str]:
    """The event's JSON and its type. Raises `MalformedEvent` that names the member.

    Into a mapping are put, where absent: `specversion`, a new `id`, the `source`, and the present time, since a
    producer's clock is the event's own; and `traceparent`, where an OpenTelemetry span is active.
    """
    if isinstance(event, bytes):
        raw = event
    elif isinstance(event, str):
        raw = event.encode(errors="surrogatepass")
    else:
        raw = _encode_members(_members(event) if isinstance(event, Event) else _filled_in(event, source))
    return raw, parse_event(raw).type


def routing_key(event_type: str) -> str:
    """The routing key of an event of that type; the recorder's queue is bound to all of them."""
    is_plain = event_type.isascii() and event_type.isprintable() and len(event_type) <= _KEY_CHARACTERS_MAX
    return f"event.{event_type if is_plain else 'unnamed'}"


def new_id() -> str:
    """A UUID of version 7; each is greater than those before it in this process.

    So events that a producer gives one and the same time keep the order in which it published them.
    """
    global _last_stamp  # noqa: PLW0603 - the order is the process's
    # 48 bits of milliseconds and 12 of their fraction, as RFC 9562 (6.2, method 3) allows.
    milliseconds, nanoseconds = divmod(time_ns(), 1_000_000)
    stamp = (milliseconds << 12) + nanoseconds * 4096 // 1_000_000
    with _stamp_lock:
        stamp = _last_stamp = max(stamp, _last_stamp + 1)
    random = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    return str(UUID(int=(stamp >> 12) << 80 | 7 << 76 | (stamp & 4095) << 64 | 2 << 62 | random))


def _filled_in(event: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    members = dict(event)
    members.setdefault("specversion", "1.0")
    if "id" not in members:
        members["id"] = new_id()
    if source is not None:
        members.setdefault("source", source)
    if "time" not in members:
        members["time"] = datetime.now(UTC)
    if "traceparent" not in members and (traceparent := current_traceparent()) is not None:
        members["traceparent"] = traceparent
    return members


def _members(event: Event) -> dict[str, Any]:
    """The attributes as they stand on the wire: unset ones left out, unknown ones back in their places."""
    members = {name: value for name, value in msgspec.to_builtins(event).items() if value is not None}
    members["data"] = {name: value for name, value in members["data"].items() if value is not None}
    for name, value in members.pop("_extensions", {}).items():
        if name.startswith("data."):
            members["data"][name.removeprefix("data.")] = value
        else:
            members[name] = value
    return members


def _encode_members(members: dict[str, Any]) -> bytes:
    try:
        raw = _encoder.encode(members)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedEvent(f"the event cannot be written as JSON: {error}. Use plain JSON values.") from error
    if b"null" in raw and _holds_no_number(members):  # msgspec writes null, which would change what the producer said
        raise MalformedEvent("the event holds NaN or an infinite number, which JSON does not have: remove it.")
    return raw


def _holds_no_number(value: Any) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(_holds_no_number(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_holds_no_number(item) for item in value)
