"""From an event to its code: the checks of docs/rules.md §1, in their order.

`screen` needs nothing but the event, the registry and the latest time allowed; `resolve` needs the case. Both raise
an `EventError` for an event that can never be recorded as it is.
"""

from __future__ import annotations

import linecache
import traceback
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from caselog.events.calendar.bank_holidays import DEFAULT_REGION, bank_holidays
from caselog.events.calendar.opening_hours import DEFAULT_HOURS, OpeningHours
from caselog.events.calendar.working_time import WorkingTime
from caselog.events.errors import (
    EventError,
    EventFailed,
    EventRejected,
    Interrupted,
    MalformedEvent,
    RoleNotAllowed,
    TimeInFuture,
)
from caselog.events.model import columns
from caselog.events.model.codes import NAME_CHARACTERS, Code, Role
from caselog.events.model.message import Event, missing_subject
from caselog.events.model.registry import EventRegistry, Registered
from caselog.events.model.state import CaseState, OrderKey
from caselog.events.phrases import cut, said, sentence

FUTURE_TOLERANCE: Final = timedelta(minutes=5)

# The deepest are those that tell. A rule that calls itself without end has a thousand.
FRAMES_SHOWN: Final = 30
LINE_SHOWN: Final = 200


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
    """Check what the event says itself (docs/rules.md §1.4). `latest` is the database's clock plus the tolerance.

    What waiting for the case cannot cure is refused here, in this order: malformed, in the future, an unknown event,
    the given code, its roles, and what the class's `check` refuses.
    """
    known = registry.find_event(event.type)
    if known is not None:
        _check_form(event, known)
    if event.time > latest:
        raise TimeInFuture(
            f"time {event.time.isoformat()} is later than {latest.isoformat()}, the database clock plus tolerance "
            f"(CASELOG_FUTURE_TOLERANCE_S): set the sender's clock right and requeue the event once its time has come."
        )
    registered = known or registry.registered(event.type)
    code, likely = _code_alone(event, registered, registry)
    _check(event, registered, None if likely is None else likely.code)
    case = event.subject if registered.cls.needs_case else None
    actor = None if event.data.actor is None else event.data.actor.id
    return Screened(
        position, event, registered, code, case, actor, event.order_key, code is not None and code.creates_case
    )


def refuses_at_once(event: Event, registry: EventRegistry) -> EventError | None:
    """Why a recorder with this registry will refuse the event for what it says itself; None where it may record it.

    What the registry does not know, or cannot decide, is left to the recorder: its apps may be newer. So is the time,
    which the database's clock decides, and what an organisation's own rules say: who asks has nobody to look on, and
    a rule that hangs would take it along.
    """
    known = registry.find_event(event.type)
    try:
        if known is not None and not known.is_bundled:
            _check_form(event, known)
            if event.data.code is not None:
                _check_role(event, registry.get_code(event.type, event.data.code))
            return None
        screened = screen(0, event, registry, datetime.max.replace(tzinfo=UTC))
        if screened.code is None and screened.registered.cls.code_by_params:
            _check_role(event, _chosen(event, screened.registered, registry, None))
    except (MalformedEvent, RoleNotAllowed, EventRejected) as error:
        return error
    except EventError:
        return None
    return None


def resolve(event: Event, registered: Registered, registry: EventRegistry, case: CaseState | None) -> Code:
    """The code of an event that gives none, against the case as folded so far (docs/rules.md §1.3, §1.5)."""
    code = _chosen(event, registered, registry, case)
    _check_actor(event, code)
    _check_role(event, code)
    _check(event, registered, code.code)
    return code


def _code_alone(event: Event, registered: Registered, registry: EventRegistry) -> tuple[Code | None, Code | None]:
    """The code that stands before the case is looked for, and the one that the event is checked with until then.

    The first is the given one or one that creates the case; the second also one that follows from the params alone.
    """
    if event.data.code is not None:
        code = registry.get_code(event.type, event.data.code)
        _check_role(event, code)
        return code, code
    if not registered.cls.creates_case and not registered.cls.code_by_params:
        return None, None
    try:
        code = _named(event, registered, registry, None)
    except Interrupted:
        raise
    except BaseException:  # noqa: BLE001 - a rule that wants to see a case, or refuses, is asked again once it is there
        return None, None
    if code.creates_case:
        _check_actor(event, code)
        _check_role(event, code)
        return code, code
    return None, code if registered.cls.code_by_params else None


def _check_form(event: Event, registered: Registered) -> None:
    """What an event of this class must have, whatever its members say."""
    if event.subject is None and registered.cls.needs_case:
        raise MalformedEvent(f"{missing_subject(event.type)}.")
    if event.data.actor is None and event.data.code is not None:
        given = registered.codes.get(event.data.code)
        if given is not None:
            _check_actor(event, given)


def _check_actor(event: Event, code: Code) -> None:
    if event.data.actor is None and (code.starts_timer or code.cancels_timer):
        raise MalformedEvent(f"data.actor is missing: code {code.code!r} is about an actor's timer, send who it is.")


def _check_role(event: Event, code: Code) -> None:
    """Whether the actor may choose the code, be it given or left to the class."""
    actor = event.data.actor
    role = None if actor is None else actor.role
    if code.selectable_for(role):
        return
    what = f"code {code.code!r} of {event.type!r}"
    who = ", ".join(known for known in Role if code.selectable_for(known))
    if actor is None:
        raise RoleNotAllowed(f"data.actor is missing: {what} is for {who}. Send who it is, with that role.")
    if role is None:
        raise RoleNotAllowed(f"data.actor.role is missing: {what} is for {who}. Send the actor's role.")
    raise RoleNotAllowed(
        f"an actor with the role {str(role)!r} may not choose {what}; it is for {who}. Send the actor's right role in "
        f"data.actor.role, or widen selectable_by."
    )


def _check(event: Event, registered: Registered, code: str | None) -> None:
    if not registered.checks:
        return
    try:
        registered.event.check(code, event.data.context or {})
    except (EventError, Interrupted):
        raise
    except BaseException as error:
        raise EventFailed(failure(f"check of {event.type!r}", error)) from error


def _chosen(event: Event, registered: Registered, registry: EventRegistry, case: CaseState | None) -> Code:
    """As `_named`; whatever the rule raises is an `EventError`."""
    try:
        return _named(event, registered, registry, case)
    except (EventError, Interrupted):
        raise
    except BaseException as error:
        repeats = case is not None and registered.may_repeat
        asked = "get_repeated_code or get_log_code" if repeats else "get_log_code"
        raise EventFailed(failure(f"{asked} of {event.type!r}", error)) from error


def _named(event: Event, registered: Registered, registry: EventRegistry, case: CaseState | None) -> Code:
    """The code that the class names. Raises what its rule raises, as it is."""
    name: Any = None
    asked = "get_repeated_code"
    if case is not None and registered.may_repeat:
        name = registered.event.get_repeated_code(case, event.data.context or {})
    if name is None:
        asked = "get_log_code"
        name = registered.event.get_log_code(case, **(event.data.params or {}))
    if not isinstance(name, str):
        raise EventFailed(
            f"{asked} of {event.type!r} returned an object of {type(name).__name__!r}, and a code is a string. "
            f"Mend the rule and requeue the dead letter."
        )
    if len(name) > NAME_CHARACTERS:
        raise EventFailed(
            f"{asked} of {event.type!r} returned {len(name):,} characters, and a code has {NAME_CHARACTERS} at most. "
            f"Mend the rule and requeue the dead letter."
        )
    return registry.get_code(event.type, name)


def failure(what: str, error: BaseException) -> str:
    """The message of a `failed` dead letter: what failed, how, and where in the code."""
    # As `traceback` would write it, but for the marks below each line, for which it parses the line: of a batch of
    # poison that was half of the time.
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != columns.__file__  # that only passes the call on
    ]
    trace = "\n".join(
        f'  File "{code.co_filename}", line {line}, in {code.co_name}\n'
        f"    {cut(linecache.getline(code.co_filename, line).strip(), LINE_SHOWN)}"
        for code, line in frames[-FRAMES_SHOWN:]
    )
    how = f"{what} raised {type(error).__name__}: {sentence(said(error))}"
    return f"{how} Mend the rule and requeue the dead letter.\n{trace}"
