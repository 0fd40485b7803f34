"""`caselog worker tasks`: the jobs around the log."""

from __future__ import annotations

import os

from caselog.events.model.registry import event_registry
from caselog.schema.sessions.connection import IDLE_IN_BATCH_S, make_engine
from caselog.schema.sessions.fencing import Fence
from caselog.workers.process.garbage_collection import collect_rarely
from caselog.workers.process.logs import configure_logs, get_logger
from caselog.workers.recording.assembly import make_recording, make_rules
from caselog.workers.roles.self_report import flushing, tell_session
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import make_redis
from caselog.workers.settings import Settings
from caselog.workers.tasks.actors import declare_tasks
from caselog.workers.tasks.aggregator import Aggregator
from caselog.workers.tasks.exporter import CONNECTIONS, Exporter
from caselog.workers.tasks.schedule import run_tasks
from caselog.workers.tasks.wakeup import make_broker
from caselog.workers.telemetry.counters import Tally
from caselog.workers.telemetry.heartbeat import Heartbeat


def run_tasks_worker(settings: Settings, services: Services) -> None:
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
