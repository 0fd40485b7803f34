"""Which of the bounds are met, by the figures that the benchmarks left: python benchmarks/bounds.py.

A bound is what has to be reached, an aim what is hoped for. Ratios are of medians of one run on one machine. The page
`README.md` beside the figures is written anew: the bounds, and a table and a plot of each benchmark.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from figures import DIRECTORY, Series, number
from rich.console import Console
from rich.table import Table

OURS, SINGLE = "caselog, messages of 100, Redis", "caselog, single events, Redis"
TWO_SINGLE = "caselog, single events, 2 recorders, Redis"
APART = "caselog, single events, 2 pipelines apart, Redis"
ACTOR, NOTHING = "dramatiq actor an event, Redis", "dramatiq actor that does nothing, Redis"
FLOOR = "COPY of the same logs (the floor)"
AFTER_CHECKPOINT = "right after a checkpoint"
EMPTY = "0 logs"
GOOD = "2,000 that name their code, and are recorded"
NO_CODE, HALF_NO_CODE = "2,000 that name none, and are refused", "1,000 that name none, and are refused"
CHAIN, HALF_CHAIN = "2,000, each refusal brings the next to light", "1,000, each refusal brings the next to light"
# What is bounded by the processors is asked for as far as they allow: this much of it.
NEARLY = 0.9
Medians = Mapping[str, float]


class Bound(msgspec.Struct, frozen=True):
    """`value` of the medians of one benchmark, by name, is to be `least` at least, or `most` at most.

    `allowed` is what the machine allows at all: `least` is asked for as far as that goes.
    """

    benchmark: str
    what: str
    value: Callable[[Medians], float]
    least: float | None = None
    most: float | None = None
    aim: float | None = None
    allowed: Callable[[Medians], float] | None = None

    def judge(self, medians: Medians) -> tuple[float, str, bool]:
        """The value, what is asked for in words, and whether the value is it. Raises `LookupError` without figures."""
        value = self.value(medians)
        if self.most is not None:
            return value, f"at most {self.most:,}", value <= self.most
        assert self.least is not None
        least, asked = self.least, f"at least {self.least:,}"
        if self.allowed is not None and (nearly := NEARLY * (allowed := self.allowed(medians))) < least:
            least = nearly
            asked += f", or {number(nearly)}: {NEARLY} of {number(allowed)}, all that this machine allows"
        return value, asked, value >= least


def ratio(ours: str, theirs: str) -> Callable[[Medians], float]:
    return lambda medians: medians[ours] / medians[theirs]


def plain(name: str) -> Callable[[Medians], float]:
    return lambda medians: medians[name]


def grown(medians: Medians) -> float:
    """The rate with the longest log there was, as a share of that with none."""
    longest = [name for name in medians if not name.endswith(AFTER_CHECKPOINT)][-1]
    return medians[longest] / medians[EMPTY]


def of_recorder(medians: Medians) -> float:
    """With the longest log there was."""
    return [size for name, size in medians.items() if name.startswith("recorder")][-1]


def grows(medians: Medians) -> float:
    return medians["recorder: memory at the end"] - medians["recorder: memory half-way"]


BOUNDS = [
    Bound("throughput", "times a dramatiq actor an event", ratio(OURS, ACTOR), least=10, aim=15),
    Bound("throughput", "times a dramatiq actor that does nothing", ratio(OURS, NOTHING), least=5, aim=8),
    Bound("throughput", "share of the COPY floor", ratio(OURS, FLOOR), least=0.12, aim=0.25),
    Bound("throughput", "single events, times the actor that does nothing", ratio(SINGLE, NOTHING), least=3),
    Bound(
        "throughput",
        "two recorders, times one, single events (as far as two cores allow)",
        ratio(TWO_SINGLE, SINGLE),
        least=1.5,
        allowed=ratio(APART, SINGLE),
    ),
    Bound("publishing", "published/s, Redis", plain("dicts, messages of 100, Redis"), least=30_000),
    Bound("publishing", "published/s, RabbitMQ", plain("dicts, messages of 100, RabbitMQ"), least=30_000),
    Bound("latency", "median ms at 100 events/s", plain("100 events/s: median"), most=15),
    Bound("latency", "99 % ms at 100 events/s", plain("100 events/s: 99 %"), most=50),
    Bound("growth", "the longest log (10 million are meant), share of the rate on none", grown, least=0.85),
    Bound("growth_memory", "MB of a recorder with the longest log", of_recorder, most=150),
    Bound("poison_batch", "refused for naming no code, times good ones", ratio(NO_CODE, GOOD), most=3),
    Bound("poison_batch", "the same, times half as many", ratio(NO_CODE, HALF_NO_CODE), most=2.2),
    Bound("poison_batch", "each refusal brings the next to light, times good ones", ratio(CHAIN, GOOD), most=3),
    Bound("poison_batch", "the same, times half as many", ratio(CHAIN, HALF_CHAIN), most=2.2),
    Bound("memory", "MB of a recorder at most", plain("recorder: memory at most"), most=150),
    Bound("memory", "MB that a recorder grows in the second half", grows, most=5),
]


class Judged(msgspec.Struct, frozen=True):
    """A bound held against what was measured, in words."""

    bound: str
    measured: str
    needed: str
    aim: str
    verdict: str


def judged(found: Mapping[str, list[Series]]) -> list[Judged]:
    """Each bound that these benchmarks measured."""
    rows = []
    for bound in BOUNDS:
        medians = {one.name: one.median for one in found.get(bound.benchmark, ()) if one.values}
        try:
            value, needed, is_met = bound.judge(medians)
        except LookupError:
            continue
        aim = "" if bound.aim is None else f"{bound.aim:,}"
        verdict = "met" if is_met else "NOT MET"
        rows.append(Judged(f"{bound.benchmark}: {bound.what}", number(value), needed, aim, verdict))
    return rows


HEADINGS = ("bound", "measured", "has to be", "aim", "")


def print_bounds(found: Mapping[str, list[Series]]) -> None:
    """Say of each bound that these benchmarks measured whether it is met."""
    table = Table(*HEADINGS, title="Bounds")
    for row in judged(found):
        table.add_row(*msgspec.structs.astuple(row))
    if table.row_count:
        Console().print(table)


def page(documents: Mapping[str, dict[str, Any]], found: Mapping[str, list[Series]]) -> str:
    """All figures as one Markdown page: bounds, and of each benchmark its machine, table and plot."""
    lines = [
        "# Figures",
        "",
        "Written by `python benchmarks/bounds.py` from the JSON files beside it, which the benchmarks",
    ]
    lines += [
        "left. What each measures and how to read it: [benchmarks](../../benchmarks/README.md).",
        "",
        "## Bounds",
        "",
    ]
    lines += markdown(HEADINGS, [msgspec.structs.astuple(row) for row in judged(found)])
    for name, document in documents.items():
        machine = document["machine"]
        of = {key: value for key, value in document.items() if isinstance(value, int | float)}
        lines += ["", f"## {name}", "", f"![{name}]({name}.svg)", ""]
        lines += [", ".join([f"{key} {value:,}" for key, value in of.items()] + [described(machine)]) + ".", ""]
        heads = ("", f"{document['unit']}, median", "lowest", "highest")
        rows = [
            (s.name, *map(number, (s.median, min(s.values), max(s.values))), s.note) for s in found[name] if s.values
        ]
        noted = any(row[-1] for row in rows)
        lines += markdown((*heads, "") if noted else heads, [row if noted else row[:-1] for row in rows])
    return "\n".join([*lines, ""])


def described(machine: Mapping[str, Any]) -> str:
    load = f"load {machine['load_before_or_after']:.1f}"
    return f"{machine['processors']} processors, {machine['architecture']}, Python {machine['python']}, {load}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--figures", type=Path, default=DIRECTORY, metavar="DIR", help="where they are")
    directory = arguments.parse_args().figures
    documents = {path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(directory.glob("*.json"))}
    if not documents:
        raise SystemExit(f"there are no figures in {directory}: run `make bench` first")
    found = {name: msgspec.convert(document["series"], list[Series]) for name, document in documents.items()}
    print_bounds(found)
    (directory / "README.md").write_text(page(documents, found))


if __name__ == "__main__":
    main()
