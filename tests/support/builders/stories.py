"""Events told in short: one line an event, so that a worked case can be read with its times under each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

Json = dict[str, Any]
Row = dict[str, Any]
LONDON = ZoneInfo("Europe/London")
_MOMENTS = ("requires_action_at", "provider_assigned_at", "sla_15", "sla_30", "sla_120", "sla_480", "sla_72h")
_ROLES = {"web": "web", "robot": "system", "boss": "operator_manager", "queen": "operator_manager"}


def told(story: str, name: str = "told") -> list[Json]:
    """The events of a story, a line each: case (or -), time, actor, key/code, and what the context has.

    Times are London's, unless they have an offset. An actor `anna@prov-1` is a specialist of that provider; whoever is
    not known otherwise is an operator. `notes=` is no part of the context.
    """
    return [_event(line.split(), f"{name}/{number:03}") for number, line in enumerate(story.strip().splitlines())]


def at(moment: str) -> datetime:
    """A moment as it is written in a story."""
    found = datetime.fromisoformat(moment)
    return found if found.tzinfo is not None else found.replace(tzinfo=LONDON)


def _event(words: list[str], event_id: str) -> Json:
    case, time, actor, what, *members = words
    key, code = what.split("/")
    who, _, provider = actor.partition("@")
    context: Json = dict(member.split("=", 1) for member in members)
    for name in context.keys() & set(_MOMENTS):
        context[name] = at(context[name]).isoformat()
    data: Json = {"code": code, "notes": context.pop("notes", ""), "context": context}
    role = "specialist" if provider else _ROLES.get(who, "operator")
    data["actor"] = {"id": who, "role": role} | ({"provider": provider} if provider else {})
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/story",
        "type": key,
        "time": at(time).isoformat(),
        **({} if case == "-" else {"subject": case}),
        "data": data,
    }


def lines(*stories: str) -> str:
    """Stories as one, without what indents them."""
    return "\n".join(line.strip() for story in stories for line in story.splitlines() if line.strip())


@dataclass(frozen=True)
class Worked:
    """A case, asked of `report` at `now`: of each row the columns named in `rows`, in the order of the report."""

    law: str
    story: str
    report: str
    rows: list[Row]
    now: str = "2027-06-01 12:00"
    days: tuple[date, date] = (date(2020, 1, 1), date(2030, 12, 31))

    @property
    def moment(self) -> datetime:
        return at(self.now)


def picked(rows: list[Row], wanted: list[Row]) -> list[Row]:
    """Of each row the columns that are wanted, for a comparison that shows no others."""
    return [
        {name: row[name] for name in (wanted[at_row] if at_row < len(wanted) else row)}
        for at_row, row in enumerate(rows)
    ]
