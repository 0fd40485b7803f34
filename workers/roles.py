"""The roles of a worker process, put together from settings and services: `caselog worker <role>`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import redis
from sqlalchemy import Engine, QueuePool

from events.publisher import Publisher
from events.registry import autodiscover, event_registry
from events.resolve import Rules
from schema.connection import IDLE_IN_BATCH_S, make_engine
from workers import crashing
from workers.aggregating import Aggregator
from workers.breaker import Breaker
from workers.deploy import deploy_fingerprint
from workers.exporting import CONNECTIONS, Exporter
from workers.garbage import collect_rarely
from workers.heartbeat import Heartbeat
from workers.logs import configure_logs, get_logger
from workers.metrics import Tally, tally_batch
from workers.pausing import PauseWatch
from workers.recorded import Recorded
from workers.recorder import Recorder
from workers.recording import Recording
from workers.services import Services, redis_py_url
from workers.settings import Settings
from workers.tasks import AGGREGATE, RETRY_PARKED, Nudge, declare_tasks, make_broker, run_tasks
from workers.totals import Flusher, Gauges, impatient_redis
from workers.tracing import batch_span

CLIENT_TIMEOUT_S: Final = 5


def make_redis(services: Services) -> redis.Redis:
    """A Redis client for jobs and heartbeats; nothing is connected yet."""
    return redis.Redis.from_url(
        redis_py_url(services.redis_url),
        socket_connect_timeout=CLIENT_TIMEOUT_S,
        socket_timeout=CLIENT_TIMEOUT_S,  # a Redis that hangs must not hold the recorder for ever
        health_check_interval=30,
    )


def make_rules(settings: Settings) -> Rules:
    return Rules(
        zone=settings.zone,
        search_context=settings.search_context,
        future_tolerance=timedelta(seconds=settings.future_tolerance_s),
        opening_hours=settings.opening_hours,
        bank_holidays=settings.bank_holidays,
    )


def make_recording(
    settings: Settings, services: Services, *, progress: Callable[[], object] = lambda: None
) -> Recording:
    """The road into the log, with every app of the settings registered. Raises `RegistrationError`."""
    crashing.arm(settings.crash_at)
    autodiscover(settings.apps)
    return Recording(
        make_engine(
            services.database_url,
            application="caselog recorder",
            connections=1,
            idle_s=IDLE_IN_BATCH_S,
            by_index=True,
        ),
        event_registry,
        make_rules(settings),
        transaction_events=settings.batch_events,
        give_up_parked_s=settings.parked_give_up_s,
        progress=progress,
    )


def run_recorder(settings: Settings, services: Services) -> None:
    """Record events until SIGTERM or SIGINT."""
    configure_logs("recorder")
    client = make_redis(services)
    heartbeat = Heartbeat(client, "recorder")
    recording = make_recording(settings, services, progress=heartbeat.progress)
    breaker = Breaker(settings.breaker_ratio, settings.breaker_count)
    deploy = deploy_fingerprint(event_registry, settings.commit_id)
    nudge = Nudge(client)

    tally = Tally()

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
        span=batch_span(),
    )
    recorder.stop_on_signals()
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
    recording = make_recording(settings, services, progress=heartbeat.progress)
    # One each for the aggregator, the search and the upkeep.
    engine = make_engine(
        services.database_url, application="caselog tasks", connections=3, idle_s=IDLE_IN_BATCH_S, by_index=True
    )
    export_engine = make_engine(services.database_url, application="caselog exports", connections=CONNECTIONS)
    tally = Tally()
    declare_tasks(
        broker,
        engine,
        recording,
        heartbeat,
        tally,
        aggregator=Aggregator(engine, event_registry, make_rules(settings)),
        exporter=Exporter(export_engine, retention_days=settings.export_retention_days),
        dead_letter_retention_days=settings.dead_letter_retention_days,
    )
    heartbeat.succeed()
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

    flusher = Flusher(impatient_redis(services), tally, gauges)
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

    from workers.simulate import live

    configure_logs("demo")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with Publisher(services.broker_url) as publisher:
        for events in live(secrets.token_hex(4), lambda: datetime.now(UTC)):
            publisher.publish_many(events)
            if stopping.wait(1.0):
                return
