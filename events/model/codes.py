"""A code says what kind of thing happened: its type, level, who may choose it and what it sets on the case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from caselog.events.errors import RegistrationError, did_you_mean

if TYPE_CHECKING:
    from caselog.events.model.state import CaseState


class LogType(StrEnum):
    """Outcomes matter to management information; system logs and events tell the rest (docs/rules.md §2)."""

    OUTCOME = "outcome"
    SYSTEM = "system"
    EVENT = "event"


class LogLevel(IntEnum):
    """HIGH and above marks the progress of a case (docs/rules.md §2)."""

    HIGH = 29
    MODERATE = 21
    MINOR = 11


class Role(StrEnum):
    """What an actor is to the organisation."""

    OPERATOR = "operator"
    OPERATOR_MANAGER = "operator_manager"
    SPECIALIST = "specialist"
    SYSTEM = "system"
    WEB = "web"


# Whoever has a role may also what these may: an operator manager is an operator.
_INCLUDED: Final[dict[str | None, tuple[Role, ...]]] = {Role.OPERATOR_MANAGER: (Role.OPERATOR,)}


class RequiresActionBy(StrEnum):
    """Who has the next move on a case; `None` where nobody has (docs/rules.md §5.2)."""

    OPERATOR = "operator"
    OPERATOR_MANAGER = "operator_manager"
    PROVIDER_REVIEW = "1_provider_review"
    PROVIDER = "2_provider"

    @staticmethod
    def none_if_owned_by_operator_or_manager(case: CaseState) -> str | None:
        """Nobody, where an operator or a manager had the next move; else unchanged (docs/rules.md §5.2)."""
        owned = (RequiresActionBy.OPERATOR, RequiresActionBy.OPERATOR_MANAGER)
        return None if case.requires_action_by in owned else case.requires_action_by


RequiresAction: TypeAlias = RequiresActionBy | Callable[["CaseState"], str | None] | None

DEFAULT_ORDER: Final = 10_000
# A report row's key holds a key and a code; PostgreSQL's index entry ends at 2,704 bytes.
NAME_CHARACTERS: Final = 100


# Python 3.11 calls a descriptor for each member that is named through its class.
_OUTCOME: Final = LogType.OUTCOME
_HIGH: Final = LogLevel.HIGH


class Code(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A code as registered under its key. `touches_requires_action` tells "set to None" from "left alone"."""

    key: str
    code: str
    type: LogType
    level: LogLevel
    selectable_by: tuple[Role, ...]
    description: str
    stops_timer: bool
    order: int = DEFAULT_ORDER
    touches_requires_action: bool = False
    set_requires_action_by: RequiresAction = None
    creates_case: bool = False
    starts_timer: bool = False
    cancels_timer: bool = False
    distinguished_by: tuple[str, ...] = ()

    @property
    def sets_outcome(self) -> bool:
        """An outcome at level HIGH or above becomes the case's `outcome_code` (docs/rules.md §5.1)."""
        return self.type is _OUTCOME and self.level >= _HIGH

    def selectable_for(self, role: str | None) -> bool:
        """Whether an actor of this role, or of one that it includes, may choose the code.

        An empty `selectable_by` means anyone, also an actor without a role.
        """
        may = self.selectable_by
        return not may or role in may or any(included in may for included in _INCLUDED.get(role, ()))

    def facts(self) -> dict[str, Any]:
        """The definition as plain JSON values; `set_requires_action_by` as {"set": …}, {"rule": …} or None."""
        action: dict[str, Any] | None = None
        if self.touches_requires_action:
            value = self.set_requires_action_by
            action = {"rule": getattr(value, "__name__", repr(value))} if callable(value) else {"set": value}
        return {
            "key": self.key,
            "code": self.code,
            "type": str(self.type),
            "level": int(self.level),
            "selectable_by": [str(role) for role in self.selectable_by],
            "description": self.description,
            "stops_timer": self.stops_timer,
            "order": None if self.order == DEFAULT_ORDER else self.order,
            "set_requires_action_by": action,
        }


REQUIRED: Final = ("type", "level", "selectable_by", "description", "stops_timer")
OPTIONAL: Final = ("order", "set_requires_action_by")


def parse_code(owner: str, key: str, code: Any, fields: Any) -> Code:  # noqa: C901 - one check a field, in order
    """One code from its dict form.

    `owner` is the event class's name, for messages. Raises `RegistrationError` that names the class, the code, the
    field and what was expected (docs/events.md "A code").
    """

    def wrong(field: str, expected: str) -> RegistrationError:
        got = f"got {fields[field]!r}" if isinstance(fields, Mapping) and field in fields else "it is missing"
        return RegistrationError(f"{owner}.codes[{code!r}]: {field!r} must be {expected}, {got}.")

    if not isinstance(code, str) or not code or len(code) > NAME_CHARACTERS or not code.isprintable():
        raise RegistrationError(
            f"{owner}.codes has the code {code!r}: a code is a printable string of 1 to {NAME_CHARACTERS} characters."
        )
    if not isinstance(fields, Mapping):
        raise RegistrationError(f"{owner}.codes[{code!r}] must be a dict of the code's fields, got {fields!r}.")
    for field in fields:
        if field not in REQUIRED + OPTIONAL:
            raise RegistrationError(
                f"{owner}.codes[{code!r}] has the unknown field {field!r}: expected {', '.join(REQUIRED)} and "
                f"optionally {', '.join(OPTIONAL)}.{did_you_mean(str(field), REQUIRED + OPTIONAL)}"
            )
    log_type, level, roles = fields.get("type"), fields.get("level"), fields.get("selectable_by")
    if log_type not in list(LogType):
        raise wrong("type", "a LogType (OUTCOME, SYSTEM or EVENT)")
    if isinstance(level, bool) or level not in list(LogLevel):
        raise wrong("level", "a LogLevel (HIGH, MODERATE or MINOR)")
    if not isinstance(roles, list | tuple | set | frozenset) or any(role not in list(Role) for role in roles):
        raise wrong("selectable_by", f"a list of roles out of {', '.join(Role)} (an empty list means anyone)")
    if not isinstance(fields.get("description"), str) or not fields["description"].strip():
        raise wrong("description", "a sentence or a few words")
    if not isinstance(fields.get("stops_timer"), bool):
        raise wrong("stops_timer", "True or False")
    order = fields.get("order", DEFAULT_ORDER)
    if isinstance(order, bool) or not isinstance(order, int):
        raise wrong("order", f"a whole number (default {DEFAULT_ORDER})")
    action = fields.get("set_requires_action_by")
    if action is not None and not callable(action):
        if action not in list(RequiresActionBy):
            raise wrong(
                "set_requires_action_by",
                f"None, a RequiresActionBy ({', '.join(RequiresActionBy)}) or a callable of the case",
            )
        action = RequiresActionBy(action)
    return Code(
        key=key,
        code=code,
        type=LogType(log_type),
        level=LogLevel(level),
        selectable_by=tuple(sorted(Role(role) for role in roles)),
        description=fields["description"],
        stops_timer=fields["stops_timer"],
        order=order,
        touches_requires_action="set_requires_action_by" in fields,
        set_requires_action_by=action,
    )
