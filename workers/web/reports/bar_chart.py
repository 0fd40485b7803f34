"""A bar chart of one number over time, as places and words that a template draws (docs/decisions/0065)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from math import ceil, floor, log10
from typing import Final

import msgspec

from caselog.schema.reports.reading import PERIODS, By

WIDTH: Final = 760
HEIGHT: Final = 220
TOP: Final = 14
BOTTOM: Final = 36
# A bar and its gap then have more than 5 units, which on a phone are two of its pixels and more on anything else.
MOST_BARS: Final = 124
WIDEST_BAR: Final = 56.0
# On phones, where a unit is half a pixel, the stylesheet writes so large.
_LETTER: Final = 14
_LETTER_WIDTH: Final = 0.6
_BESIDE: Final = 12
DAYS_BY_DAY: Final = 92
DAYS_BY_WEEK: Final = 2 * 366
_LABELS: Final = 4
_TICKS: Final = 4


class Bar(msgspec.Struct, frozen=True):
    """One day, week or month. `words` says what its number is."""

    x: float
    y: float
    width: float
    height: float
    words: str


class Mark(msgspec.Struct, frozen=True):
    """A label at its place along an axis."""

    at: float
    label: str


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Everything is in units of the drawing, WIDTH by HEIGHT, from the upper left."""

    title: str
    description: str
    bars: Sequence[Bar]
    across: Sequence[Mark]
    upwards: Sequence[Mark]
    left: int
    width: int = WIDTH
    height: int = HEIGHT
    floor: int = HEIGHT - BOTTOM


def step(first: date, last: date, by: By | None) -> By:
    """What one bar is for: what is asked for, or what lets the whole range be seen where that is longer."""
    days = (last - first).days + 1
    needed: By = "day" if days <= DAYS_BY_DAY else "week" if days <= DAYS_BY_WEEK else "month"
    return max(needed, by or "day", key=PERIODS.index)


def draw(
    series: Sequence[tuple[date, float]], first: date, last: date, by: By, *, what: str, unit: str
) -> Chart | None:
    """A bar for each period from the first day's to the last day's; 0 where the series, sorted by day, has nothing.

    A range that is too long for that is cut to where there is something. None where there is nothing at all, or too
    much.
    """
    if not series:
        return None
    start, end = _start(first, by), _start(last, by)
    if _count(start, end, by) > MOST_BARS:
        start, end = series[0][0], series[-1][0]
    if _count(start, end, by) > MOST_BARS:
        return None
    found = dict(series)
    days = list(_periods(start, end, by))
    numbers = [max(found.get(day, 0.0), 0.0) for day in days]
    top, ticks = _ticks(max(numbers))
    left = _BESIDE + _LETTER * max(len(_number(tick)) for tick in ticks)
    across = (WIDTH - left) / len(days)
    upwards = (HEIGHT - TOP - BOTTOM) / top
    base = HEIGHT - BOTTOM
    width = min(across * 0.8, WIDEST_BAR)
    years = start.year != end.year
    bars = [
        Bar(
            x=round(left + (place + 0.5) * across - width / 2, 2),
            y=round(base - number * upwards, 2),
            width=round(width, 2),
            height=round(number * upwards, 2),
            words=f"{spoken(day, by)}: {_counted(number, unit)}",
        )
        for place, (day, number) in enumerate(zip(days, numbers, strict=True))
    ]
    each = ceil(len(days) / _LABELS)
    highest = max(range(len(days)), key=numbers.__getitem__)
    return Chart(
        title=f"{what} per {by}",
        description=(
            f"Bars from {spoken(days[0], by)} to {spoken(days[-1], by)}. The highest is "
            f"{_counted(numbers[highest], unit)}, {spoken(days[highest], by)}."
        ),
        left=left,
        bars=bars,
        across=[
            _mark(left + (place + 0.5) * across, _label(days[place], by, years=years))
            for place in range((each - 1) // 2, len(days), each)
        ],
        upwards=[Mark(round(base - tick * upwards, 2), _number(tick)) for tick in ticks],
    )


def _mark(at: float, label: str) -> Mark:
    """The label in the middle of its bar, or as far to the right as it is whole."""
    half = len(label) * _LETTER * _LETTER_WIDTH / 2
    return Mark(round(min(at, WIDTH - half), 2), label)


def spoken(day: date, by: By) -> str:
    """A period in words, told by its first day."""
    if by == "month":
        return f"{day:%B} {day.year}"
    return f"{'week of ' if by == 'week' else ''}{day.day} {day:%B} {day.year}"


def _label(day: date, by: By, *, years: bool) -> str:
    name = f"{day:%b}" if by == "month" else f"{day.day} {day:%b}"
    return f"{name} {day.year}" if years or by == "month" else name


def _start(day: date, by: By) -> date:
    if by == "week":
        return date.fromordinal(max(day.toordinal() - day.weekday(), 1))
    return day.replace(day=1) if by == "month" else day


def _count(start: date, end: date, by: By) -> int:
    if by == "month":
        return (end.year - start.year) * 12 + end.month - start.month + 1
    return (end - start).days // (7 if by == "week" else 1) + 1


def _periods(start: date, end: date, by: By) -> Iterator[date]:
    for place in range(_count(start, end, by)):
        if by == "month":
            months = start.year * 12 + start.month - 1 + place
            yield date(months // 12, months % 12 + 1, 1)
        else:
            yield start + timedelta(days=place * (7 if by == "week" else 1))


def _ticks(highest: float) -> tuple[float, list[float]]:
    """Where the axis ends, and round numbers up to there; whole ones, since what is drawn is counted."""
    rough = max(highest / _TICKS, 1.0)
    power = 10 ** floor(log10(rough))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    top = size * max(ceil(highest / size), 1)
    ticks = [size * place for place in range(round(top / size) + 1)]
    return top, ticks


def _counted(number: float, unit: str) -> str:
    """The number and its unit, whose first word is a plural: 1 second a timer, 2 seconds a timer."""
    counted, _, rest = unit.partition(" ")
    return f"{_number(number)} {counted.removesuffix('s') if number == 1 else counted}{' ' if rest else ''}{rest}"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:,.2f}"
