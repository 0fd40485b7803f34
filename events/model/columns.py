"""What an organisation's own rules may do: `apply` sets columns of the case, within bounds; all else only looks.

The bundled rules are known to keep to it, and are called as they are. What another one does wrong is found out here,
event by event: what cannot be stored would be in the way of its whole batch, and what no index holds in that of every
report.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import attrgetter, is_
from types import NoneType
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeAlias, TypeVar

import msgspec

from caselog.events.errors import EventFailed
from caselog.events.model.codes import NAME_CHARACTERS, RequiresActionBy
from caselog.events.model.message import EARLIEST_YEAR, LATEST_YEAR, is_in_years
from caselog.events.model.state import CaseState, Log

T = TypeVar("T")

LARGEST: Final = 2**31 - 1
REFERENCE_CHARACTERS: Final = 255
SEARCHED_CHARACTERS: Final = 10_000
# Neither NUL, which PostgreSQL does not hold, nor half a pair of surrogates, which is no UTF-8.
_STORABLE: Final = r"^[^\x00\ud800-\udfff]*$"


_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS, pattern=_STORABLE)]
_WHOLE: Final = "characters, none of them NUL or half a surrogate pair"
_NAME: Final = (_Name | None, f"a text of at most {NAME_CHARACTERS} {_WHOLE}, or None")
_TIME: Final = (
    Annotated[datetime, msgspec.Meta(tz=True)] | None,
    f"a datetime with its time zone, in the years {EARLIEST_YEAR} to {LATEST_YEAR}, or None",
)
_FLAG: Final = (bool, "True or False")
SETTABLE: Final[dict[str, tuple[Any, str]]] = {
    "category": _NAME,
    "source": _NAME,
    "organisation": _NAME,
    "provider": _NAME,
    "eligibility_state": _NAME,
    "scope_state": _NAME,
    "callback_code": _NAME,
    "requires_action_by": (RequiresActionBy | None, f"one of {', '.join(RequiresActionBy)}, or None"),
    "requires_action_at": _TIME,
    "provider_assigned_at": _TIME,
    "provider_viewed": _TIME,
    "provider_accepted": _TIME,
    "provider_closed": _TIME,
    "callback_attempt": (Annotated[int, msgspec.Meta(ge=0, le=LARGEST)], f"a whole number from 0 to {LARGEST:,}"),
    "complaint_flag": _FLAG,
    "from_case": (
        Annotated[str, msgspec.Meta(max_length=REFERENCE_CHARACTERS, pattern=_STORABLE)] | None,
        f"a reference of at most {REFERENCE_CHARACTERS} {_WHOLE}, or None",
    ),
    "search_field": (
        Annotated[str, msgspec.Meta(max_length=SEARCHED_CHARACTERS, pattern=_STORABLE)],
        f"a text of at most {SEARCHED_CHARACTERS:,} {_WHOLE}",
    ),
    # What the bundled rules remember, and so whoever inherits them.
    "viewed_timers": (tuple[Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)], ...], "a tuple of the ids of timers"),
    "call_started": _FLAG,
    "open_complaints": (tuple[_Name, ...], "a tuple of names of complaints"),
    "called_back": _FLAG,
}
"""What `apply` may set, each with its type and that in words."""
OWN: Final = (
    "reference", "created_at", "outcome_code", "outcome_code_id", "level", "billable_time", "last_log", "last_outcome",
)  # fmt: skip
"""What the fold alone writes."""
assert {*SETTABLE, *OWN} == {*CaseState.__struct_fields__}

_Settable: Final = msgspec.defstruct("_Settable", [(name, type_) for name, (type_, _) in SETTABLE.items()])
_settable: Final = attrgetter(*SETTABLE)
_own: Final = attrgetter(*OWN)
_all: Final = attrgetter(*CaseState.__struct_fields__)
_TIMES: Final = tuple(name for name, allowed in SETTABLE.items() if allowed is _TIME)
_PLAIN: Final = frozenset({str, int, bool, datetime, tuple, NoneType})


class EventRules(Protocol):
    """The rules of an event class (`BaseEvent`, docs/events.md)."""

    key: ClassVar[str]

    def check(self, code: str | None, context: dict[str, Any]) -> None: ...
    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str: ...
    def get_repeated_code(self, case: CaseState, context: dict[str, Any]) -> str | None: ...
    def acts_on(self, case: CaseState, log: Log) -> bool: ...
    def suppresses(self, case: CaseState, log: Log) -> bool: ...
    def apply(self, case: CaseState, log: Log) -> None: ...


class Guarded:
    """An organisation's own event class, as the resolver and the fold call it: they trust what they passed to a rule.

    Its methods are those of `BaseEvent`, and raise `EventFailed`, too, which names what a rule must not have set.
    """

    def __init__(self, event: EventRules) -> None:
        self._event = event

    def check(self, code: str | None, context: dict[str, Any]) -> None:
        shown = _copied(context)
        self._event.check(code, shown)
        _refuse_changed_context(f"check of {self._event.key!r}", context, shown)

    def get_log_code(self, case: CaseState | None, /, **params: Any) -> str:
        return ask(self._event.get_log_code, f"get_log_code of {self._event.key!r}", case, **params)

    def get_repeated_code(self, case: CaseState, context: dict[str, Any]) -> str | None:
        rule, what, shown = self._event.get_repeated_code, f"get_repeated_code of {self._event.key!r}", _copied(context)
        code = ask(lambda seen: rule(seen, shown), what, case)
        _refuse_changed_context(what, context, shown)
        return code

    def acts_on(self, case: CaseState, log: Log) -> bool:
        return self._look(self._event.acts_on, "acts_on", case, log)

    def suppresses(self, case: CaseState, log: Log) -> bool:
        return self._look(self._event.suppresses, "suppresses", case, log)

    def apply(self, case: CaseState, log: Log) -> None:
        what = f"apply of {self._event.key!r}"
        own, shown = _own(case), _shown(log)
        self._event.apply(case, shown)
        _refuse_changed_log(what, log, shown)
        if (name := _differing(own, _own(case), OWN)) is not None:
            raise EventFailed(f"{what} set case.{name}, which caselog alone sets. {_REMEDY}")
        _check_settable(what, case)

    def _look(self, rule: Callable[[CaseState, Log], bool], name: str, case: CaseState, log: Log) -> bool:
        what, shown = f"{name} of {self._event.key!r}", _shown(log)
        answer = ask(lambda seen: rule(seen, shown), what, case)
        _refuse_changed_log(what, log, shown)
        return answer


def ask(rule: Callable[..., T], what: str, case: CaseState | None, /, **params: Any) -> T:
    """What a rule says about a case. Raises `EventFailed` where it has set any of it."""
    shown = copy.copy(case)
    answer = rule(shown, **params)
    if shown is not None and (name := _differing(_all(case), _all(shown), CaseState.__struct_fields__)) is not None:
        raise EventFailed(f"{what} set case.{name}, and only apply sets columns. {_REMEDY}")
    return answer


def _shown(log: Log) -> Log:
    shown = copy.copy(log)
    shown.context = _copied(log.context)
    return shown


def _copied(context: dict[str, Any]) -> dict[str, Any]:
    is_nested = any(isinstance(value, dict | list) for value in context.values())
    return copy.deepcopy(context) if is_nested else {**context}


def _refuse_changed_context(what: str, context: dict[str, Any], shown: dict[str, Any]) -> None:
    if shown != context:
        raise EventFailed(f"{what} changed the event's context, and an event stays as it is. {_REMEDY}")


def _refuse_changed_log(what: str, log: Log, shown: Log) -> None:
    if shown != log:
        name = _differing(msgspec.structs.astuple(log), msgspec.structs.astuple(shown), Log.__struct_fields__)
        raise EventFailed(f"{what} changed log.{name}, and a log stays as it is. {_REMEDY}")


def _differing(before: tuple[Any, ...], after: tuple[Any, ...], names: Sequence[str]) -> str | None:
    """The first name whose value is another one than before, if only another kind of number."""
    if all(map(is_, before, after)):
        return None
    return next(
        (name for name, was, now in zip(names, before, after, strict=True) if type(now) is not type(was) or now != was),
        None,
    )


def _check_settable(what: str, case: CaseState) -> None:
    try:
        converted = msgspec.convert(case, _Settable, from_attributes=True, builtin_types=(datetime,))
    except msgspec.ValidationError as error:
        column = str(error).rpartition("`$.")[2].rstrip("`").partition("[")[0]
        raise _not_allowed(what, column) from None
    for name in _TIMES:
        if (time := getattr(case, name)) is not None:
            if not is_in_years(time):
                raise _not_allowed(what, name)
            # As it will be read again: two moments of one zone are compared by its clock, which shows an hour twice.
            if time.tzinfo is not UTC:
                setattr(case, name, time.astimezone(UTC))
    if not _PLAIN.issuperset(map(type, _settable(case))):
        # An enumeration's member, say: it is a text, but the driver takes no array of such and others.
        for name in SETTABLE:
            value = getattr(case if name in _TIMES else converted, name)
            setattr(case, name, str.__str__(value) if isinstance(value, str) else value)


def _not_allowed(what: str, column: str) -> EventFailed:
    _, expected = SETTABLE[column]
    return EventFailed(f"{what} set case.{column} to something else than {expected}. {_REMEDY}")


_REMEDY: Final = "Mend the rule and requeue the dead letter."
