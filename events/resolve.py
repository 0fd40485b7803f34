"""From an event to its code: the checks of RULES.md §1, in their order.

`screen` needs nothing but the event, the registry and the latest time allowed; `resolve` needs the case. Both raise
an `EventError` for an event that can never be recorded as it is.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from events.bank_holidays import DEFAULT_REGION, bank_holidays
from events.codes import Code
from events.errors import EventError, EventFailed, MalformedEvent, RoleNotAllowed, TimeInFuture
from events.message import Event
from events.opening_hours import DEFAULT_HOURS, OpeningHours
from events.registry import EventRegistry, Registered
from events.state import CaseState, OrderKey
from events.working_time import WorkingTime

FUTURE_TOLERANCE: Final = timedelta(minutes=5)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that the rules depend on. `zone` says what "the same day" means."""

    zone: ZoneInfo
    search_context: tuple[str, ...] = ()
    future_tolerance: timedelta = FUTURE_TOLERANCE
    opening_hours: str = DEFAULT_HOURS
    bank_holidays: str = DEFAULT_REGION

    @property
    def working_time(self) -> WorkingTime:
        return _working_time(self.opening_hours, self.bank_holidays, self.zone)


@lru_cache(maxsize=8)
def _working_time(hours: str, region: str, zone: ZoneInfo) -> WorkingTime:
    """Kept, since what it has worked out about a year is kept with it."""
    return WorkingTime(OpeningHours.parse(hours), bank_holidays(region), zone)


class Screened(msgspec.Struct):
    """An event that passed every check that it can pass alone. `position` is the caller's name for it.

    `code` is None where the case has to be known first. `case` is None for an event that is about no case.
    """

    position: int
    event: Event
    registered: Registered
    code: Code | None
    case: str | None
    actor: str | None
    order_key: OrderKey
    creates_case: bool


def screen(position: int, event: Event, registry: EventRegistry, latest: datetime) -> Screened:
    """Check what the event says itself (RULES.md §1.4). `latest` is the database's clock plus the tolerance."""
    if event.time > latest:
        raise TimeInFuture(
            f"time {event.time.isoformat()} is later than {latest.isoformat()}, the database clock plus tolerance "
            f"(CASELOG_FUTURE_TOLERANCE_S): set the sender's clock right and requeue the event once its time has come."
        )
    registered = registry.registered(event.type)
    code: Code | None = None
    if event.data.code is not None:
        code = registry.get_code(event.type, event.data.code)
        role = event.data.actor.role if event.data.actor is not None else None
        if not code.selectable_for(role):
            raise RoleNotAllowed(
                f"an actor with the role {str(role) if role else None!r} may not choose code {code.code!r} of "
                f"{event.type!r}; it is for {', '.join(code.selectable_by)}. Send the actor's right role in "
                f"data.actor.role, or widen selectable_by."
            )
    elif registered.cls.creates_case:
        # Whether it creates its case must be known before the case is looked for. Where the rule wants to see a case,
        # or refuses, it is asked again once the case is there.
        with suppress(EventError):
            code = _chosen(event, registered, registry, None)
            code = code if code.creates_case else None
    _check(event, registered, None if code is None else code.code)
    case = event.subject if registered.cls.needs_case else None
    if case is None and registered.cls.needs_case:
        raise MalformedEvent(f"subject is missing: an event {event.type!r} is about a case, send its reference.")
    if code is not None and (code.starts_timer or code.cancels_timer) and event.data.actor is None:
        raise MalformedEvent(f"data.actor is missing: code {code.code!r} is about an actor's timer, send who it is.")
    actor = None if event.data.actor is None else event.data.actor.id
    return Screened(
        position, event, registered, code, case, actor, event.order_key, code is not None and code.creates_case
    )


def resolve(event: Event, registered: Registered, registry: EventRegistry, case: CaseState | None) -> Code:
    """The code of an event that gives none, against the case as folded so far (RULES.md §1.3, §1.5)."""
    code = _chosen(event, registered, registry, case)
    _check(event, registered, code.code)
    return code


def _check(event: Event, registered: Registered, code: str | None) -> None:
    if not registered.checks:
        return
    try:
        registered.event.check(code, event.data.context or {})
    except EventError:
        raise
    except Exception as error:
        raise EventFailed(failure(f"check of {event.type!r}", error)) from error


def _chosen(event: Event, registered: Registered, registry: EventRegistry, case: CaseState | None) -> Code:
    try:
        name: Any = registered.event.get_log_code(case, **(event.data.params or {}))
    except EventError:
        raise
    except Exception as error:
        raise EventFailed(failure(f"get_log_code of {event.type!r}", error)) from error
    if not isinstance(name, str):
        raise EventFailed(
            f"get_log_code of {event.type!r} returned {name!r}, and a code is a string. Mend the rule and requeue the "
            f"dead letter."
        )
    return registry.get_code(event.type, name)


def failure(what: str, error: BaseException) -> str:
    """The message of a `failed` dead letter: what failed, how, and where in the code."""
    trace = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    return f"{what} raised {type(error).__name__}: {error}. Mend the rule and requeue the dead letter.\n{trace}"
