"""The bytes of a dead letter without what may be personal data, for who only wants to know what is wrong with them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

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
        return f"{len(raw):,} bytes, not JSON"
    return f"{len(raw):,} bytes, no JSON object"


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
        return f"*** {len(value):,} characters"
    if isinstance(value, dict | list):
        return f"*** {len(value):,} {'members' if isinstance(value, dict) else 'items'}"
    return "***"
