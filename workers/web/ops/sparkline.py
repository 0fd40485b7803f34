"""Small charts of one line, as the path of an SVG: no script draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

WIDTH: Final = 120
HEIGHT: Final = 28
# Room for the line's own width at the top and at the bottom.
_MARGIN: Final = 2


class Sparkline(msgspec.Struct, frozen=True):
    """`line` and `area` are paths in a box of `WIDTH` by `HEIGHT`; empty where nothing is known. `highest` is known."""

    line: str
    area: str
    highest: float


def draw(values: Sequence[float | None]) -> Sparkline:
    """One step a value, from left to right, from zero up; where a value is None the line has a gap."""
    known = [value for value in values if value is not None]
    highest = max(known, default=0.0)
    step = WIDTH / max(1, len(values) - 1)
    runs: list[list[tuple[float, float]]] = [[]]
    for number, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            share = value / highest if highest else 0.0
            runs[-1].append((number * step, HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN)))
    drawn = [run if len(run) > 1 else [run[0], (run[0][0] + 0.5, run[0][1])] for run in runs if run]
    lines = [_path(run) for run in drawn]
    areas = [f"{line}V{HEIGHT}H{run[0][0]:g}Z" for line, run in zip(lines, drawn, strict=True)]
    return Sparkline("".join(lines), "".join(areas), highest)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
