"""The bytes of a dead letter without what may be personal data, for who only wants to know what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from caselog.events.phrases import count_of

# What says which event it is and what happened. Everything else is masked: a malformed event has anything anywhere.
_SHOWN: Final[dict[str, Any]] = {
    **dict.fromkeys(("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")),
    **dict.fromkeys(("traceparent", "tracestate")),
    "data": {"code": None, "actor": dict.fromkeys(("id", "role", "provider"))},
}
_SHOWN_CHARACTERS: Final = 255


def masked(raw: bytes) -> str:
    """The event as indented JSON, each value that may be personal data replaced by its kind and size.

    Where the bytes are no JSON object, their number.
    """
    try:
        event = msgspec.json.decode(raw)
        if isinstance(event, dict):
            return msgspec.json.format(msgspec.json.encode(_masked(event, _SHOWN))).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"{count_of(len(raw), 'byte')}, not JSON"
    return f"{count_of(len(raw), 'byte')}, no JSON object"


def without_messages(said: Mapping[str, Any], member: str) -> dict[str, Any]:
    """What is said of events in the list `member`, without the messages, which may repeat what an event said.

    What is left out is absent, and `"masked": true` says so.
    """
    items = [{name: value for name, value in item.items() if name != "message"} for item in said[member]]
    return {**said, member: items, "masked": True}


def without_searched(detail: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit entry says, without the words that somebody searched for: they are what an event said."""
    asked = detail.get("filter")
    if not (isinstance(asked, dict) and asked.keys() & _SEARCHED):
        return dict(detail)
    return {**detail, "filter": {name: value for name, value in asked.items() if name not in _SEARCHED}, "masked": True}


# The parameters of filters that look for any part of what events said.
_SEARCHED: Final = frozenset({"text", "q"})


def _masked(value: Any, shown: Any) -> Any:
    if isinstance(value, dict) and isinstance(shown, dict):
        return {name: _masked(item, shown[name]) if name in shown else _size(item) for name, item in value.items()}
    is_name = shown is None and isinstance(value, str) and len(value) <= _SHOWN_CHARACTERS
    return value if is_name else _size(value)


def _size(value: Any) -> Any:
    """What may be told of a masked value: nothing that is not there is hidden."""
    if value is None or value in ("", [], {}):
        return value
    if isinstance(value, str):
        return f"*** {count_of(len(value), 'character')}"
    if isinstance(value, dict | list):
        return f"*** {count_of(len(value), 'member' if isinstance(value, dict) else 'item')}"
    return "***"
