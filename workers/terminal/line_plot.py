"""A number over time, drawn with characters in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

import plotext

from caselog.schema.reports.reading import By

# A label such as 2026-11-23, and room to tell it from the next.
_LABEL_CELLS: Final = 14
_VALUE_LABELS: Final = 5


def draw(
    points: Sequence[tuple[date, float]], *, title: str, unit: str, width: int, height: int, colored: bool = False
) -> str:
    """The points, in the order of their days, as lines of text. Raises nothing for a single one.

    `width` and `height` are those of the terminal, in cells.
    """
    figure = plotext.figure
    figure.clear()  # the library has one figure for all
    plotext.terminal.limit(width=False, height=False)  # else its own idea of the terminal counts
    figure.theme("colorless")
    figure.plot_size(width, height - 1)
    days = [day.toordinal() for day, _ in points]
    values = [value for _, value in points]
    signal = figure.signal(days, values, marker=plotext.marker("hd", "blue+"))
    signal.lines()
    figure.draw(signal)
    labelled = _evenly(len(points), max(2, width // _LABEL_CELLS))
    figure.ruler("x").ticks([days[at] for at in labelled], [points[at][0].isoformat() for at in labelled])
    top = max(values)
    marks = sorted({_rounded(top * at / (_VALUE_LABELS - 1), top) for at in range(_VALUE_LABELS)})
    figure.ruler("y").ticks(marks, [f"{mark:,}" for mark in marks])
    figure.ruler("y").lim(0, top or 1)
    figure.label(unit, "y")
    drawn: str = figure.build().string()
    # The library leaves out a title that is too long for it.
    return f"{title[:width]:^{width}}\n{drawn if colored else plotext.uncolorize(drawn)}"


def filled(points: Sequence[tuple[date, float]], by: By) -> list[tuple[date, float]]:
    """The same with a 0 for each period between the first and the last in which there was nothing."""
    known = dict(points)
    periods = []
    if points:
        period = points[0][0]
        while period <= points[-1][0]:
            periods.append(period)
            period = _after(period, by)
    return [(period, known.get(period, 0)) for period in periods]


def _after(period: date, by: By) -> date:
    if by == "month":
        return (period.replace(day=1) + timedelta(days=31)).replace(day=1)
    return period + timedelta(days=7 if by == "week" else 1)


def _evenly(count: int, most: int) -> list[int]:
    """Places from the first to the last, evenly apart, no more than `most`."""
    steps = min(count, most) - 1
    return [0] if steps == 0 else [round(at * (count - 1) / steps) for at in range(steps + 1)]


def _rounded(value: float, top: float) -> float:
    """Whole where whole numbers tell the marks apart."""
    return round(value) if top >= _VALUE_LABELS else round(value, 2)
