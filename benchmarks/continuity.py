"""What it costs a recorder that a loss is noticed: the count, the memory in Redis and which server answers.

    python benchmarks/continuity.py --pairs 150 --batch 500
    python benchmarks/continuity.py --pairs 1500 --batch 1

Pairs of batches on one database, one as a recorder records them and one without all of it, in random order; what is
said is the median of the differences as a share of a batch, so that whatever else the machine does is in both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.migrations.upgrade import migrate
from caselog.schema.sessions.connection import fence_of, make_engine
from caselog.schema.sessions.leaving import SessionDialect
from caselog.workers.continuity.counting import Counting
from caselog.workers.continuity.memory import Memory
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.embedded import EmbeddedServers, EmbeddedUrls, uninstall
from caselog.workers.servers.redis_client import impatient
from caselog.workers.settings import load_settings

WARM_UP_PAIRS = 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=150)
    arguments.add_argument("--batch", type=int, default=500, help="events a batch")
    chosen = arguments.parse_args()
    needed = 2 * (chosen.pairs + WARM_UP_PAIRS) * chosen.batch
    events = [msgspec.json.encode(event) for event in simulate(needed // 8 + 1, 7)][:needed]
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
    rules = make_rules(load_settings())
    engines = {told: make_engine(urls.database_url, connections=1, by_index=True) for told in (True, False)}
    dialect = engines[False].dialect
    assert isinstance(dialect, SessionDialect)
    dialect.asks = False
    memory = Memory(impatient(urls.redis_url), fence_of(engines[True]))
    roads = {
        told: Recording(engine, event_registry, rules, counting=Counting(memory) if told else None)
        for told, engine in engines.items()
    }
    order = random.Random(7)
    pairs: list[dict[bool, float]] = []
    for first in range(0, len(batches) - 1, 2):
        taken: dict[bool, float] = {}
        for told, batch in zip(order.sample([True, False], 2), batches[first : first + 2], strict=True):
            started_s = time.perf_counter()
            roads[told].record([decode(b"[" + b",".join(batch) + b"]")])
            taken[told] = time.perf_counter() - started_s
        pairs.append(taken)
    memory.stop()
    report(pairs[WARM_UP_PAIRS:], len(batches[0]))
    for engine in engines.values():
        engine.dispose()


def report(pairs: list[dict[bool, float]], batch: int) -> None:
    without_s = statistics.median(pair[False] for pair in pairs)
    added_s = statistics.median(pair[True] - pair[False] for pair in pairs)
    ratio = statistics.median(pair[True] for pair in pairs) / without_s
    print(f"{len(pairs)} pairs of batches of {batch} events; {batch / without_s:,.0f} events/s without")
    print(f"with / without:  {ratio:.3f} (medians)")
    print(f"with - without:  {1e6 * added_s:,.0f} us a batch, {100 * added_s / without_s:.1f} %")


if __name__ == "__main__":
    main()
