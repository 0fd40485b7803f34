"""What counting for /metrics costs a recorder: batches with and without it, in turns, in one process and one run.

One `Recording` on an embedded PostgreSQL records simulated journeys, a batch a transaction. Of each two batches, in
random order, one goes without what the metrics add (arrival stamps, counts by code, ages, the tally); the thread that
carries the increments to Redis runs all the time. Three figures come out, each a share of a batch's time:

* the median over the pairs of with - without, with a 95 % interval by bootstrap: blurred by the database's moods;
* the same of the processor time of this process, the thread's included, which the database does not blur;
* what the added work took by itself, timed inside the batches that have it; the bound is held to this one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import msgspec

from caselog.events.folding.fold import Plan
from caselog.events.folding.refold import Past
from caselog.events.model.message import Message, decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.migrations.upgrade import migrate
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording import batch as recording_module
from caselog.workers.recording import outcome as recorded_module
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Recorded, tally_batch
from caselog.workers.roles.self_report import flushing
from caselog.workers.servers.embedded import EmbeddedServers, EmbeddedUrls, uninstall
from caselog.workers.servers.locate import Services
from caselog.workers.settings import load_settings
from caselog.workers.telemetry.counters import Tally

WARM_UP_PAIRS = 10
BOUND_PERCENT = 2.0
_measure = recorded_module.measure


class Pair(msgspec.Struct):
    """Seconds that two batches took, the difference of their processor time, and what the added work took."""

    with_s: float
    without_s: float
    cpu_s: float
    added_s: float


class Meter:
    """Times the work that the metrics add to one batch."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def measure(self, result: Recorded, plan: Plan, past: Past | None, now: datetime) -> None:
        started_s = time.perf_counter()
        _measure(result, plan, past, now)
        self.added_s += time.perf_counter() - started_s


def without(result: Recorded, plan: Plan, _past: Past | None, _now: datetime) -> None:
    """What a recorder does that counts nothing: it asks only which codes a batch used."""
    result.codes = Counter({(log.key, log.code) for log in plan.logs})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=200)
    arguments.add_argument("--batch", type=int, default=500, help="events a batch, each in a message of its own")
    chosen = arguments.parse_args()
    needed = 2 * (chosen.pairs + WARM_UP_PAIRS) * chosen.batch
    events = [msgspec.json.encode(event) for event in simulate(needed // 8, 7)][:needed]
    batches = [events[start : start + chosen.batch] for start in range(0, len(events), chosen.batch)]
    with tempfile.TemporaryDirectory() as base:
        data_dir = Path(base) / "data"
        try:
            with EmbeddedServers(data_dir) as servers:
                run(servers.start(), batches)
        finally:
            uninstall(data_dir)


def run(urls: EmbeddedUrls, batches: list[list[bytes]]) -> None:
    assert urls.database_url is not None
    assert urls.redis_url is not None
    migrate(urls.database_url)
    autodiscover()
    settings = load_settings()
    recording = Recording(make_engine(urls.database_url, connections=1), event_registry, make_rules(settings))
    tally = Tally()
    order = random.Random(7)
    pairs: list[Pair] = []
    with flushing("recorder", Services(urls.database_url, urls.redis_url, urls.redis_url), tally, recording.engine):
        for first in range(0, len(batches) - 1, 2):
            taken: dict[bool, float] = {}
            used: dict[bool, float] = {}
            added_s = 0.0
            for counts, batch in zip(order.sample([True, False], 2), batches[first : first + 2], strict=True):
                meter = Meter()
                with patch.object(recording_module, "measure", meter.measure if counts else without):
                    started_s, started_cpu_s = time.perf_counter(), time.process_time()
                    record(recording, batch, meter, tally if counts else None)
                    taken[counts] = time.perf_counter() - started_s
                    used[counts] = time.process_time() - started_cpu_s
                added_s += meter.added_s
            pairs.append(Pair(taken[True], taken[False], used[True] - used[False], added_s))
    report(pairs[WARM_UP_PAIRS:], len(batches[0]))
    recording.engine.dispose()


def record(recording: Recording, batch: list[bytes], meter: Meter, tally: Tally | None) -> None:
    """A batch on the recorder's road, from the bytes in its inbox to what it does after the commit."""
    arrivals_s: list[float] = []
    messages: list[Message] = []
    if tally is not None:
        started_s = time.perf_counter()
        for _ in batch:
            arrivals_s += [time.monotonic()]
        meter.added_s += time.perf_counter() - started_s
    for raw in batch:
        messages.append(decode(raw))  # noqa: PERF401 - as the recorder does
    recorded = recording.record(messages)
    if tally is not None:
        started_s = time.perf_counter()
        now_s = time.monotonic()
        tally_batch(tally, recorded, receipts_s=[now_s - arrived_s for arrived_s in arrivals_s])
        meter.added_s += time.perf_counter() - started_s


def report(pairs: list[Pair], batch: int) -> None:
    batch_s = statistics.median(pair.without_s for pair in pairs)
    print(f"{len(pairs)} pairs of batches of {batch} events; {batch / batch_s:,.0f} events/s without metrics")
    print(f"with - without:             {share([pair.with_s - pair.without_s for pair in pairs], batch_s)}")
    print(f"with - without, processor:  {share([pair.cpu_s for pair in pairs], batch_s)}")
    print(f"the added work by itself:   {share([pair.added_s for pair in pairs], batch_s)}")
    print(f"that is {1e9 * statistics.median(pair.added_s for pair in pairs) / batch:,.0f} ns an event")
    if 100 * statistics.median(pair.added_s for pair in pairs) / batch_s >= BOUND_PERCENT:
        raise SystemExit(f"more than {BOUND_PERCENT:g} %")


def share(seconds: list[float], batch_s: float) -> str:
    """The median as a share of a batch's time, with its 95 % interval."""
    chance = random.Random(7)
    medians = sorted(statistics.median(chance.choices(seconds, k=len(seconds))) for _ in range(2000))
    low, high = (100 * medians[at] / batch_s for at in (50, 1949))
    return f"{100 * statistics.median(seconds) / batch_s:+.2f} % of a batch ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    main()
