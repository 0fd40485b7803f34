"""Where a recorder's time goes: microseconds an event by stage, from the broker's answer to the ack.

One process on an embedded, durable PostgreSQL and Redis walks the recorder's road batch by batch. For each stage: what
passed on the clock, and how much of it this process computed; the rest is waiting, almost all of it for PostgreSQL.
Medians over the batches after the first few; each stage is without the stages inside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec
from rich.console import Console
from rich.table import Table
from servers import fresh_services, servers
from sqlalchemy import Engine

from caselog.events import Publisher
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.transport.broker import EVENTS_QUEUE, connect, consume, open_channel
from caselog.schema.recording import definitions, history, parking, store
from caselog.schema.reports import outbox
from caselog.schema.reports.tally import ReportTally
from caselog.schema.sessions.connection import make_engine
from caselog.workers.process.garbage_collection import collect_rarely
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording import batch as recording
from caselog.workers.recording import loading, storing
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.locate import Services
from caselog.workers.settings import load_settings

WARM_UP = 5
Inserting = Callable[..., AbstractContextManager[None]]
SENDING, AWAITING = "store: send logs", "store: await logs"
# Stage, and the function that is it, as its caller finds it.
STAGES: list[tuple[str, Any, str]] = [
    ("entries, namesakes", recording, "turns"),
    ("clock and ids", store, "clock_and_ids"),
    ("screen", Recording, "_screen"),
    ("load: compare", recording, "load"),
    ("load: lock actors", store, "lock_actors"),
    ("load: last logs", history, "last_logs"),
    ("load: lock cases", store, "lock_cases"),
    ("load: running timers", store, "running_timers"),
    ("load: recorded already", store, "recorded_events"),
    ("load: late events' past", loading, "_windows"),
    ("fold", recording, "fold"),
    ("refold", recording, "refold"),
    ("store: insert cases", store, "insert_cases"),
    ("store: make parked events due", parking, "make_due"),
    ("store: update cases", store, "update_cases"),
    ("store: update timers", store, "update_timers"),
    ("store: insert timers", store, "insert_timers"),
    ("tally", ReportTally, "rows"),
    ("moved cases", storing, "_moved_cases"),
    ("post", outbox, "post"),
    ("measure", recording, "measure"),
    ("keep definitions", definitions, "keep"),
    ("store: the rest", recording, "store_plan"),
]


class Stopwatch:
    """Seconds on the clock and of this thread's processor time by stage, each without what is inside it."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)
        self._inside: list[list[float]] = []

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        self._inside.append([0.0, 0.0])
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            wall_s, cpu_s = time.perf_counter() - wall_s, time.thread_time() - cpu_s
            inside = self._inside.pop()
            self.wall_s[stage] += wall_s - inside[0]
            self.cpu_s[stage] += cpu_s - inside[1]
            if self._inside:
                self._inside[-1][0] += wall_s
                self._inside[-1][1] += cpu_s

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self.timing(stage):
                return function(*arguments, **named)

        return call

    def timed_halves(self, sending: str, awaiting: str, inserting: Inserting) -> Inserting:
        """What is sent, and what is waited for after the work within."""

        @contextmanager
        def call(*arguments: Any, **named: Any) -> Iterator[None]:
            entered = inserting(*arguments, **named)
            with self.timing(sending):
                entered.__enter__()
            yield
            with self.timing(awaiting):
                entered.__exit__(None, None, None)

        return call


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batches", type=int, default=40, help="batches that count; some more are done to warm up")
    arguments.add_argument("--batch", type=int, default=2000, help="events a batch")
    arguments.add_argument("--message", type=int, default=100, help="events a message")
    chosen = arguments.parse_args()
    needed = (chosen.batches + WARM_UP) * chosen.batch
    events = [msgspec.json.encode(event) for event in simulate(needed // 8, 7)][:needed]
    with servers() as urls, fresh_services(urls) as services:
        watches = profile(services, events, chosen.batch, chosen.message)
    report(watches[WARM_UP:], chosen)


def profile(services: Services, events: list[bytes], batch: int, message: int) -> list[Stopwatch]:
    """Record all the events; one stopwatch a batch."""
    autodiscover()
    collect_rarely(batch)
    engine = make_engine(services.database_url, connections=1)
    road = Recording(engine, event_registry, make_rules(load_settings()), transaction_events=batch)
    watches: list[Stopwatch] = []
    inbox: list[Any] = []
    with (
        Publisher(services.broker_url, batch_events=message) as publisher,
        connect(services.broker_url) as connection,
        open_channel(connection) as channel,
        consume(channel, EVENTS_QUEUE, inbox.append, prefetch_messages=-(-batch // message)),
    ):
        for start in range(0, len(events), batch):
            publisher.publish_many(events[start : start + batch]).result()
            watch = Stopwatch()
            watches.append(watch)
            with watched(watch, engine):
                messages: list[Any] = []
                taken: list[Any] = []
                while sum(len(one.events) for one in messages) < batch:
                    with watch.timing("take"):
                        while not inbox:
                            connection.drain_events(timeout=5)
                    taken += inbox
                    with watch.timing("decode"):
                        messages += [decode(one.body) for one in inbox]
                    inbox.clear()
                with watch.timing("the rest"):
                    road.record(messages)
                with watch.timing("ack"):
                    taken[-1].channel.basic_ack(taken[-1].delivery_tag, multiple=True)
    engine.dispose()
    return watches


@contextmanager
def watched(watch: Stopwatch, engine: Engine) -> Iterator[None]:
    """Within, the stages are timed."""
    with ExitStack() as stack:
        for stage, owner, name in STAGES:
            stack.enter_context(patch.object(owner, name, watch.timed(stage, getattr(owner, name))))
        inserting = watch.timed_halves(SENDING, AWAITING, store.inserting_logs)
        stack.enter_context(patch.object(store, "inserting_logs", inserting))
        stack.enter_context(patch.object(engine.dialect, "do_commit", watch.timed("commit", engine.dialect.do_commit)))
        yield


def report(watches: list[Stopwatch], chosen: argparse.Namespace) -> None:
    stages = ["take", "decode", *(stage for stage, _, _ in STAGES), SENDING, AWAITING, "commit", "the rest", "ack"]
    figures = {}
    table = Table("stage", "µs an event", "of it here", "share", title=f"A batch of {chosen.batch:,} events")
    whole = statistics.median(sum(watch.wall_s.values()) for watch in watches)
    for stage in stages:
        wall, cpu = (
            statistics.median(kind[stage] for kind in kinds) * 1e6 / chosen.batch
            for kinds in ([watch.wall_s for watch in watches], [watch.cpu_s for watch in watches])
        )
        if not any(watch.wall_s[stage] for watch in watches):
            continue
        figures[stage] = {"wall_us": wall, "cpu_us": cpu}
        table.add_row(stage, f"{wall:.2f}", f"{cpu:.2f}", f"{wall * chosen.batch / 1e6 / whole:.1%}")
    computed = statistics.median(sum(watch.cpu_s.values()) for watch in watches)
    table.add_row("all", f"{whole * 1e6 / chosen.batch:.2f}", f"{computed * 1e6 / chosen.batch:.2f}", "", style="bold")
    Console().print(table)


if __name__ == "__main__":
    main()
