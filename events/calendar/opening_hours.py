"""The hours of a week in which operators work, as a setting writes them (docs/rules.md §6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

from caselog.events.errors import did_you_mean

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DEFAULT_HOURS: Final = "mon-fri 09:00-20:00, sat 09:00-12:30"
EXPECTED: Final = f"expected days and hours such as {DEFAULT_HOURS!r}"

# Minutes of an hour and of a day.
_HOUR: Final = 60
_DAY: Final = 1440

_SPAN: Final = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", re.ASCII)

Span = tuple[int, int]


@dataclass(frozen=True)
class OpeningHours:
    """The spans of each weekday, Monday first: (opening, closing) in minutes since local midnight, closing up to 1,440.

    The spans of a day are in order and do not overlap. Raises ValueError where they are not so, or no day has any.
    """

    week: tuple[tuple[Span, ...], ...]

    def __post_init__(self) -> None:
        if len(self.week) != len(WEEKDAYS):
            raise ValueError(f"a week has {len(self.week)!r} days here; expected {len(WEEKDAYS)}, Monday first")
        if not any(self.week):
            raise ValueError(f"no day has any hours; {EXPECTED}")
        for day, spans in zip(WEEKDAYS, self.week, strict=True):
            for span in spans:
                _check(span)
            for before, after in pairwise(spans):
                if after[0] < before[1]:
                    raise ValueError(f"on {day} {_written(before)!r} and {_written(after)!r} overlap; {EXPECTED}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The hours written as 'mon-fri 09:00-12:00 13:00-17:00, sat 09:00-12:30'.

        Each part has a weekday or a range of them, then its spans; a day may stand in several parts. '24:00' is the
        day's end. Raises ValueError: one line that names what is wrong and what was expected.
        """
        week: list[list[Span]] = [[] for _ in WEEKDAYS]
        for part in text.lower().split(","):
            days, *spans = part.split() or [""]
            if not days or not spans:
                raise ValueError(f"{part.strip()!r} is not a day with its hours; {EXPECTED}")
            for day in _days(days):
                week[day] += map(_span, spans)
        return cls(tuple(tuple(sorted(spans)) for spans in week))

    def __str__(self) -> str:
        """As `parse` reads it, one part a day."""
        open_days = [(day, spans) for day, spans in zip(WEEKDAYS, self.week, strict=True) if spans]
        return ", ".join(f"{day} {' '.join(map(_written, spans))}" for day, spans in open_days)


def _days(text: str) -> list[int]:
    """'fri' is [4]; 'fri-mon' is [4, 5, 6, 0]."""
    first, dash, last = text.partition("-")
    begin = _weekday(first)
    length = (_weekday(last) - begin) % len(WEEKDAYS) if dash else 0
    return [(begin + day) % len(WEEKDAYS) for day in range(length + 1)]


def _weekday(name: str) -> int:
    if name not in WEEKDAYS:
        raise ValueError(f"{name!r} is not one of {', '.join(WEEKDAYS)}; {EXPECTED}.{did_you_mean(name, WEEKDAYS)}")
    return WEEKDAYS.index(name)


def _span(text: str) -> Span:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a span of hours; {EXPECTED}")
    numbers = [int(number) for number in found.groups()]
    if max(numbers[1], numbers[3]) >= _HOUR:
        raise ValueError(f"{text!r} is not a span of hours: an hour has 60 minutes; {EXPECTED}")
    span = (numbers[0] * _HOUR + numbers[1], numbers[2] * _HOUR + numbers[3])
    _check(span)
    return span


def _check(span: Span) -> None:
    opening, closing = span
    if not 0 <= opening <= _DAY or not 0 <= closing <= _DAY:
        raise ValueError(f"{_written(span)!r} lies outside of the day, 00:00-24:00; {EXPECTED}")
    if closing == opening:
        raise ValueError(f"{_written(span)!r} does not close after it opens; {EXPECTED}")
    if closing < opening:
        raise ValueError(
            f"{_written(span)!r} closes before it opens; hours past midnight are two spans, "
            f"{_written((opening, _DAY))!r} and {_written((0, closing))!r} of the next day; {EXPECTED}"
        )


def _written(span: Span) -> str:
    return "-".join(f"{minutes // _HOUR:02}:{minutes % _HOUR:02}" for minutes in span)
