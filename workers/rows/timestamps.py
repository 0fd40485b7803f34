"""Moments as people type them: RFC 3339, or a day or time of theirs."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from caselog.events.errors import CaselogError

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)


class NotAMoment(CaselogError):
    """A text that is no moment; it says what would be one."""


def moment(value: str, zone: ZoneInfo) -> datetime:
    """The moment in UTC. Without an offset it is local, and a day alone is its last microsecond.

    Of a time that the clocks show twice it is the first. Raises `NotAMoment`.
    """
    return _read(value, zone, ends=True)


def beginning(value: str, zone: ZoneInfo) -> datetime:
    """As `moment`, for what starts there: a day alone is its first instant."""
    return _read(value, zone, ends=False)


def _read(value: str, zone: ZoneInfo, *, ends: bool) -> datetime:
    try:
        if _DAY.fullmatch(value):
            day = date.fromisoformat(value)
            if not ends:
                return datetime.combine(day, time(), zone).astimezone(UTC)
            midnight = datetime.combine(day + timedelta(days=1), time(), zone)
            return midnight.astimezone(UTC) - timedelta(microseconds=1)
        if _TIME.fullmatch(value):
            given = datetime.fromisoformat(value.upper())
            return (given if given.tzinfo is not None else given.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise NotAMoment(
        f"{value!r} is no moment: give 2026-11-22T10:15:00Z, 2026-11-22T10:15 ({zone.key}) or 2026-11-22 "
        f"(its {'end' if ends else 'beginning'})"
    )
