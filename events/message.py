"""From bytes to events: CloudEvents 1.0 in JSON, one or a batch, checked and decoded with msgspec.

`decode` never raises for what a sender wrote: each event of a message is either an `Event` or a `Malformed`, so one
bad event costs only itself (DESIGN.md "The message").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from events.codes import NAME_CHARACTERS, Role
from events.errors import MalformedEvent, OversizedMessage
from events.state import OrderKey

EVENT_BYTES_MAX: Final = 256 * 1024
# What a message may be before its events are told apart: RabbitMQ 4 takes no larger one, and in a batch of 256 KiB
# there are at most so many elements, of two bytes each. So the memory and time that a message costs are bounded
# (docs/decisions/0062).
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
MESSAGE_EVENTS_MAX: Final = 128 * 1024
NOTES_CHARACTERS_MAX: Final = 5_000
NESTING_MAX: Final = 64
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


class Malformed(msgspec.Struct, frozen=True):
    """An event that cannot be read, with what could be made out of its identity."""

    error: MalformedEvent
    source: str | None = None
    event_id: str | None = None
    key: str | None = None
    subject: str | None = None
    code: str | None = None


class _Names(msgspec.Struct, frozen=True):
    """Where a malformed event says what it is; nothing else of it is unpacked, however large it is."""

    source: msgspec.Raw = msgspec.Raw(b"null")
    id: msgspec.Raw = msgspec.Raw(b"null")
    type: msgspec.Raw = msgspec.Raw(b"null")
    subject: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Code(msgspec.Struct, frozen=True):
    code: msgspec.Raw = msgspec.Raw(b"null")


_one: Final = msgspec.json.Decoder(Event)
_many: Final = msgspec.json.Decoder(list[Event])
_lenient: Final = msgspec.json.Decoder(dict[str, Any])
_ATTRIBUTES: Final = frozenset(
    field.encode_name for field in msgspec.structs.fields(Event) if field.name != "extensions"
)
_DATA_MEMBERS: Final = frozenset(EventData.__struct_fields__)
_REMEDY: Final = "Send a CloudEvents 1.0 event in JSON as docs/events.md describes it."
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Members = TypeVar("_Members", _Names, _Code)


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
        return _split(self.body, len(self.events))

    @cached_property
    def _single(self) -> bytes:
        is_told_apart = isinstance(self.events[0], Event) and self.body.lstrip()[:1] == b"["
        return self._parts[0] if is_told_apart else self.body


def decode(body: bytes, events_max: int = MESSAGE_EVENTS_MAX) -> Message:
    """Decode a message: a CloudEvent, or an array of them. Whatever the bytes are, at least one entry comes back.

    A message over the limits is one entry, which is malformed by an `OversizedMessage`; its events are not looked at.
    """
    return Message(body, events_max)


def parse_event(raw: bytes) -> Event:
    """One event from its JSON bytes. Raises `MalformedEvent` that names the member and the remedy."""
    if len(raw) > EVENT_BYTES_MAX:
        raise MalformedEvent(
            f"the event has {len(raw):,} bytes, and at most {EVENT_BYTES_MAX:,} are allowed: "
            f"keep documents elsewhere and send a reference in data.context."
        )
    try:
        event = _one.decode(raw)
    except _FAULTS as error:
        event = _with_extensions(raw, error)
    _check_time(event)
    if raw.count(b"[") + raw.count(b"{") > NESTING_MAX or b"\\u0000" in raw:
        _check_values(msgspec.to_builtins(event), NESTING_MAX)
    return event


def _decode(body: bytes, events_max: int) -> list[Event | Malformed]:
    if body.lstrip()[:1] != b"[":
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
            return events or [Malformed(MalformedEvent(f"the batch is empty: there is no event in it. {_REMEDY}"))]
    try:
        parts = _split(body, events_max)
    except OversizedMessage as error:
        return [Malformed(_light(error))]
    if not parts:
        return [Malformed(MalformedEvent(f"the message is no complete JSON array of events. {_REMEDY}"))]
    return [_event_or_malformed(part) for part in parts]


def _all_well(body: bytes) -> list[Event | Malformed]:
    """The events of an array in which nothing is wrong; quick. Raises where something is."""
    events = _many.decode(body)
    may_be_deep = body.count(b"[") + body.count(b"{") > NESTING_MAX
    for event in events:
        _check_time(event)
        if may_be_deep and _is_nested(event):
            _check_values(msgspec.to_builtins(event), NESTING_MAX)
    return list(events)


def _too_many(events_max: int) -> OversizedMessage:
    return OversizedMessage(f"the batch has more than {events_max:,} events: send several smaller ones.")


def _event_or_malformed(raw: bytes) -> Event | Malformed:
    try:
        return parse_event(raw)
    except MalformedEvent as error:
        return _malformed(raw, _light(error))


def _light(error: MalformedEvent) -> MalformedEvent:
    """The error without the frames and errors that led to it: a message may bring a hundred thousand of them."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _malformed(raw: bytes, error: MalformedEvent) -> Malformed:
    names = _members(raw, _Names)
    if names is None:
        return Malformed(error)
    data = _members(names.data, _Code)
    code = None if data is None else _text(data.code)
    return Malformed(error, _text(names.source), _text(names.id), _text(names.type), _text(names.subject), code)


def _members(raw: bytes | msgspec.Raw, kind: type[_Members]) -> _Members | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except _FAULTS:
        return None


def _text(value: msgspec.Raw) -> str | None:
    """What may be made out of a name; None where it is no text."""
    try:
        text = msgspec.json.decode(value, type=str)
    except _FAULTS:
        return None
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:255]


def _with_extensions(raw: bytes, error: Exception) -> Event:
    """Decode an event that has attributes of its own, keeping them; the error again where that is not what is wrong."""
    try:
        members = _lenient.decode(raw)
        data = members.get("data")
        extensions = {name: members.pop(name) for name in list(members) if name not in _ATTRIBUTES}
        if "data_base64" in extensions:
            raise MalformedEvent(f"data_base64 is not understood: send data as a JSON object. {_REMEDY}") from error
        if isinstance(data, dict):
            extensions |= {f"data.{name}": data.pop(name) for name in list(data) if name not in _DATA_MEMBERS}
        if not extensions:
            raise error
        members["_extensions"] = extensions
        return msgspec.convert(members, Event, str_keys=True)
    except RecursionError:
        raise MalformedEvent(f"the event is nested too deeply. {_REMEDY}") from None
    except _FAULTS as fault:
        raise MalformedEvent(f"{fault}. {_REMEDY}") from None


def _check_time(event: Event) -> None:
    if not EARLIEST_YEAR <= event.time.year <= LATEST_YEAR:
        raise MalformedEvent(
            f"time has the year {event.time.year}, and {EARLIEST_YEAR} to {LATEST_YEAR} are allowed. {_REMEDY}"
        )


def _is_nested(event: Event) -> bool:
    """Whether any value inside the event's own objects holds others: where none does, it cannot be too deep."""
    for part in (event.data.context, event.data.params, event.data.patch, event.extensions):
        if part:
            for item in part.values() if isinstance(part, dict) else part:
                if isinstance(item, dict | list):
                    return True
    return False


def _check_values(value: Any, levels: int) -> None:
    if levels == 0:
        raise MalformedEvent(f"the event is nested more than {NESTING_MAX} levels deep. {_REMEDY}")
    if isinstance(value, str) and "\x00" in value:
        raise MalformedEvent("the event holds a NUL character (\\u0000), which PostgreSQL cannot store: remove it.")
    if isinstance(value, dict):
        for name in value:
            _check_values(name, levels)
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_values(item, levels - 1)


# A string without an end is told apart, because looking for its end again from each quote in it takes for ever.
# Brackets that stand together are one token: what is nested a million deep is found quickly.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<endless>")|[\[{]+|[\]}]+|,', re.DOTALL)
_COMMA: Final = ord(",")
_BRACKET: Final = re.compile(rb"[\[{]+|[\]}]+|,")


def _tokens(body: bytes, start: int) -> Iterator[re.Match[bytes]]:
    """The strings, brackets and commas of a JSON text; behind a quote that nothing closes, brackets and commas."""
    for token in _TOKEN.finditer(body, start):
        if token["endless"]:
            yield from _BRACKET.finditer(body, token.end())
            return
        yield token


def _split(body: bytes, events_max: int) -> list[bytes]:
    """The elements of a JSON array as bytes, found by brackets and strings alone.

    So one element may be anything (bad UTF-8, nested a million deep, `NaN`) and the others are still told apart.
    None where the brackets do not close. Raises `OversizedMessage`.
    """
    if len(body) > MESSAGE_BYTES_MAX:
        raise OversizedMessage(
            f"the message has {len(body):,} bytes, and at most {MESSAGE_BYTES_MAX:,} are allowed: send smaller batches."
        )
    start, end = body.find(b"[") + 1, len(body.rstrip())
    depth, position = 1, start
    elements: list[bytes] = []
    for token in _tokens(body, start):
        first = body[token.start()]
        if first in b"[{":
            depth += token.end() - token.start()
        elif first in b"]}":
            depth -= token.end() - token.start()
            if depth <= 0 and (depth < 0 or token.end() != end):
                return []
        if (first == _COMMA and depth == 1) or depth == 0:
            if len(elements) == events_max:
                raise _too_many(events_max)
            elements.append(body[position : token.end() - 1].strip())
            position = token.end()
    return elements if depth == 0 and elements != [b""] else []
