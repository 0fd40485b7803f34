"""How the ops page writes numbers, ages, moments, and what lies where."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from caselog.events.phrases import count_of
from caselog.schema.recording.parking import ParkedCount
from caselog.workers.health.queue_rates import QueueLine
from caselog.workers.rows.output import rfc3339

UNKNOWN: Final = "\N{EN DASH}"
LONG: Final = 300
_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_SMALL: Final = 10.0
_MILLISECOND: Final = 0.001


class Moment(msgspec.Struct, frozen=True):
    """A moment for people, and in UTC for programs."""

    text: str
    utc: str


def duration(seconds: float | None) -> str:
    """In the largest unit that fits: 250 ms, 3.2 s, 41 s, 5 min, 2 h, 3 d."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds / _MILLISECOND:.0f} ms"
    if seconds < _SMALL:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((2 * _MINUTE, 1.0, "s"), (2 * _HOUR, _MINUTE, "min"), (2 * _DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / _DAY:,.0f} d"


def amount(value: float | None) -> str:
    """A count, or a rate: with one decimal where it is small and no whole number."""
    if value is None:
        return UNKNOWN
    return f"{value:,.1f}" if value < _SMALL and value != int(value) else f"{value:,.0f}"


def moment(value: datetime | str, zone: ZoneInfo) -> Moment:
    """Local, without its year where that is this one: 23 Nov 10:15:03."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    local = value.astimezone(zone)
    is_old = datetime.now(UTC) - value > timedelta(days=300)
    return Moment(f"{local:%d %b %Y %H:%M:%S}" if is_old else f"{local:%d %b %H:%M:%S}", rfc3339(value))


def short(text: str | None, characters: int = LONG) -> str:
    """The text, cut where it is very long."""
    text = text or ""
    return text if len(text) <= characters else text[: characters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def depth(line: QueueLine | None, parked: ParkedCount | None) -> str:
    """What a queue's number means. Parked events lie in the database, not in the queue, and are told apart from it."""
    if line is None:
        said = "not known"
    elif line.oldest_age_s is not None:
        said = f"the oldest {duration(line.oldest_age_s)} old"
    elif line.ready or line.unacked:
        said = "how old is not known"
    else:
        said = "the queue is empty"
    count = parked.waiting + parked.ready if parked else 0
    return f"{said}; {_events(count)} parked beside it" if count else said


def parked_events(count: ParkedCount) -> str:
    """How many events are parked, why, and for how long."""
    said = []
    if count.waiting:
        said.append(f"{_events(count.waiting)} parked until {_whose(count.waiting)} case is created")
    if count.ready:
        said.append(f"{_events(count.ready)} tried again now that {_whose(count.ready)} case is there")
    if count.oldest_age_s is not None:
        said.append(f"the oldest has been parked for {duration(count.oldest_age_s)}")
    return "; ".join(said) + "."


def _events(count: int) -> str:
    return count_of(count, "event is", "events are")


def _whose(count: int) -> str:
    return "its" if count == 1 else "their"


def detail(value: Any) -> str:
    """What an audit entry says of its action, in a line."""
    return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item not in (None, {}, [], ""))


def cases_written(value: Mapping[str, Any]) -> set[str]:
    """The cases that `detail` writes out: of a list it gives the length."""
    asked = value.get("filter")
    named = [value.get("case"), *((asked.get("case"), asked.get("reference")) if isinstance(asked, dict) else ())]
    return {case for case in named if isinstance(case, str) and case}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return f"({len(value):,})"
    return f"{value:,}" if isinstance(value, int) else str(value)
