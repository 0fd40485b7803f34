"""From bytes to events: CloudEvents 1.0 in JSON, one or a batch, checked and decoded with msgspec.

`decode` never raises for what a sender wrote: each event of a message is either an `Event` or a `Malformed`, so one
bad event costs only itself (docs/events.md "Publish an event").
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import msgspec

from caselog.events.errors import MalformedEvent, OversizedMessage, did_you_mean
from caselog.events.model import json_array
from caselog.events.model.codes import NAME_CHARACTERS, Role
from caselog.events.model.envelope import (
    BASE64,
    NESTING_MAX,
    REMEDY,
    may_hold_bad_values,
    names_in,
    open_envelope,
    value_fault,
)
from caselog.events.model.faults import Words, member_faults, misspelt
from caselog.events.model.state import OrderKey

EVENT_BYTES_MAX: Final = 256 * 1024
# What a message may be before its events are told apart: RabbitMQ 4 takes no larger one, and in a batch of 256 KiB
# there are at most so many elements, of two bytes each. So the memory and time that a message costs are bounded
# (docs/decisions/0062).
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
MESSAGE_EVENTS_MAX: Final = 128 * 1024
NOTES_CHARACTERS_MAX: Final = 5_000
EARLIEST_YEAR: Final = 1900
LATEST_YEAR: Final = 9998
EVENT_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"

# (source, id) is one entry of a unique index, which ends at 2,704 bytes: 2 x 255 characters of at most 4 bytes fit.
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS)]


class Actor(msgspec.Struct, frozen=True):
    """Who did it. `provider` is the provider that a specialist works for."""

    id: Identifier
    role: Role | None = None
    provider: Name | None = None


class EventData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: Name | None = None
    actor: Actor | None = None
    notes: Annotated[str, msgspec.Meta(max_length=NOTES_CHARACTERS_MAX)] | None = None
    context: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    patch: dict[str, Any] | list[Any] | None = None


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One CloudEvent. `time` carries its offset; `subject` is the case reference.

    `extensions` holds the attributes (and members of `data`, as "data.<name>") that caselog has no field for.
    """

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    type: Name
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    subject: Identifier | None = None
    data: EventData = EventData()
    datacontenttype: str | None = None
    dataschema: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    # No CloudEvents attribute can have this name (lower-case letters and digits only), so no sender sets it.
    extensions: dict[str, Any] | None = msgspec.field(name="_extensions", default=None)

    @property
    def order_key(self) -> OrderKey:
        return (self.time, self.source, self.id)


class _StrictActor(Actor, frozen=True, forbid_unknown_fields=True):
    """No member of an actor that has no field here."""


class _StrictData(EventData, frozen=True, forbid_unknown_fields=True):
    actor: _StrictActor | None = None


class _StrictEvent(Event, frozen=True, forbid_unknown_fields=True, kw_only=True):
    data: _StrictData = _StrictData()


class Malformed(msgspec.Struct, frozen=True):
    """An event that cannot be read, with what could be made out of its identity."""

    error: MalformedEvent
    source: str | None = None
    event_id: str | None = None
    key: str | None = None
    subject: str | None = None
    code: str | None = None

    @property
    def id(self) -> str | None:
        """As an event has it."""
        return self.event_id


def _said_of_role(role: Any) -> str:
    near = did_you_mean(role, [role.value for role in Role]) if isinstance(role, str) else ""
    return f"must be one of {', '.join(Role)}" + (f" ({near.strip()})" if near else "")


_TIME_RULE: Final = (
    f"must be an RFC 3339 time in the years {EARLIEST_YEAR} to {LATEST_YEAR}, with seconds up to 59 (no leap second) "
    f"and with an offset, Z or as +01:00, such as 2026-11-22T10:15:00.123+01:00"
)
# No value is repeated: whatever stands in the wrong place may be what somebody said of a case.
_WORDS: Final[Words] = {
    "specversion": lambda _: "must be '1.0'",
    "time": lambda _: _TIME_RULE,
    "data.actor.role": _said_of_role,
}
_one: Final = msgspec.json.Decoder(Event)
_strict: Final = msgspec.json.Decoder(_StrictEvent)
_many: Final = msgspec.json.Decoder(list[Event])
_ATTRIBUTES: Final = frozenset(
    field.encode_name for field in msgspec.structs.fields(Event) if field.name != "extensions"
)
_DATA_MEMBERS: Final = frozenset(EventData.__struct_fields__)
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Message:
    """One message of the broker: its bytes, and its events in the order in which they stand in it."""

    def __init__(self, body: bytes, events_max: int) -> None:
        self.body = body
        self.events: list[Event | Malformed] = _decode(body, events_max)

    def raw(self, position: int) -> bytes:
        """The bytes of the event at that position, as the sender wrote them."""
        return self._parts[position] if len(self.events) > 1 else self._single

    @cached_property
    def _parts(self) -> list[bytes]:
        return elements(self.body, len(self.events))

    @cached_property
    def _single(self) -> bytes:
        is_told_apart = isinstance(self.events[0], Event) and json_array.is_array(self.body)
        return self._parts[0] if is_told_apart else self.body


def decode(body: bytes, events_max: int = MESSAGE_EVENTS_MAX) -> Message:
    """Decode a message: a CloudEvent, or an array of them. Whatever the bytes are, at least one entry comes back.

    A message over the limits is one entry, which is malformed by an `OversizedMessage`; its events are not looked at.
    An empty array is one that is malformed: over the broker nobody is told how many events arrived (decision 0106).
    """
    return Message(body, events_max)


def elements(body: bytes, events_max: int = MESSAGE_EVENTS_MAX) -> list[bytes]:
    """The events of a message, each as the sender wrote it, whatever it is. Of an empty batch: none.

    Raises `MalformedEvent` where an array does not close, and `OversizedMessage` where it is over the limits.
    """
    if not json_array.is_array(body):
        return [body]
    if len(body) > MESSAGE_BYTES_MAX:
        raise OversizedMessage(
            f"the message has {len(body):,} bytes, and at most {MESSAGE_BYTES_MAX:,} are allowed: send smaller batches."
        )
    found = json_array.split(body, events_max)
    if found is None:
        raise MalformedEvent(f"the message is no complete JSON array of events. {REMEDY}")
    if len(found) > events_max:
        raise _too_many(events_max)
    return found


def parse_event(raw: bytes) -> Event:
    """One event from its JSON bytes. Raises `MalformedEvent` that names all that is wrong with it, and the remedy."""
    event = _read(raw, _one)
    if event is not None:
        return event
    members, faults = open_event(raw)
    event = None if faults else event_of(raw, members)
    if event is None:
        raise refusal(members, [*faults, *faults_of(members)])
    return event


def parse_strictly(raw: bytes) -> Event | None:
    """One event of which nothing is unknown, neither an attribute nor a member; None for any other. Raises nothing."""
    return _read(raw, _strict)


def open_event(raw: bytes) -> tuple[dict[str, Any], list[str]]:
    """As `open_envelope`, of at most `EVENT_BYTES_MAX`: for who looks at an event member by member, which is slow."""
    if len(raw) > EVENT_BYTES_MAX:
        raise MalformedEvent(
            f"the event has {len(raw):,} bytes, and at most {EVENT_BYTES_MAX:,} are allowed: "
            f"keep documents elsewhere and send a reference in data.context."
        )
    return open_envelope(raw)


def event_of(raw: bytes, members: dict[str, Any]) -> Event | None:
    """The event of these members, which `raw` was opened to, with what has no field here in `extensions`.

    None where something is wrong with it; then `faults_of` says what.
    """
    known = {name: value for name, value in members.items() if name in _ATTRIBUTES}
    extensions = {name: value for name, value in members.items() if name not in _ATTRIBUTES}
    data = members.get("data")
    if isinstance(data, dict):
        known["data"] = {name: value for name, value in data.items() if name in _DATA_MEMBERS}
        extensions |= {f"data.{name}": value for name, value in data.items() if name not in _DATA_MEMBERS}
    try:
        event = msgspec.convert(known | {"_extensions": extensions or None}, Event, str_keys=True)
    except msgspec.ValidationError:
        return None
    is_unseen = BASE64.encode() in raw or may_hold_bad_values(raw)
    return None if not is_in_years(event.time) or (is_unseen and value_fault(members) is not None) else event


def faults_of(members: dict[str, Any]) -> list[str]:
    """All that is wrong with the members of an event, a phrase each. None of it repeats a value."""
    faults = member_faults({name: members[name] for name in _ATTRIBUTES & members.keys()}, Event, _WORDS)
    if _is_in_no_year(members.get("time")):
        faults.append(f"time {_TIME_RULE}")
    fault = value_fault(members)
    return faults if fault is None else [*faults, fault]


def missing_subject(key: str) -> str:
    """What is said of an event of that key that names no case."""
    return f"subject is missing: an event {key!r} is about a case, send its reference"


def misspelt_members(members: dict[str, Any]) -> list[str]:
    """A question for each member of data and of its actor that is nearly a right one, which is not there."""
    data = members.get("data")
    if not isinstance(data, dict):
        return []
    questions = misspelt(data, EventData.__struct_fields__, "data")
    actor = data.get("actor")
    return questions + misspelt(actor, Actor.__struct_fields__, "data.actor") if isinstance(actor, dict) else questions


def refusal(members: dict[str, Any], faults: Sequence[str]) -> MalformedEvent:
    """The error of an event with these faults, which names misspelt members beside them."""
    questions = misspelt(members, _ATTRIBUTES, "the event") + misspelt_members(members)
    return MalformedEvent(" ".join([f"{'; '.join(faults)}.", *questions, REMEDY]))


def _decode(body: bytes, events_max: int) -> list[Event | Malformed]:
    if not json_array.is_array(body):
        return [_event_or_malformed(body)]
    events: list[Event | Malformed]
    if len(body) <= EVENT_BYTES_MAX and b"\\u0000" not in body:
        try:
            events = _all_well(body)
        except (*_FAULTS, MalformedEvent):
            pass  # told apart below, event by event
        else:
            if len(events) > events_max:
                return [Malformed(_too_many(events_max))]
            return events or [Malformed(_empty())]
    try:
        parts = elements(body, events_max)
    except MalformedEvent as error:
        return [Malformed(_light(error))]
    return [_event_or_malformed(part) for part in parts] or [Malformed(_empty())]


def _all_well(body: bytes) -> list[Event | Malformed]:
    """The events of an array in which nothing is wrong; quick. Raises where something is."""
    events = _many.decode(body)
    may_be_deep = body.count(b"[") + body.count(b"{") > NESTING_MAX
    for event in events:
        if not is_in_years(event.time) or (
            may_be_deep and _is_nested(event) and value_fault(msgspec.to_builtins(event)) is not None
        ):
            raise MalformedEvent
    return list(events)


def _empty() -> MalformedEvent:
    return MalformedEvent(f"the batch is empty: there is no event in it. {REMEDY}")


def _too_many(events_max: int) -> OversizedMessage:
    return OversizedMessage(f"the batch has more than {events_max:,} events: send several smaller ones.")


def _event_or_malformed(raw: bytes) -> Event | Malformed:
    try:
        return parse_event(raw)
    except MalformedEvent as error:
        return Malformed(_light(error), *names_in(raw))


def _light(error: MalformedEvent) -> MalformedEvent:
    """The error without the frames and errors that led to it: a message may bring a hundred thousand of them."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _read(raw: bytes, decoder: msgspec.json.Decoder[Event] | msgspec.json.Decoder[_StrictEvent]) -> Event | None:
    """The event, where nothing is wrong and nothing unknown; quick."""
    if len(raw) > EVENT_BYTES_MAX:
        return None
    try:
        event = decoder.decode(raw)
    except _FAULTS:
        return None
    has_bad_values = may_hold_bad_values(raw) and value_fault(msgspec.to_builtins(event)) is not None
    return event if is_in_years(event.time) and not has_bad_values else None


def is_in_years(time: datetime) -> bool:
    """Whether it is in a year that both PostgreSQL and Python hold, in whatever time zone."""
    return EARLIEST_YEAR <= time.year <= LATEST_YEAR


def _is_in_no_year(time: Any) -> bool:
    """Whether it is a time, and in none of the years that are allowed."""
    try:
        return not is_in_years(msgspec.convert(time, datetime))
    except msgspec.ValidationError:
        return False


def _is_nested(event: Event) -> bool:
    """Whether any value inside the event's own objects holds others: where none does, it cannot be too deep."""
    for part in (event.data.context, event.data.params, event.data.patch, event.extensions):
        if part:
            for item in part.values() if isinstance(part, dict) else part:
                if isinstance(item, dict | list):
                    return True
    return False
