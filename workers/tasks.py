"""The jobs around the log, run by dramatiq: adding up reports, trying parked events again, search, exports, upkeep.

A dramatiq message is only a nudge: the outbox, the parked rows and the rows of exports are the truth. These tasks are
also scheduled every second, so a lost nudge costs at most a second, and a nudge too many finds nothing to do.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Final

import dramatiq
import pendulum
import redis
from dramatiq.brokers.redis import RedisBroker
from periodiq import PeriodiqMiddleware, Scheduler, cron
from sqlalchemy import Engine

from schema import search
from schema.reports.outbox import TAKEN_DELTAS
from workers.aggregating import Aggregator
from workers.exporting import Exporter
from workers.heartbeat import Doing, Heartbeat
from workers.logs import get_logger
from workers.mending import tidy
from workers.metrics import AGGREGATED, Tally, tally_retry
from workers.recording import Recording
from workers.stopping import exit_in_time
from workers.transactions import Contended, DatabaseAway, translated

NAMESPACE: Final = "caselog"
QUEUE: Final = "caselog.tasks"
AGGREGATE: Final = "aggregate"
RETRY_PARKED: Final = "retry_parked"
MERGE_SEARCH: Final = "merge_search"
EXPORT: Final = "export_reports"
UPKEEP: Final = "upkeep"
NUDGED_MS: Final = 1000
# An idle dramatiq worker looks for messages this often; its default, a second, would double what a lost nudge costs.
POLL_MS: Final = 100
WORKER_THREADS: Final = 4
EVERY_S: Final = 1
# What batches post within this time is added up together: a case that moved in several is folded once. At 14,000
# events/s that folds two thirds of the logs that batch by batch would; longer gains little more.
GATHER_S: Final = 0.25


def make_broker(client: redis.Redis) -> RedisBroker:
    """The one dramatiq broker of a process."""
    broker = RedisBroker(client=client, namespace=NAMESPACE)  # type: ignore[no-untyped-call]  # dramatiq's own gap
    broker.add_middleware(PeriodiqMiddleware(skip_delay=55))
    broker.declare_queue(QUEUE)
    return broker


class Nudge:
    """Asks the tasks to run, from a process that does not run them."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._broker = make_broker(client)

    def __call__(self, task: str) -> None:
        """Enqueue the task unless it was nudged within the last second and has not begun since.

        Returns also where Redis is away: the schedule does the same a second later.
        """
        try:
            if self._client.set(_nudged(task), 1, nx=True, px=NUDGED_MS):
                self._broker.enqueue(_message(task))
        except (redis.RedisError, dramatiq.errors.BrokerError):
            get_logger().warning("a task could not be nudged; the schedule runs it a second later", task=task)


def declare_tasks(
    broker: RedisBroker,
    engine: Engine,
    recording: Recording,
    heartbeat: Heartbeat,
    tally: Tally,
    *,
    aggregator: Aggregator,
    exporter: Exporter,
    dead_letter_retention_days: int = 0,
) -> None:
    """Declare every actor on the broker."""
    client: redis.Redis = broker.client

    begun = partial(_begun, client, heartbeat)

    # No retries by dramatiq: the schedule is the retry, and it comes every second.
    # It goes on while events come: the schedule's next ones must not take all threads, nor what is being gathered.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=AGGREGATE, max_retries=0, periodic=EverySecond())
    @_one_at_a_time(wait_s=0)
    def aggregate() -> None:
        with begun(AGGREGATE):
            taken = 1
            while taken:
                taken = aggregator.add_up()
                heartbeat.beat(messages=int(not taken), events=taken, idle=taken == 0)
                tally.count(AGGREGATED, taken)
                if 0 < taken < TAKEN_DELTAS:
                    time.sleep(GATHER_S)
                _forget_nudge(client, AGGREGATE)

    # Where the one before takes longer than a second, this one waits for it here, and not for a connection of its own.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=RETRY_PARKED, max_retries=0, periodic=EverySecond())
    @_one_at_a_time(wait_s=EVERY_S)
    def retry_parked() -> None:
        with begun(RETRY_PARKED):
            recorded = recording.retry_parked()
            heartbeat.beat(messages=1, idle=True)
            tally_retry(tally, recorded)
            if recorded.deltas:
                broker.enqueue(_message(AGGREGATE))

    # Many cases at once, and here: else recorders would do it within their batches.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=MERGE_SEARCH, max_retries=0, periodic=EverySecond())
    @_one_at_a_time(wait_s=0)
    def merge_search() -> None:
        with begun(MERGE_SEARCH), engine.begin() as db:
            search.merge_new_cases(db)

    # An export may take hours. The others go on meanwhile: a process works on one export at a time.
    @dramatiq.actor(
        broker=broker,
        queue_name=QUEUE,
        actor_name=EXPORT,
        max_retries=0,
        time_limit=float("inf"),
        periodic=EverySecond(),
    )
    def export_reports() -> None:
        with begun(EXPORT):
            exporter.sweep()

    broker.add_middleware(_StopsExports(exporter))

    # An hour is short against days; and a dead letter whose event was sent again does no harm meanwhile.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=UPKEEP, max_retries=0, periodic=cron("7 * * * *"))
    def upkeep() -> None:
        with begun(UPKEEP):
            removed = tidy(engine, retention_days=dead_letter_retention_days)
            if removed:
                get_logger().info("dead letters were removed; see: caselog audit list --action dead", letters=removed)


def _one_at_a_time(wait_s: float) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """In this process the task is never done twice at once: who has waited so long for the other leaves it to it."""

    def decorate(task: Callable[[], None]) -> Callable[[], None]:
        lock = threading.Lock()

        @wraps(task)
        def alone() -> None:
            if not lock.acquire(timeout=wait_s):
                return
            try:
                task()
            finally:
                lock.release()

        return alone

    return decorate


@contextmanager
def _begun(client: redis.Redis, heartbeat: Heartbeat, task: str) -> Iterator[None]:
    """Within, the task is done. A server that is away is one line in the log: the schedule comes again."""
    _forget_nudge(client, task)
    try:
        with translated():
            yield
    except (DatabaseAway, Contended) as error:
        get_logger().warning("a task waits for the database", task=task, error=str(error))
        heartbeat.wait(Doing.NO_DATABASE)
    except (redis.RedisError, dramatiq.errors.BrokerError) as error:
        get_logger().warning("a task waits for Redis", task=task, error=str(error))


class _StopsExports(dramatiq.Middleware):
    """What runs at a stop is waited for; an export, which may take long, is left to another worker instead."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        self._exporter.stop()


class EverySecond:
    """A schedule for periodiq, finer than its cron: whatever the moment, and again a second later."""

    def validate(self, _moment: pendulum.DateTime) -> bool:
        return True

    def next_valid_date(self, last: pendulum.DateTime) -> pendulum.DateTime:
        return last.add(seconds=EVERY_S)


class _Schedule(Scheduler):  # type: ignore[misc]  # periodiq has no types
    """periodiq's scheduler, which outlives a Redis that is away."""

    def send_actors(self, actors: list[dramatiq.Actor[..., object]], now: pendulum.DateTime) -> None:
        try:
            super().send_actors(actors, now)
        except (redis.RedisError, dramatiq.errors.BrokerError) as error:
            get_logger().warning("the scheduled tasks could not be enqueued", error=str(error))

    def stop(self) -> None:
        self.alarm_q.put_nowait(None)


def run_tasks(broker: RedisBroker) -> None:
    """Work until SIGTERM or SIGINT: the tasks in threads, the schedule in the main thread. Finishes what is begun."""
    worker = dramatiq.Worker(broker, worker_timeout=POLL_MS, worker_threads=WORKER_THREADS)
    schedule = _Schedule([actor for actor in broker.actors.values() if "periodic" in actor.options])

    def stop(*_: object) -> None:
        exit_in_time()
        schedule.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    worker.start()
    try:
        schedule.schedule()
        schedule.loop()
    finally:
        signal.alarm(0)
        worker.stop()


def _message(task: str) -> dramatiq.Message[None]:
    return dramatiq.Message(queue_name=QUEUE, actor_name=task, args=(), kwargs={}, options={})


def _forget_nudge(client: redis.Redis, task: str) -> None:
    with suppress(redis.RedisError):  # one that cannot be forgotten forgets itself within a second
        client.delete(_nudged(task))


def _nudged(task: str) -> str:
    return f"{NAMESPACE}:nudged:{task}"
