"""Reading an event's context safely: each function gives back a checked value, or refuses the event in words.

Use them in `check`, so that a bad value is refused at once (docs/rules.md §1.4), and again in `apply`. Messages name
the member and what it holds by kind and size, never its value, which may be personal data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from caselog.events.errors import EventRejected
from caselog.events.model.codes import NAME_CHARACTERS
from caselog.events.model.message import EARLIEST_YEAR, LATEST_YEAR

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_KINDS: Final = {bool: "a boolean", int: "a number", float: "a number", list: "an array", dict: "an object"}


def text(context: Mapping[str, Any], name: str, *, most: int = NAME_CHARACTERS) -> str | None:
    """A string of 1 to `most` characters; None where the member is absent or null.

    The default of `most` is what a report dimension may have: it becomes part of an index entry, which is limited.
    Raises `EventRejected` for anything else.
    """
    value = context.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _refused(name, f"a string of 1 to {most} characters", value)
    if not 1 <= len(value) <= most:
        raise EventRejected(
            f"context.{name} must be a string of 1 to {most} characters, and it has {len(value):,}: "
            f"send a short name or identifier, or leave it out where there is none."
        )
    return value


def required_text(context: Mapping[str, Any], name: str) -> str:
    """As `text`, but `EventRejected` where the member is absent or null."""
    value = text(context, name)
    if value is None:
        raise EventRejected(f"context.{name} is missing: send a string of 1 to {NAME_CHARACTERS} characters.")
    return value


def one_of(context: Mapping[str, Any], name: str, choices: Iterable[str]) -> str | None:
    """One of the given strings; None where the member is absent or null. Raises `EventRejected` for anything else."""
    value, known = text(context, name), list(choices)
    if value is not None and value not in known:
        raise EventRejected(f"context.{name} must be one of {', '.join(known)}: send one of these, or leave it out.")
    return value


def moment(context: Mapping[str, Any], name: str) -> datetime | None:
    """An RFC 3339 time with offset, as an aware datetime in UTC; None where the member is absent or null.

    Raises `EventRejected` for anything else, and for years that an event's own time may not have either.
    """
    value = context.get(name)
    if value is None:
        return None
    expected = "an RFC 3339 time with offset, such as 2026-11-22T10:15:00Z"
    if not isinstance(value, str):
        raise _refused(name, expected, value)
    try:
        parsed: datetime = msgspec.convert(value, Moment)
    except msgspec.ValidationError:
        raise EventRejected(f"context.{name} must be {expected}, and its text is none: send it in that form.") from None
    if not EARLIEST_YEAR <= parsed.year <= LATEST_YEAR:
        raise EventRejected(
            f"context.{name} has the year {parsed.year}, and {EARLIEST_YEAR} to {LATEST_YEAR} are allowed: correct it."
        )
    return parsed.astimezone(UTC)


def required_moment(context: Mapping[str, Any], name: str) -> datetime:
    """As `moment`, but `EventRejected` where the member is absent or null."""
    value = moment(context, name)
    if value is None:
        raise EventRejected(f"context.{name} is missing: send an RFC 3339 time with offset, as 2026-11-22T10:15:00Z.")
    return value


def flag(members: Mapping[str, Any], name: str, *, where: str = "context") -> bool | None:
    """True or false; None where the member is absent or null. Raises `EventRejected` for anything else.

    For `get_log_code`, hand over the params and `where="params"`, which is only the word in the message.
    """
    value = members.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise _refused(name, "true or false", value, where)


def _refused(name: str, expected: str, value: Any, where: str = "context") -> EventRejected:
    kind = _KINDS.get(type(value), "a string")
    return EventRejected(f"{where}.{name} must be {expected}, and it is {kind}: send it in that form, or leave it out.")
