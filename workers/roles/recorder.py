"""`caselog worker recorder`: events off the queue into the log."""

from __future__ import annotations

import os
from collections.abc import Mapping

from caselog.events.model.registry import event_registry
from caselog.workers.process.build_info import deploy_fingerprint
from caselog.workers.process.garbage_collection import collect_rarely
from caselog.workers.process.logs import configure_logs, get_logger
from caselog.workers.recording.assembly import make_recording
from caselog.workers.recording.outcome import Recorded, tally_batch
from caselog.workers.recording.pause_watch import Breaker, PauseWatch
from caselog.workers.recording.recorder import Recorder
from caselog.workers.roles.self_report import flushing, tell_session
from caselog.workers.rule_watch.guard import take_interrupts
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import make_redis
from caselog.workers.settings import Settings
from caselog.workers.tasks.wakeup import AGGREGATE, RETRY_PARKED, WakeUp
from caselog.workers.telemetry.counters import Tally, tally_removed
from caselog.workers.telemetry.heartbeat import Heartbeat
from caselog.workers.telemetry.removals import Removals
from caselog.workers.telemetry.tracing import batch_span


def run_recorder(settings: Settings, services: Services) -> None:
    """Record events until SIGTERM or SIGINT."""
    configure_logs("recorder")
    client = make_redis(services)
    heartbeat = Heartbeat(client, "recorder")
    recording = make_recording(settings, services, progress=heartbeat.progress, tell=heartbeat.fold)
    breaker = Breaker(settings.breaker_ratio, settings.breaker_count)
    deploy = deploy_fingerprint(event_registry, settings.commit_id)
    wake_up = WakeUp(client)

    tally = Tally()
    removals = Removals(client)

    def on_removed(counts: Mapping[str, int]) -> None:
        tally_removed(tally, counts)
        removals.note(counts)

    def after_commit(recorded: Recorded, waits_s: list[float]) -> None:
        tally_batch(tally, recorded, receipts_s=waits_s)
        if recorded.deltas:
            wake_up(AGGREGATE)
        if recorded.made_due:
            wake_up(RETRY_PARKED)

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
