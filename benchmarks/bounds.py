"""Which of the bounds are met, by the figures that the benchmarks left: python benchmarks/bounds.py.

A bound is what has to be reached, an aim what is hoped for. Ratios are of medians of one run on one machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from figures import DIRECTORY, Series
from rich.console import Console
from rich.table import Table

OURS, SINGLE = "caselog, messages of 100, Redis", "caselog, single events, Redis"
TWO, TWO_SINGLE = "caselog, messages of 100, 2 recorders, Redis", "caselog, single events, 2 recorders, Redis"
ACTOR, NOTHING = "dramatiq actor an event, Redis", "dramatiq actor that does nothing, Redis"
FLOOR = "COPY of the same logs (the floor)"
EMPTY, GROWN = "0 logs", "10,000,000 logs"
Medians = Mapping[str, float]


class Bound(msgspec.Struct, frozen=True):
    """`value` of the medians of one benchmark, by name, is to be `least` at least, or `most` at most."""

    benchmark: str
    what: str
    value: Callable[[Medians], float]
    least: float | None = None
    most: float | None = None
    aim: float | None = None

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def ratio(ours: str, theirs: str) -> Callable[[Medians], float]:
    return lambda medians: medians[ours] / medians[theirs]


def plain(name: str) -> Callable[[Medians], float]:
    return lambda medians: medians[name]


def grows(medians: Medians) -> float:
    return medians["recorder: memory at the end"] - medians["recorder: memory half-way"]


BOUNDS = [
    Bound("throughput", "times a dramatiq actor an event", ratio(OURS, ACTOR), least=10, aim=15),
    Bound("throughput", "times a dramatiq actor that does nothing", ratio(OURS, NOTHING), least=5, aim=8),
    Bound("throughput", "share of the COPY floor", ratio(OURS, FLOOR), least=0.12, aim=0.25),
    Bound("throughput", "single events, times the actor that does nothing", ratio(SINGLE, NOTHING), least=3),
    Bound("throughput", "two recorders, times one (as far as two cores allow)", ratio(TWO, OURS), least=1.5),
    Bound("throughput", "two recorders, single events, times one", ratio(TWO_SINGLE, SINGLE), least=1.5),
    Bound("publishing", "published/s, Redis", plain("dicts, messages of 100, Redis"), least=30_000),
    Bound("publishing", "published/s, RabbitMQ", plain("dicts, messages of 100, RabbitMQ"), least=30_000),
    Bound("latency", "median ms at 100 events/s", plain("100 events/s: median"), most=15),
    Bound("latency", "99 % ms at 100 events/s", plain("100 events/s: 99 %"), most=50),
    Bound("growth", "10 million logs, share of the rate on none", ratio(GROWN, EMPTY), least=0.85),
    Bound("memory", "MB of a recorder at most", plain("recorder: memory at most"), most=150),
    Bound("memory", "MB that a recorder grows in the second half", grows, most=5),
]


def print_bounds(found: Mapping[str, list[Series]]) -> None:
    """Say of each bound that these benchmarks measured whether it is met."""
    table = Table("bound", "measured", "has to be", "aim", "", title="Bounds")
    for bound in BOUNDS:
        medians = {one.name: one.median for one in found.get(bound.benchmark, ()) if one.values}
        try:
            value = bound.value(medians)
        except KeyError:
            continue
        needed = f"at least {bound.least:,}" if bound.least is not None else f"at most {bound.most:,}"
        aim = "" if bound.aim is None else f"{bound.aim:,}"
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three figures are enough
        table.add_row(
            f"{bound.benchmark}: {bound.what}", shown, needed, aim, "met" if bound.is_met(value) else "NOT MET"
        )
    if table.row_count:
        Console().print(table)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--figures", type=Path, default=DIRECTORY, metavar="DIR", help="where they are")
    directory = arguments.parse_args().figures
    found = {}
    for path in sorted(directory.glob("*.json")):
        document = msgspec.json.decode(path.read_bytes())
        found[document["benchmark"]] = msgspec.convert(document.get("series", []), list[Series])
    if not found:
        raise SystemExit(f"there are no figures in {directory}: run `make bench` first")
    print_bounds(found)


if __name__ == "__main__":
    main()
