"""The roles of a worker process, put together from settings and services: `caselog worker <role>`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Engine, QueuePool

from caselog.events.model.registry import event_registry
from caselog.events.transport.publisher import Publisher
from caselog.schema.sessions.connection import IDLE_IN_BATCH_S, make_engine
from caselog.schema.sessions.database_url import takes_the_first
from caselog.schema.sessions.fencing import Fence
from caselog.schema.sessions.server import when_first_connected
from caselog.workers.process.build_info import deploy_fingerprint
from caselog.workers.process.garbage_collection import collect_rarely
from caselog.workers.process.logs import configure_logs, get_logger
from caselog.workers.recording.assembly import make_recording, make_rules
from caselog.workers.recording.breaker import Breaker
from caselog.workers.recording.outcome import Recorded, tally_batch
from caselog.workers.recording.pause_watch import PauseWatch
from caselog.workers.recording.recorder import Recorder
from caselog.workers.rule_watch.guard import take_interrupts
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import impatient, make_redis
from caselog.workers.settings import Settings
from caselog.workers.tasks.actors import AGGREGATE, RETRY_PARKED, Nudge, declare_tasks, make_broker, run_tasks
from caselog.workers.tasks.aggregator import Aggregator
from caselog.workers.tasks.exporter import CONNECTIONS, Exporter
from caselog.workers.telemetry.counters import Tally, tally_removed
from caselog.workers.telemetry.heartbeat import Heartbeat
from caselog.workers.telemetry.removals import Removals
from caselog.workers.telemetry.totals import Flusher, Gauges
from caselog.workers.telemetry.tracing import batch_span


def tell_session(engine: Engine, services: Services) -> None:
    """A log line about what this process has of PostgreSQL, once it has it. It needs no session of its own."""
    if takes_the_first(services.database_url):
        get_logger().warning(
            "target_session_attrs=any of CASELOG_DATABASE_URL takes the first host that answers: where that is a "
            "standby, nothing is written; leave it out unless each host is a pooler"
        )
    when_first_connected(engine, lambda is_pooled: get_logger().info("connected to PostgreSQL", pooled=is_pooled))


def run_recorder(settings: Settings, services: Services) -> None:
    """Record events until SIGTERM or SIGINT."""
    configure_logs("recorder")
    client = make_redis(services)
    heartbeat = Heartbeat(client, "recorder")
    recording = make_recording(settings, services, progress=heartbeat.progress, tell=heartbeat.fold)
    breaker = Breaker(settings.breaker_ratio, settings.breaker_count)
    deploy = deploy_fingerprint(event_registry, settings.commit_id)
    nudge = Nudge(client)

    tally = Tally()
    removals = Removals(client)

    def on_removed(counts: Mapping[str, int]) -> None:
        tally_removed(tally, counts)
        removals.note(counts)

    def after_commit(recorded: Recorded, waits_s: list[float]) -> None:
        tally_batch(tally, recorded, receipts_s=waits_s)
        if recorded.deltas:
            nudge(AGGREGATE)
        if recorded.hastened:
            nudge(RETRY_PARKED)

    recorder = Recorder(
        services.broker_url,
        recording,
        batch_events=settings.batch_events,
        batch_age_s=settings.batch_age_ms / 1000,
        heartbeat=heartbeat,
        pauses=PauseWatch(recording.engine, breaker, deploy),
        after_commit=after_commit,
        on_removed=on_removed,
        span=batch_span(),
    )
    recorder.stop_on_signals()
    tell_session(recording.engine, services)
    take_interrupts()
    heartbeat.succeed()
    get_logger().info("recorder started", pid=os.getpid(), events=len(event_registry.all()), deploy=deploy)
    collect_rarely(settings.batch_events)
    with flushing("recorder", services, tally, recording.engine):
        recorder.run()


def run_task_worker(settings: Settings, services: Services) -> None:
    """Run the dramatiq tasks and their schedule until SIGTERM or SIGINT."""
    configure_logs("tasks")
    client = make_redis(services)
    broker = make_broker(client)
    heartbeat = Heartbeat(client, "tasks")
    fence = Fence()
    recording = make_recording(settings, services, progress=heartbeat.progress, tell=heartbeat.fold, fence=fence)
    # One for each of the worker's threads: the aggregator, the search, the reads, the upkeep, what Redis is told.
    engine = make_engine(
        services.database_url,
        application="caselog tasks",
        connections=4,
        idle_s=IDLE_IN_BATCH_S,
        by_index=True,
        fence=fence,
    )
    export_engine = make_engine(
        services.database_url, application="caselog exports", connections=CONNECTIONS, fence=fence
    )
    tally = Tally()
    declare_tasks(
        broker,
        engine,
        recording,
        heartbeat,
        tally,
        aggregator=Aggregator(engine, event_registry, make_rules(settings)),
        exporter=Exporter(export_engine, exports=settings.exports, retention_days=settings.export_retention_days),
        dead_letter_retention_days=settings.dead_letter_retention_days,
        read_retention_days=settings.read_retention_days,
    )
    heartbeat.succeed()
    tell_session(engine, services)
    get_logger().info("tasks started", pid=os.getpid())
    collect_rarely()
    with flushing("tasks", services, tally, engine, export_engine, recording.engine):
        run_tasks(broker)
    heartbeat.stop()


@contextmanager
def flushing(role: str, services: Services, tally: Tally, *engines: Engine) -> Iterator[None]:
    """Within, the tally's increments and the use of the engines' pools are carried to Redis once a second."""
    pools = [engine.pool for engine in engines if isinstance(engine.pool, QueuePool)]

    def gauges() -> Gauges:
        in_use, size = sum(pool.checkedout() for pool in pools), sum(pool.size() for pool in pools)
        return Gauges(role=role, pool_in_use=in_use, pool_size=size)

    flusher = Flusher(impatient(services.redis_url), tally, gauges)
    flusher.start()
    try:
        yield
    finally:
        flusher.stop()


def run_demo(services: Services) -> None:
    """Publish simulated journeys for ever, at a gentle rate."""
    import secrets
    import signal
    import threading
    from datetime import UTC, datetime

    from caselog.workers.producers.simulation import live

    configure_logs("demo")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with Publisher(services.broker_url) as publisher:
        for events in live(secrets.token_hex(4), lambda: datetime.now(UTC)):
            publisher.publish_many(events)
            if stopping.wait(1.0):
                return
