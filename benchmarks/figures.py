"""What a benchmark found: a table to read, the raw figures as JSON, and a plot as SVG."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from html import escape
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

DIRECTORY = Path(__file__).parents[1] / "docs" / "benchmarks"
WIDTH, ROW, LEFT, TOP, RIGHT = 860, 26, 340, 56, 120


class Series(msgspec.Struct):
    """One contender: its figure of each turn, and which share of the processors was busy, where that was looked at."""

    name: str
    values: list[float] = msgspec.field(default_factory=list)
    busy: list[float] = msgspec.field(default_factory=list)
    is_ours: bool = True

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def note(self) -> str:
        return f"{statistics.median(self.busy):.0%} of the processors busy" if self.busy else ""


def add_output(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--output", type=Path, default=DIRECTORY, metavar="DIR", help="where the JSON and the SVG go (docs/benchmarks)"
    )


def print_series(title: str, unit: str, series: list[Series], base: str | None = None) -> None:
    """A table of medians, of the lowest and highest, and of how many times the median of the contender `base`."""
    table = Table("contender", f"{unit}, median", "lowest", "highest", title=title)
    against = next((one.median for one in series if one.name == base), None)
    if against is not None:
        table.add_column(f"times {base!r}")
    noted = any(one.note for one in series)
    if noted:
        table.add_column("")
    for one in series:
        cells = [one.name, *(number(value) for value in (one.median, min(one.values), max(one.values)))]
        cells += [] if against is None else [f"{one.median / against:.2f}"]
        table.add_row(*cells, *([one.note] if noted else []))
    Console().print(table)


def write_figures(directory: Path, name: str, figures: dict[str, Any]) -> None:
    """Write `<name>.json`, with what the machine was."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, "machine": _machine(), **figures}
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=1)
    (directory / f"{name}.json").write_bytes(encoded + b"\n")
    Console(stderr=True).print(f"written: {directory / name}.json")


def write_bars(directory: Path, name: str, title: str, unit: str, series: list[Series]) -> None:
    """Write `<name>.svg`: a bar for each median, with a line from the lowest to the highest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.svg").write_text(bars(title, unit, series))


def bars(title: str, unit: str, series: list[Series]) -> str:
    """A bar chart as SVG; readable on white and on black."""
    longest = max(max(one.values) for one in series) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / longest
    height = TOP + ROW * len(series) + 16
    spread = ": median; the line goes from lowest to highest" if any(len(one.values) > 1 for one in series) else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
        ' font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="16" font-weight="600" fill="#222222">{escape(title)}</text>',
        f'<text x="16" y="43" fill="#666666">{escape(unit)}{spread}</text>',
    ]
    for row, one in enumerate(series):
        top = TOP + ROW * row
        middle, end = top + ROW / 2, LEFT + one.median * scale
        low, high = LEFT + min(one.values) * scale, LEFT + max(one.values) * scale
        colour = "#2f6fb2" if one.is_ours else "#b0b4ba"
        parts += [
            f'<text x="{LEFT - 8}" y="{middle + 4.5:.1f}" text-anchor="end" fill="#222222">{escape(one.name)}</text>',
            f'<rect x="{LEFT}" y="{top + 4}" width="{max(end - LEFT, 1):.1f}" height="{ROW - 8}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#222222"/>',
            f'<text x="{max(end, high) + 8:.1f}" y="{middle + 4.5:.1f}" fill="#222222">{number(one.median)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def number(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three figures are enough


def _machine() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "load_before_or_after": os.getloadavg()[0],
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
