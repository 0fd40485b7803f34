"""What a producer hands over, made into the JSON of one valid event."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from threading import Lock
from time import time_ns
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

import msgspec

from caselog.events.errors import MalformedEvent
from caselog.events.model.envelope import REMEDY, is_json_type
from caselog.events.model.message import (
    Event,
    event_of,
    faults_of,
    missing_subject,
    misspelt_members,
    open_event,
    parse_strictly,
    refusal,
)
from caselog.events.model.registry import event_registry
from caselog.events.model.traceparent import current_traceparent
from caselog.events.phrases import sentence

# The keys of the bundled apps whose events are about a case. A producer has no registry, and these it knows.
CASE_KEYS: Final = frozenset({
    "accept_case", "alternative_help", "assign_to_provider", "call_me_back", "case", "change_category", "close_case",
    "complaint", "decline_help", "defer_assignment", "diagnosis", "means_test", "open_case", "reject_case",
    "reopen_case", "split_case", "stop_call_me_back", "suspend_case",
})  # fmt: skip
_encoder: Final = msgspec.json.Encoder()
# AMQP's limit is 255 bytes for the whole routing key; queues are bound by its first word.
_KEY_CHARACTERS_MAX: Final = 240
_stamp_lock: Final = Lock()
_last_stamp = 0


@runtime_checkable
class CloudEvent(Protocol):
    """An event of the CloudEvents SDK (the package `cloudevents`), as every class of its versions 1 and 2 is."""

    def get_attributes(self) -> Mapping[str, Any]: ...

    def get_data(self) -> Any: ...


Publishable: TypeAlias = Mapping[str, Any] | Event | CloudEvent | bytes | str
"""An event as a producer has it."""


def encode(event: Publishable, source: str | None) -> tuple[bytes, str]:
    """The event's JSON and its type. Raises `MalformedEvent` as `check_event` does.

    Into a mapping, and an event of the SDK, are put, where absent: `specversion`, a new `id`, the `source`, and the
    present time, since a producer's clock is the event's own; and `traceparent`, where an OpenTelemetry span is active.
    """
    if isinstance(event, bytes):
        raw = event
    elif isinstance(event, str):
        raw = event.encode(errors="surrogatepass")
    elif isinstance(event, Event):
        raw = _encode_members(_members(event))
    elif isinstance(event, Mapping):
        raw = _encode_members(_filled_in(event, source))
    elif isinstance(event, CloudEvent):
        raw = _encode_members(_filled_in(_members_of_sdk(event), source))
    else:
        raise MalformedEvent(
            f"an event is a mapping of CloudEvents attributes, an Event, an event of the package cloudevents, or one "
            f"event in JSON, got {type(event).__name__}. Several are for publish_many."
        )
    return raw, check_event(raw).type


def check_event(raw: bytes) -> Event:
    """The event of these bytes, where a producer may send it.

    Raises `MalformedEvent` that names all that is wrong with it: what a recorder would call malformed, and what a
    recorder would call so only with its registry and is known without one here, a missing subject. A member that is
    misspelt is refused as well, where the right one is not there: it would be kept, and looked at by nobody.
    """
    event = parse_strictly(raw)
    if event is not None and (event.subject is not None or not _needs_subject(event.type)):
        return event
    members, faults = open_event(raw)
    event = None if faults else event_of(raw, members)
    key = members.get("type")
    lacks_subject = members.get("subject") is None and isinstance(key, str) and _needs_subject(key)
    missing = [missing_subject(str(key))] if lacks_subject else []
    if event is None:
        raise refusal(members, [*missing, *faults, *faults_of(members)])
    questions = misspelt_members(members)
    if lacks_subject:
        raise MalformedEvent(" ".join([f"{missing[0]}.", *questions]))  # as the recorder says it
    if questions:
        raise MalformedEvent(" ".join([*questions, "A member of your own needs a name that is not so near.", REMEDY]))
    return event


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


def _needs_subject(key: str) -> bool:
    """Whether an event of that key is about a case, as far as anybody knows in this process."""
    _, registered = event_registry.find(key, "")
    return key in CASE_KEYS if registered is None else registered.cls.needs_case


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


def _members_of_sdk(event: CloudEvent) -> dict[str, Any]:
    """As `_members`. Data that is text or bytes is taken for JSON, unless its content type says something else."""
    members = {name: value for name, value in event.get_attributes().items() if value is not None}
    data, kind = event.get_data(), members.get("datacontenttype")
    if isinstance(data, str | bytes):
        if isinstance(kind, str) and not is_json_type(kind):
            raise MalformedEvent(f"the event's data is of the content type {kind!r}: send a JSON object.")
        try:
            msgspec.json.decode(data)  # what is put into the event as it stands must be one JSON value
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise MalformedEvent(f"the event's data is no JSON: {sentence(error)} {REMEDY}") from None
        data = msgspec.Raw(data)
    return members if data is None else {**members, "data": data}


def _encode_members(members: dict[str, Any]) -> bytes:
    try:
        raw = _encoder.encode(members)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedEvent(
            f"the event cannot be written as JSON: {sentence(error)} Use plain JSON values."
        ) from error
    if b"null" in raw and _holds_no_number(members):  # msgspec writes null, which would change what the producer said
        raise MalformedEvent("the event holds NaN or an infinite number, which JSON does not have: remove it.")
    return raw


def _holds_no_number(value: Any) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(_holds_no_number(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_holds_no_number(item) for item in value)
