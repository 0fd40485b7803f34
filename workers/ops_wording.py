"""How the ops page writes numbers, ages and moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from workers.output import rfc3339

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


def detail(value: Any) -> str:
    """What an audit entry says of its action, in a line."""
    return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item not in (None, {}, [], ""))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return f"({len(value):,})"
    return f"{value:,}" if isinstance(value, int) else str(value)
