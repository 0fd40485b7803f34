"""A CloudEvent as the JSON object that it comes in, before anybody looks at what its members say."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any, Final, TypeVar

import msgspec

from caselog.events.errors import MalformedEvent
from caselog.events.model.faults import kind_of
from caselog.events.phrases import sentence

NESTING_MAX: Final = 64
BASE64: Final = "data_base64"
REMEDY: Final = "Send a CloudEvents 1.0 event in JSON as docs/events.md describes it."
_object: Final = msgspec.json.Decoder(dict[str, Any])
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Names(msgspec.Struct, frozen=True):
    source: msgspec.Raw = msgspec.Raw(b"null")
    id: msgspec.Raw = msgspec.Raw(b"null")
    type: msgspec.Raw = msgspec.Raw(b"null")
    subject: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Code(msgspec.Struct, frozen=True):
    code: msgspec.Raw = msgspec.Raw(b"null")


_Members = TypeVar("_Members", _Names, _Code)


def open_envelope(raw: bytes) -> tuple[dict[str, Any], list[str]]:
    """The members of an event, its data unpacked where it came in base64; and what is wrong with that.

    Raises `MalformedEvent` where it is no JSON object.
    """
    try:
        members = _object.decode(raw)
    except RecursionError:
        raise MalformedEvent(f"the event is nested too deeply. {REMEDY}") from None
    except msgspec.ValidationError:
        raise MalformedEvent(f"an event must be a JSON object, not {_kind_in(raw)}. {REMEDY}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedEvent(f"{sentence(error)} {REMEDY}") from None
    return members, _unpack(members) if BASE64 in members else []


def is_json_type(content_type: str) -> bool:
    """Whether content of this media type is JSON, as CloudEvents says: */json or */*+json, whatever its parameters."""
    subtype = content_type.partition(";")[0].strip().lower().rpartition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def may_hold_bad_values(raw: bytes) -> bool:
    """Whether `value_fault` may find something in this JSON; quick. Of data in base64 it says nothing."""
    return raw.count(b"[") + raw.count(b"{") > NESTING_MAX or b"\\u0000" in raw


def value_fault(value: Any, levels: int = NESTING_MAX) -> str | None:
    """Why PostgreSQL could not store a value, or a value in it; None where it can."""
    if levels == 0:
        return f"the event is nested more than {NESTING_MAX} levels deep"
    if isinstance(value, str) and "\x00" in value:
        return "the event holds a NUL character (\\u0000), which PostgreSQL cannot store: remove it"
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list):
        inner = value
    else:
        return None
    return next((fault for item in inner if (fault := value_fault(item, levels - 1)) is not None), None)


def names_in(raw: bytes) -> tuple[str | None, ...]:
    """What an event that cannot be read says it is: source, id, type, subject, code; None for each that is no text.

    Nothing else of it is unpacked, however large it is.
    """
    names = _members(raw, _Names)
    if names is None:
        return (None,) * 5
    data = _members(names.data, _Code)
    code = None if data is None else _text(data.code)
    return _text(names.source), _text(names.id), _text(names.type), _text(names.subject), code


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


def _kind_in(raw: bytes) -> str:
    try:
        return kind_of(msgspec.json.decode(raw))
    except _FAULTS:  # an array that does not close, say
        return "something else"


def _unpack(members: dict[str, Any]) -> list[str]:
    """Put the JSON object that data_base64 holds into data's place; what is wrong with it, where something is."""
    packed, kind = members.pop(BASE64), members.get("datacontenttype")
    if "data" in members:
        return [f"data and {BASE64} exclude each other"]
    if isinstance(kind, str) and not is_json_type(kind):
        return [f"{BASE64} is no JSON, as datacontenttype says, and data must be a JSON object"]
    try:
        members["data"] = _object.decode(b64decode(packed, validate=True))
    except (binascii.Error, TypeError, ValueError, RecursionError):
        return [f"{BASE64} is no base64 of a JSON object"]
    return []
