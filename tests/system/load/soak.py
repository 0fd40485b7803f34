"""The load rig: a whole pipeline under steady load takes up no more after an hour than after a minute; and overload.

    make soak SECONDS=3600 RATE=200 BROKER=redis
    make soak SECONDS=600 RATE=100 BROKER=rabbitmq ARGS="--overload --flood-rate 2000 --batch-events 25"

Steady: single events at RATE a second, two recorders, tasks and status; pages are read and reports exported meanwhile.
Memory, open files and threads of every process are taken every few seconds, and compared with what they were after the
first minute. Overload: before and after it is calm at RATE; for SECONDS events come more quickly than they are
recorded. Exits 0 only where every promise held.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Final

from footprint import ALLOWED, Allowed, Series, Verdict, judge
from rich.console import Console
from rich.table import Table
from under_load import DRAIN_S, Look, UnderLoad

SERVERS: Final = {
    "used memory, MiB": Allowed(more=4, an_hour=4),
    "sessions": Allowed(more=4, an_hour=4),
}
# In a flood every batch is full, and so are the buffers of all that read and write them.
MOST_MORE: Final = {"RSS, MiB": 32.0, "PSS, MiB": 32.0, "open files": 6.0, "threads": 6.0}
# What others do on the machine may delay an event by so much.
SHARED_MS: Final = 100.0
# On RabbitMQ the age is what recorders said last, about once a second.
LATE_S: Final = 5.0
# All is worked off when no event waits for longer.
CALM_AGE_S: Final = 1.0


@dataclass(frozen=True)
class Spans:
    """How long the parts of a run last; on a machine that is busy with other things a look takes longer than it should.

    `settled` looks are left out at the beginning, and the medians of `window` looks are compared. `calm_s` is the time
    before a flood and after it. `apart_s` is how far the oldest event's age as the rig knows it and as health told it
    may lie apart.
    """

    seconds: float
    look_s: float = 5.0
    settled: int = 12
    window: int = 36
    calm_s: float = 120.0
    apart_s: float = 5.0


def soak(load: UnderLoad, spans: Spans) -> list[Verdict]:
    """Steady load for `spans.seconds`. The verdict of each quantity of each process."""
    load.work(spans.seconds, spans.look_s, spans.settled + 2 * spans.window)
    verdicts = [
        judge(one, (ALLOWED | SERVERS)[one.what], settled=spans.settled, window=spans.window) for one in load.series()
    ]
    load.broken += [verdict.grew for verdict in verdicts if verdict.grew]
    _finish(load)
    return verdicts


def overload(load: UnderLoad, spans: Spans, flood_rate: float, red_after_s: float) -> list[Verdict]:
    """Calm, flood for `spans.seconds`, and calm again when all is worked off."""
    calm = load.work(spans.calm_s, spans.look_s, spans.settled + 5)[spans.settled :]
    load.publish("flood", flood_rate)
    flooded_s = load.elapsed_s
    highest = max(look.waiting for look in load.work(spans.seconds, spans.look_s))
    load.end_publisher("flood")
    over_s = load.elapsed_s
    deadline_s = over_s + DRAIN_S
    while not _is_calm(load.look()) and load.elapsed_s < deadline_s:
        sleep(spans.look_s)
    drained_s = load.elapsed_s
    after = load.work(spans.calm_s, spans.look_s, spans.settled + 5)[spans.settled :]
    before_ms, after_ms = (1000 * _median(looks, lambda look: look.waited_median_s) for looks in (calm, after))
    load.numbers |= {
        "seconds of flood": round(over_s - flooded_s),
        "most messages that waited": highest,
        "seconds from its end until all was worked off": round(drained_s - over_s),
        "ms from publish to commit, median, before": round(before_ms),
        "... after": round(after_ms),
    }
    if after_ms > 2 * before_ms + SHARED_MS:
        load.broken.append(f"publish to commit took {before_ms:.0f} ms before, and {after_ms:.0f} ms after")
    _check_health(load, red_after_s, spans.apart_s, flooded_s, over_s)
    verdicts = [
        _judge_most(one, calm, load.looks[spans.settled + len(calm) :]) for one in load.series() if one.what in ALLOWED
    ]
    load.broken += [verdict.grew for verdict in verdicts if verdict.grew]
    _finish(load)
    return verdicts


def _judge_most(one: Series, calm: list[Look], flooded: list[Look]) -> Verdict:
    """The most of a quantity after the flood's beginning, against the median of the calm before it."""
    first = statistics.median(look.processes[one.who][one.what] for look in calm)
    most = max(look.processes[one.who][one.what] for look in flooded)
    grew = f"{one.who}: {one.what} {first:.1f} → {most:.1f} in the flood" if most - first > MOST_MORE[one.what] else ""
    return Verdict(one, first, most, 0.0, grew)


def _is_calm(look: Look) -> bool:
    return look.oldest_s[0] < CALM_AGE_S and (look.waited_median_s or 0) < CALM_AGE_S


def _check_health(load: UnderLoad, red_after_s: float, apart_s: float, flooded_s: float, over_s: float) -> None:
    """`queue` is red exactly while the oldest event is older than its threshold; no other check that means a fault."""
    broken, numbers = load.broken, load.numbers
    reds = [look for look in load.looks if "queue" in look.red]
    if reds:
        numbers["queue red, seconds after the flood's beginning"] = round(reds[0].at_s - flooded_s)
        numbers["... and green again, seconds after its end"] = round(reds[-1].at_s - over_s)
    else:
        oldest_s = max(look.oldest_s[0] for look in load.looks)
        broken.append(f"that was no overload: `queue` never turned red, and the oldest event was {oldest_s:.1f} s old")
    for look in load.looks:
        is_red = "queue" in look.red
        lately = [one.oldest_s[1] for one in load.looks if 0 <= look.at_s - one.at_s <= LATE_S]
        if is_red and max(lately) < red_after_s - apart_s:
            broken.append(f"queue is red at {look.at_s:.0f} s, and the oldest event is {max(lately):.1f} s old")
        if not is_red and look.oldest_s[0] > red_after_s + apart_s:
            broken.append(f"queue is green at {look.at_s:.0f} s, and the oldest event is {look.oldest_s[0]:.1f} s old")
        if faults := set(look.red) - {"queue", "aggregates", "*"}:
            broken.append(f"at {look.at_s:.0f} s red: {', '.join(sorted(faults))}")
    if load.looks[-1].red:
        broken.append(f"red in the end: {load.looks[-1].red}")


def _median(looks: list[Look], of: Callable[[Look], float | None]) -> float:
    return statistics.median(value for look in looks if (value := of(look)) is not None)


def _finish(load: UnderLoad) -> None:
    load.settle()
    load.count()


def write_looks(load: UnderLoad) -> None:
    """Every look as a row, for who wants to draw it."""
    with (load.directory / "looks.csv").open("w") as file:
        rows = csv.writer(file)
        names = {name: None for look in load.looks for name in look.processes}
        whos = [(name, what) for name in names for what in ALLOWED]
        plain = ("at_s", "waiting", "oldest_s", "recorded", "waited_median_s", "waited_95_s", "redis_mib", "sessions")
        rows.writerow([*plain, "red", *(f"{name} {what}" for name, what in whos)])
        for look in load.looks:
            footprints = [look.processes.get(name, {}).get(what, "") for name, what in whos]
            rows.writerow([*(getattr(look, name) for name in plain), " ".join(look.red), *footprints])


def show(load: UnderLoad, verdicts: list[Verdict], last: str) -> None:
    console = Console(width=150)
    table = Table("process", "what", "after the start", last, "an hour", "", title="What is taken up")
    for one in verdicts:
        style = "red" if one.grew else None
        cells = [f"{one.first:.1f}", f"{one.last:.1f}", f"{one.an_hour:+.1f}", one.series.sparkline()]
        table.add_row(one.series.who, one.series.what, *cells, style=style)
    console.print(table)
    waited = [look.waited_median_s * 1000 for look in load.looks if look.waited_median_s is not None]
    console.print(f"publish to commit, ms, medians: {Series('', '', range(len(waited)), waited).sparkline()}")
    waiting = [float(look.waiting) for look in load.looks]
    console.print(f"messages waiting:               {Series('', '', range(len(waiting)), waiting).sparkline()}")
    table = Table("what", "how many", title=f"{load.broker}, {load.rate:g} events a second")
    for what, count in load.numbers.items():
        table.add_row(what, f"{count:,}")
    console.print(table)
    for line in load.broken:
        console.print(f"BROKEN: {line}", style="red", markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="of steady load, or of flood")
    parser.add_argument("--rate", type=float, default=200, help="events a second while it is calm")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--recorders", type=int, default=2)
    parser.add_argument(
        "--overload", action="store_true", help="more than the recorders manage, instead of steady load"
    )
    parser.add_argument("--flood-rate", type=float, default=0, help="events a second; 0: as many as the broker takes")
    parser.add_argument("--batch-events", type=int, default=1000, help="events a transaction: few make slow recorders")
    parser.add_argument("--red-after", type=int, default=60, help="CASELOG_HEALTH_QUEUE_AGE_S")
    parser.add_argument("--directory", type=Path, help="for data and logs; kept. Unset: temporary, kept on failure")
    chosen = parser.parse_args()
    directory = chosen.directory or Path(tempfile.mkdtemp(prefix="caselog-load-", dir="/tmp"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"logs and figures in {directory}", flush=True)  # noqa: T201 - a script
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = {
        "CASELOG_BATCH_EVENTS": str(chosen.batch_events),
        "CASELOG_HEALTH_QUEUE_AGE_S": str(chosen.red_after),
    }
    load = UnderLoad(directory, chosen.broker, chosen.rate, chosen.recorders, settings)
    try:
        if chosen.overload:
            show(load, overload(load, Spans(chosen.seconds), chosen.flood_rate, chosen.red_after), "most in the flood")
        else:
            show(load, soak(load, Spans(chosen.seconds)), "at the end")
    finally:
        write_looks(load)
        load.close()
    if not load.broken and chosen.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if load.broken else 0


if __name__ == "__main__":
    sys.exit(main())
