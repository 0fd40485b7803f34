"""Which logs a measure counts, said once and asked twice: of a log in hand, and of the whole log in SQL."""

from __future__ import annotations

from typing import Any

import msgspec

from caselog.events.model.codes import Code
from caselog.events.model.state import Log


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Every condition that is given must hold. Suppressed logs, and logs about no case, never count.

    `roles` are the actor's. `lacks` is a member of the context that is missing or null.
    """

    outcomes: bool = False
    codes: tuple[str, ...] = ()
    creates_case: bool = False
    stops_timer: bool = False
    roles: tuple[str, ...] = ()
    case_source: str | None = None
    lacks: str | None = None

    def may_hold(self, code: Code) -> bool:
        """Whether a log with this code can count; type and level are the log's own."""
        return (
            (not self.outcomes or code.type.value == "outcome")
            and (not self.codes or code.code in self.codes)
            and (not self.creates_case or code.creates_case)
            and (not self.stops_timer or code.stops_timer)
        )

    @property
    def says_code_alone(self) -> bool:
        return not self.roles and self.case_source is None and self.lacks is None

    def holds(self, log: Log) -> bool:
        """Whether a log counts, of whose code `may_hold` is true."""
        return (
            (not self.roles or log.role in self.roles)
            and (self.case_source is None or log.case_source == self.case_source)
            and (self.lacks is None or log.context.get(self.lacks) is None)
        )

    def sql(self) -> str:
        """The same, of a row `log` with its columns and a row `definition` with what the registry says of its code."""
        parts = [
            *(["log.type = 'outcome'"] if self.outcomes else []),
            *([f"log.code in ({_quoted(self.codes)})"] if self.codes else []),
            *(["definition.creates_case"] if self.creates_case else []),
            *(["definition.stops_timer"] if self.stops_timer else []),
            *([f"log.role in ({_quoted(self.roles)})"] if self.roles else []),
            *([f"log.case_source = {_quoted([self.case_source])}"] if self.case_source is not None else []),
            *([f"log.context->>{_quoted([self.lacks])} is null"] if self.lacks is not None else []),
        ]
        return " and ".join(parts) or "true"


def _quoted(values: Any) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
