"""What a process takes up, over time: whether the end is as the beginning, told by medians and by a slope."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psutil

MIB: Final = 1 << 20
HOUR_S: Final = 3600.0
BARS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Allowed:
    """How much more of a quantity the end may show than the beginning, and how much it may grow in an hour."""

    more: float
    an_hour: float


# Allocators keep pages that a batch or a page of HTML once needed, and pools open a connection more when two threads
# meet: neither comes again and again. What leaks by the event or by the second is far beyond these after an hour.
ALLOWED: Final = {
    "RSS, MiB": Allowed(more=8, an_hour=8),
    "PSS, MiB": Allowed(more=8, an_hour=8),
    "open files": Allowed(more=4, an_hour=4),
    "threads": Allowed(more=4, an_hour=4),
}


@dataclass(frozen=True)
class Series:
    """One quantity of one process: its values, and the seconds since the start at which they were taken."""

    who: str
    what: str
    times_s: Sequence[float]
    values: Sequence[float]

    def sparkline(self, width: int = 60) -> str:
        """The medians of as many spans of equal length, from the lowest to the highest; a level line is low."""
        values = list(self.values)
        size = max(1, -(-len(values) // width))
        medians = [statistics.median(values[at : at + size]) for at in range(0, len(values), size)]
        low, span = min(medians), max(medians) - min(medians)
        return "".join(BARS[int((value - low) / span * (len(BARS) - 1))] if span else BARS[0] for value in medians)


@dataclass(frozen=True)
class Verdict:
    """What was found of a series. `grew` says why it is not level; empty: it is."""

    series: Series
    first: float
    last: float
    an_hour: float
    grew: str


def slope_an_hour(series: Series, from_s: float) -> float:
    """By how much the series grows in an hour, from a moment on: the median of the slopes of all pairs (Theil, Sen).

    A single leap, or a page in use while it was looked at, moves it little.
    """
    points = [(at, value) for at, value in zip(series.times_s, series.values, strict=True) if at >= from_s]
    step = max(1, len(points) // 200)  # of more points there are too many pairs
    pairs = itertools.combinations(points[::step], 2)
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in pairs if t > s]
    return statistics.median(slopes) * HOUR_S if slopes else 0.0


def judge(series: Series, allowed: Allowed, *, settled: int, window: int) -> Verdict:
    """Compare the last `window` values with the first ones after `settled`, and look at the slope of the second half.

    The slope counts from half an hour on: of a shorter run it is noise.
    """
    first = statistics.median(series.values[settled : settled + window])
    last = statistics.median(series.values[-window:])
    settled_s, end_s = series.times_s[settled], series.times_s[-1]
    an_hour = slope_an_hour(series, (settled_s + end_s) / 2)
    grew = ""
    if last - first > allowed.more:
        grew = f"{series.who}: {series.what} {first:.1f} → {last:.1f}, more than {allowed.more:g} more"
    elif an_hour > allowed.an_hour and (end_s - settled_s) >= HOUR_S / 2:
        grew = f"{series.who}: {series.what} grows by {an_hour:.1f} an hour, more than {allowed.an_hour:g}"
    return Verdict(series, first, last, an_hour, grew)


def of_tree(pid: int) -> dict[str, float]:
    """What a process and its children take up now, by the names of `ALLOWED`. Empty where it has ended."""
    found = dict.fromkeys(ALLOWED, 0.0)
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in tree:
        with suppress(psutil.NoSuchProcess), process.oneshot():
            memory = process.memory_full_info()
            found["RSS, MiB"] += memory.rss / MIB
            found["PSS, MiB"] += memory.pss / MIB
            found["open files"] += process.num_fds()
            found["threads"] += process.num_threads()
    return found
