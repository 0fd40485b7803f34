"""What late events cost: those in order for being ready for them, and those that come late.

Two comparisons on one embedded PostgreSQL, each in turns within one run, medians and ratios at the end:

* the same events in order, with and without looking whether any is late (the bound is 1.1 times);
* events that were held back, in random order, against as many in order, into the same log (the bound is 10 times).
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from rich.console import Console
from servers import fresh_database
from sqlalchemy import Connection, Engine, text

from caselog.events.folding.fold import World
from caselog.events.folding.resolve import Rules, Screened
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.recording import store
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording import batch as recording_module
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.loading import Identity, load
from caselog.workers.servers.embedded import EmbeddedServers, uninstall
from caselog.workers.settings import load_settings

BATCH = 500


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--logs", type=int, default=100_000, help="logs that are there already")
    arguments.add_argument("--late", type=int, default=10_000, help="events that come late, and as many in order")
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    console = Console()
    autodiscover()
    rules = make_rules(load_settings())
    with tempfile.TemporaryDirectory() as base:
        data_dir = Path(base) / "data"
        try:
            with EmbeddedServers(data_dir, redis=False) as servers:
                url = servers.start().database_url
                assert url is not None
                in_order(url, rules, chosen.rounds, console)
                late(url, rules, chosen.logs, chosen.late, console)
        finally:
            uninstall(data_dir)


def in_order(url: str, rules: Rules, rounds: int, console: Console) -> None:
    events = [msgspec.json.encode(event) for event in simulate(2_000, 7)]
    seconds: dict[str, list[float]] = {"ready for late events": [], "blind to them": []}
    for _ in range(rounds):
        for name, taken in seconds.items():
            with fresh(url) as engine, patch.object(recording_module, "load", _LOADS[name]):
                taken.append(record(Recording(engine, event_registry, rules), events))
    medians = [statistics.median(taken) for taken in seconds.values()]
    for (name, _), median in zip(seconds.items(), medians, strict=True):
        console.print(f"{len(events):,} events in order, {name}: {len(events) / median:,.0f} events/s")
    console.print(f"ready takes {medians[0] / medians[1]:.2f} times as long as blind")


def late(url: str, rules: Rules, logs: int, count: int, console: Console) -> None:
    events = list(simulate((logs + 2 * count) // 10, 3))
    # Only an event whose code does not depend on the case, and that creates none, can come at any time.
    free = [
        at for at, event in enumerate(events[: -2 * count]) if event["data"].get("code") not in (None, "CASE_CREATED")
    ]
    held = set(random.Random(1).sample(free, count))
    bodies = [msgspec.json.encode(event) for event in events]
    ordered = [body for at, body in enumerate(bodies) if at not in held]
    with fresh(url) as engine:
        recording = Recording(engine, event_registry, rules)
        record(recording, ordered[:-count])
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("analyze"))
        usual = record(recording, ordered[-count:])
        shuffled = [bodies[at] for at in held]
        random.Random(2).shuffle(shuffled)
        delayed = record(recording, shuffled)
    console.print(
        f"into a log of {len(ordered) - count:,}: {count:,} events in order {usual:.1f} s, late {delayed:.1f} s"
    )
    console.print(f"late ones take {delayed / usual:.1f} times as long")


def record(recording: Recording, events: list[bytes]) -> float:
    """Record the events in batches; how many seconds it took."""
    begun = time.perf_counter()
    for start in range(0, len(events), BATCH):
        recording.record([decode(b"[" + b",".join(events[start : start + BATCH]) + b"]")])
    return time.perf_counter() - begun


def blind(db: Connection, batch: list[Screened], _registry: object, **_: object) -> tuple[World, None, set[Identity]]:
    """Lock and load as if nothing ever came late or twice."""
    actors = sorted({s.event.data.actor.id for s in batch if s.event.data.actor is not None})
    references = sorted({s.case for s in batch if s.case is not None})
    store.lock_actors(db, actors)
    world = World(cases=store.lock_cases(db, references), timers=store.running_timers(db, actors))
    return world, None, set()


_LOADS: dict[str, Any] = {"ready for late events": load, "blind to them": blind}


@contextmanager
def fresh(url: str) -> Iterator[Engine]:
    """An empty, migrated database on the server."""
    with fresh_database(url) as database_url:
        engine = make_engine(database_url)
        try:
            yield engine
        finally:
            engine.dispose()


if __name__ == "__main__":
    main()
