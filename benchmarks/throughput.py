"""One recorder fed with batches against one dramatiq process with an actor per event: the same effects, in one run.

Both work off a queue that is filled before they start, on the same embedded PostgreSQL and Redis, in turns. A rate is
events by the database's clock, from the start of the first transaction to the moment the last event is in the log.
Compare the rates of one run; never those of two.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import msgspec
import redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, make_url, text

from events import Publisher
from events.message import decode
from schema.migrate import migrate
from workers.embedded import EmbeddedServers, uninstall
from workers.recording import Recording
from workers.roles import make_recording, make_redis
from workers.services import Services, find_services, redis_py_url
from workers.settings import child_environment, load_settings
from workers.simulate import simulate
from workers.tasks import make_broker
from workers.up import caselog_program

QUEUE = "bench"
# Actors in threads overtake each other: what comes before its case was created is parked, and counts as done.
PROGRESS = """
    select (select count(*) from log) + (select count(*) from parked) + (select count(*) from dead_letter),
           (select extract(epoch from clock_timestamp() - min(recorded_at)) from log)
"""
BATCH = 100
THREADS = 8
Contender = Callable[[Services, list[bytes]], float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=40_000, help="events for the recorder, a tenth for the actor")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--actor", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.actor:
        run_actor()
        return
    console = Console()
    events = [msgspec.json.encode(event) for event in simulate(chosen.events // 10, 7)][: chosen.events]
    contenders: dict[str, tuple[Contender, list[bytes]]] = {
        f"caselog recorder, messages of {BATCH} events": (recorder, events),
        f"dramatiq, an actor per event, {THREADS} threads": (actor, events[: len(events) // 10]),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as base:
        data_dir = Path(base) / "data"
        try:
            with EmbeddedServers(data_dir) as servers:
                urls = servers.start()
                for number in range(chosen.rounds):
                    for name, (run, given) in contenders.items():
                        with fresh(urls) as services:
                            rates[name].append(run(services, given))
                        console.print(f"round {number + 1}: {name}: {rates[name][-1]:,.0f} events/s")
        finally:
            uninstall(data_dir)
    medians = [statistics.median(values) for values in rates.values()]
    table = Table("contender", "events/s, median", "lowest", "highest", "times the actor", title="All effects, durable")
    for (name, values), median in zip(rates.items(), medians, strict=True):
        lowest, highest = f"{min(values):,.0f}", f"{max(values):,.0f}"
        table.add_row(name, f"{median:,.0f}", lowest, highest, f"{median / medians[-1]:.1f}")
    console.print(table)


@contextmanager
def fresh(urls: Any) -> Iterator[Services]:
    """An empty, migrated database and an empty Redis on the same servers."""
    admin = create_engine(
        make_url(urls.database_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    name = f"bench_{time.monotonic_ns()}"
    with admin.connect() as connection:
        connection.execute(text(f"create database {name}"))
    redis.Redis.from_url(redis_py_url(urls.redis_url)).flushall()
    database_url = make_url(urls.database_url).set(database=name).render_as_string(hide_password=False)
    migrate(database_url)
    yield Services(database_url, urls.redis_url, urls.redis_url)
    with admin.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    admin.dispose()


def recorder(services: Services, events: list[bytes]) -> float:
    with Publisher(services.broker_url, batch_events=BATCH) as publisher:
        publisher.publish_many(events)
    return worked_off([*caselog_program(), "worker", "recorder"], services, len(events))


def actor(services: Services, events: list[bytes]) -> float:
    broker = make_broker(make_redis(services))
    broker.declare_queue(QUEUE)
    for event in events:
        message: Any = dramatiq.Message(
            queue_name=QUEUE, actor_name="record", args=(event.decode(),), kwargs={}, options={}
        )
        broker.enqueue(message)
    return worked_off([sys.executable, str(Path(__file__).resolve()), "--actor"], services, len(events))


def run_actor() -> None:
    """The contender's process: one dramatiq worker; each message is one event and one transaction."""
    settings = load_settings()
    services = find_services(settings)
    recording: Recording = make_recording(settings, services, connections=THREADS)
    broker = make_broker(make_redis(services))

    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name="record", max_retries=10, min_backoff=10)
    def record(event: str) -> None:
        recording.record([decode(event.encode())])

    worker = dramatiq.Worker(broker, queues={QUEUE}, worker_threads=THREADS)
    worker.start()
    worker.join()
    time.sleep(3600)  # the benchmark ends this process


def worked_off(command: list[str], services: Services, expected: int) -> float:
    """Run the worker until the log has so many events; its rate in events a second."""
    engine = create_engine(make_url(services.database_url).set(drivername="postgresql+psycopg"))
    environment = child_environment(services.environment()) | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with engine.connect() as connection:
                    done, seconds = connection.execute(text(PROGRESS)).one()
                if done >= expected:
                    return expected / float(seconds)
                if process.poll() is not None:
                    raise SystemExit(f"{command} ended with status {process.returncode} after {done} events")
                time.sleep(0.05)
        finally:
            process.terminate()
            engine.dispose()


if __name__ == "__main__":
    main()
