"""The words in which a simulated journey is told: who visits a case, what he or she does, and how chance decides."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

Context: TypeAlias = dict[str, Any]
_Chosen = TypeVar("_Chosen")

NOTES: Final = (
    "Client will send the documents.",
    "Client prefers to be called in the afternoon.",
    "Explained the next steps.",
    "Interpreter needed.",
    "Asked for a summary in writing.",
)


class Actor(NamedTuple):
    """Somebody who makes a visit without a timer, and the system through which he or she does."""

    source: str
    id: str
    role: str
    provider: str | None = None


class Act(NamedTuple):
    """One event of a visit, so many seconds after the one before it; `data` has its code, params and the rest."""

    after_s: int
    case: str
    key: str
    data: dict[str, Any]


class Visit(NamedTuple):
    """What one person does in one go, not before `at`. `by` is None for an operator's call, which has a timer."""

    at: datetime
    acts: list[Act]
    by: Actor | None = None
    cancelled: bool = False


Steps: TypeAlias = Generator[Visit, datetime, None]
"""Yields visits, and is sent the moment at which each one ended."""


class Pace(Protocol):
    """How fast things go, and when somebody is there."""

    def gap(self, hours: float) -> timedelta:
        """The time that so many hours between two visits are worth."""

    def visit(self, seconds: float) -> timedelta:
        """The time that so many seconds within a visit are worth."""

    def open_at(self, moment: datetime, needed: timedelta) -> datetime:
        """The first moment, not before this one, from which somebody is there for so long."""


class SimulatedCase:
    """One case, its acts and its chances. `references` gives a new case reference at each call."""

    def __init__(self, rng: Random, references: Callable[[], str], pace: Pace) -> None:
        self.rng = rng
        self.references = references
        self.pace = pace
        self.case = references()

    def act(
        self,
        key: str,
        code: str,
        *,
        params: Context | None = None,
        context: Context | None = None,
        noted: bool = False,
    ) -> Act:
        """An event with its code, or, one time in three where `params` say it as well, without it.

        `noted`: it has notes, as a form that asks for them sends it; else one time in seven.
        A code that depends on the case is always given: then the events end in one state, in whatever order they come.
        """
        data: dict[str, Any] = {"code": code}
        if params is not None and self.chance(1 / 3):
            data = {"params": params} if params else {}
        if context:
            data["context"] = context
        if noted or self.chance(0.15):
            data["notes"] = self.rng.choice(NOTES)
        return Act(self.rng.randrange(15, 240), self.case, key, data)

    def later(self, at: datetime, least_h: float, most_h: float) -> datetime:
        """So many hours on; where that is out of hours, some time in the first hour of the next opening."""
        moment = at + self.pace.gap(least_h + (most_h - least_h) * self.rng.random())
        opening = self.pace.open_at(moment, self.pace.visit(1800))
        return moment if opening == moment else opening + self.pace.visit(3600 * self.rng.random())

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def weighted(self, shares: dict[_Chosen, int]) -> _Chosen:
        return self.rng.choices(list(shares), list(shares.values()))[0]


def rfc3339(moment: datetime) -> str:
    """The moment, which is in UTC, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
