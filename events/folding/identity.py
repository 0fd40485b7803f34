"""Whether an event that comes with the name of a recorded one is that event again, or another one.

(source, id) names an event for ever (docs/design.md "Exactly once"). What comes a second time under a name is
dropped as the same event only where it says the same, however it is written.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from caselog.events.errors import IdentityTaken
from caselog.events.model.message import Event
from caselog.events.model.state import Log

# Finer digits of a time are rounded by one reader and cut off by another.
_AN_INSTANT: Final = timedelta(microseconds=1)


def differences(event: Event, log: Log) -> list[str]:
    """In which attributes the event says something else than the log entry of its name; none: it is the same event.

    One phrase an attribute: of type, subject, time and code with both values, of all others the name alone, since
    they may be personal data. Only what the log keeps is compared. So `params` are not, nor is a code that the event
    leaves to its class (docs/rules.md §1.5), nor the subject of an event that is about no case; nor are the CloudEvents
    attributes that whoever passes an event on may set, such as `traceparent`.
    """
    data, actor = event.data, event.data.actor
    shown = {
        "type": (event.type, log.key),
        "subject": (log.case if log.case is None else event.subject, log.case),
        "data.code": (log.code if data.code is None else data.code, log.code),
    }
    found = [f"{name} ({here!r} here, {there!r} there)" for name, (here, there) in shown.items() if here != there]
    if abs(event.time - log.occurred_at) > _AN_INSTANT:
        found.append(f"time ({event.time.isoformat()} here, {log.occurred_at.isoformat()} there)")
    hidden = {
        "data.actor.id": (None if actor is None else actor.id, log.actor),
        "data.actor.role": (None if actor is None or actor.role is None else actor.role.value, log.role),
        "data.actor.provider": (None if actor is None else actor.provider, log.actor_provider),
        "data.notes": (data.notes or "", log.notes),
        "data.context": (data.context or {}, log.context),
        "data.patch": (data.patch or None, log.patch or None),
        "another member of data": (_own_members(event.extensions), _own_members(log.extensions)),
    }
    return found + [name for name, (here, there) in hidden.items() if not is_same_json(here, there)]


def refuse_another(event: Event, log: Log) -> IdentityTaken | None:
    """The error of an event whose name is taken by that entry of the log; None where it is the same event."""
    return _refusal(event, differences(event, log), f"is recorded already, as log {log.id}")


def refuse_another_than_parked(event: Event, parked: Event) -> IdentityTaken | None:
    """As `refuse_another`, where the event of that name still waits for its case."""
    return _refusal(event, differences(event, _as_log(parked, event)), "waits for its case")


def _refusal(event: Event, found: list[str], where: str) -> IdentityTaken | None:
    if not found:
        return None
    return IdentityTaken(
        f"another event with the source {event.source!r} and the id {event.id!r} {where}. They differ in "
        f"{', '.join(found)}. The first stands. If this one happened too, publish it with an id of its own; then "
        f"discard this dead letter."
    )


def _as_log(event: Event, other: Event) -> Log:
    """What the log will keep of an event. A code that it does not give is none to differ in."""
    data, actor = event.data, event.data.actor
    return Log(
        id=0,
        source=event.source,
        event_id=event.id,
        key=event.type,
        code=data.code or other.data.code or "",
        type="",
        level=0,
        occurred_at=event.time,
        case=event.subject,
        actor=None if actor is None else actor.id,
        role=None if actor is None or actor.role is None else actor.role.value,
        actor_provider=None if actor is None else actor.provider,
        notes=data.notes or "",
        context=data.context or {},
        patch=data.patch,
        extensions=event.extensions,
    )


def is_same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: objects in any order of their members, and 1 equals 1.0 but not true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same_json(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) != isinstance(other, float):
        # PostgreSQL keeps 1e300 as a one with three hundred zeros, which is not what the nearest float is exactly.
        return _is_number(one) and _is_number(other) and _as_float(one) == _as_float(other)
    return bool(one == other)


def canonical_json(value: Any) -> str:
    """A text that is equal for equal JSON values, as they were sent and as PostgreSQL gives them back.

    Objects may have their members in any order, and 1 equals 1.0 but not true. What is null in an object stays there.
    """
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{canonical_json(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, float):
        # 1e300 comes back as a one with three hundred zeros, which is not what the nearest float is exactly.
        exact = Decimal(repr(value))
        value = int(exact) if exact == exact.to_integral_value() else value
    return json.dumps(value)


def _own_members(extensions: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (extensions or {}).items() if name.startswith("data.")}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _as_float(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond all floats equals none of them
        return None
