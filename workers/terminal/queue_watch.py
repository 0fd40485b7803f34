"""`caselog queues --watch`: the queues live in the terminal, or as JSON lines for a program."""

from __future__ import annotations

import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from caselog.schema.operations.pause import Pause
from caselog.workers.health.queue_rates import QueueLine
from caselog.workers.health.sampler import AWAY
from caselog.workers.rows.output import json_line, make_table

if TYPE_CHECKING:
    from caselog.workers.health.queues import QueueView

EVERY_S: Final = 1.0
SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARKS_WIDTH: Final = 40
COLUMNS: Final = ("queue", "ready", "unacked", "oldest_age_s", "in_per_s", "out_per_s", "consumers")
# A server that is away is said, and looked for again: then most of all somebody watches.


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a second of watching saw: the queues, or why they could not be seen."""

    time: datetime
    queues: list[QueueLine] = []  # msgspec copies it
    error: str | None = None


def samples(view: QueueView) -> Iterator[Sample]:
    """A sample a second, for ever."""
    due = time.monotonic()
    while True:
        now = datetime.now(UTC)
        try:
            yield Sample(now, view.lines())
        except AWAY as error:
            said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            yield Sample(now, error=said or type(error).__name__)
        due = max(due + EVERY_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))  # the rhythm of the display


def write_samples(view: QueueView) -> None:
    """A JSON object a second on stdout: `time`, and `queues` or `error`."""
    for sample in samples(view):
        sys.stdout.buffer.write(json_line(msgspec.json.encode(sample)))
        sys.stdout.buffer.flush()


def show_samples(view: QueueView) -> None:
    """A table in the terminal that is renewed every second, with the depth of the last seconds as a sparkline."""
    from rich.live import Live  # noqa: PLC0415 - only who watches pays for it

    past: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=SPARKS_WIDTH))
    last: list[QueueLine] = []
    with Live(auto_refresh=False) as live:
        for sample in samples(view):
            last = sample.queues or last
            for line in sample.queues:
                past[line.queue].append(line.ready + (line.unacked or 0))
            rows = [[*cells(line), sparkline(past[line.queue])] for line in last]
            live.update(make_table((*COLUMNS, "depth"), rows, title=heading(last, sample)), refresh=True)


def heading(lines: Sequence[QueueLine], sample: Sample) -> str:
    """The moment, and what keeps the queues from being consumed or seen."""
    found = [f"{sample.time:%H:%M:%S} UTC"]
    if (pause := pause_of(lines)) is not None:
        found.append(f"{pause.in_words()} (caselog resume)")
    if sample.error is not None:
        found.append(f"cannot be looked at, trying again: {sample.error}")
    return "\n".join(found)


def pause_of(lines: Sequence[QueueLine]) -> Pause | None:
    return next((line.paused for line in lines if line.paused is not None), None)


def cells(line: QueueLine) -> list[Any]:
    return [getattr(line, column) for column in COLUMNS]


def sparkline(depths: Sequence[int]) -> str:
    """Depths, oldest first, as a line of blocks: the highest one full, an empty queue blank."""
    highest = max(depths, default=0)
    return "".join(SPARKS[min(7, depth * 8 // highest)] if depth else " " for depth in depths)
