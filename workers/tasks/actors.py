"""The jobs around the log, run by dramatiq: sums of reports, parked events, search, exports, reads, upkeep."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Final

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from periodiq import cron
from sqlalchemy import Engine

from caselog.schema.operations import search
from caselog.schema.reports.outbox import TAKEN_DELTAS
from caselog.workers.access.reads import forget_reads, move_all_reads
from caselog.workers.continuity.comparison import RUNS_KEPT_DAYS
from caselog.workers.continuity.losses import tell, tidy_runs
from caselog.workers.deadletters.requeue import UPKEEP as UPKEEP_WHO
from caselog.workers.deadletters.requeue import tidy
from caselog.workers.process.logs import get_logger
from caselog.workers.process.trouble import Trouble
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import tally_retry
from caselog.workers.servers.database_errors import Contended, DatabaseAway, OtherSchema, translated, which_schema
from caselog.workers.tasks.aggregator import Aggregator
from caselog.workers.tasks.exporter import Exporter
from caselog.workers.tasks.schedule import EVERY_S, EverySecond
from caselog.workers.tasks.wakeup import (
    AGGREGATE,
    EXPORT,
    MERGE_SEARCH,
    MOVE_READS,
    QUEUE,
    RETRY_PARKED,
    TELL,
    UPKEEP,
    forget_wakeup,
    message_of,
)
from caselog.workers.telemetry.counters import AGGREGATED, Tally
from caselog.workers.telemetry.heartbeat import Doing, Heartbeat

# Which schema is needed is asked anew so often, while it is another one: a migration may have half of the way to go.
SCHEMA_ASKED_S: Final = 10.0
# What batches post within this time is added up together: a case that moved in several is folded once. At 14,000
# events/s that folds two thirds of the logs that batch by batch would; longer gains little more.
GATHER_S: Final = 0.25
# Redis may have come back as it was a while ago, and a recorder have ended while it was away.
TOLD_EVERY_S: Final = 10


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
    read_retention_days: int = 0,
) -> None:
    """Declare every actor on the broker."""
    client: redis.Redis = broker.client

    begun = partial(_begun, client, heartbeat, _Troubles(engine))
    _declare_telling(broker, engine, client, begun)

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
                forget_wakeup(client, AGGREGATE)

    # Where the one before takes longer than a second, this one waits for it here, and not for a connection of its own.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=RETRY_PARKED, max_retries=0, periodic=EverySecond())
    @_one_at_a_time(wait_s=EVERY_S)
    def retry_parked() -> None:
        with begun(RETRY_PARKED):
            recorded = recording.retry_parked()
            heartbeat.beat(messages=1, idle=True)
            tally_retry(tally, recorded)
            if recorded.deltas:
                broker.enqueue(message_of(AGGREGATE))

    # Many cases at once, and here: else recorders would do it within their batches.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=MERGE_SEARCH, max_retries=0, periodic=EverySecond())
    @_one_at_a_time(wait_s=0)
    def merge_search() -> None:
        with begun(MERGE_SEARCH), engine.begin() as db:
            search.merge_new_cases(db)

    # In bulk: a row at a time would be a transaction for each page that somebody looks at.
    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=MOVE_READS, max_retries=0, periodic=EverySecond())
    @_one_at_a_time(wait_s=0)
    def move() -> None:
        with begun(MOVE_READS):
            move_all_reads(client, engine)

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
            _keep_up(engine, client, dead_letter_days=dead_letter_retention_days, read_days=read_retention_days)


def _declare_telling(
    broker: RedisBroker, engine: Engine, client: redis.Redis, begun: Callable[[str], AbstractContextManager[None]]
) -> None:
    schedule = EverySecond(TOLD_EVERY_S)

    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=TELL, max_retries=0, periodic=schedule)
    @_one_at_a_time(wait_s=0)
    def tell_redis() -> None:
        with begun(TELL):
            tell(engine, client)


def _keep_up(engine: Engine, client: redis.Redis, *, dead_letter_days: int, read_days: int) -> None:
    """Remove what is kept no longer."""
    if removed := tidy(engine, retention_days=dead_letter_days):
        get_logger().info("dead letters were removed; see: caselog audit list --action dead", letters=removed)
    tidy_runs(engine, client, RUNS_KEPT_DAYS)
    if forgotten := forget_reads(engine, retention_days=read_days, who=UPKEEP_WHO):
        get_logger().info("reads were forgotten; see: caselog audit list --action reads", reads=forgotten)


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


class _Troubles:
    """What is in the way of each task; and, of all of them at once, a schema that is not this version's."""

    def __init__(self, engine: Engine) -> None:
        self.of = defaultdict[str, Trouble](Trouble)
        self._engine = engine
        self._schema = Trouble()
        self._lock = threading.Lock()
        self._stopped_by_schema: set[str] = set()
        self._said, self._asked_s = "", 0.0

    def meet_schema(self, task: str, error: OtherSchema) -> str:
        """Say once which schema is needed and what to run; the same for a heartbeat."""
        with self._lock:
            self._stopped_by_schema.add(task)
            now_s = time.monotonic()
            if not self._said or now_s - self._asked_s > SCHEMA_ASKED_S:
                self._said, self._asked_s = which_schema(self._engine) or str(error), now_s
            said = self._said
        self._schema.tell("tasks need another schema", said)
        return said

    def end(self, task: str) -> None:
        """The task was done."""
        self.of[task].end("a task goes on", task=task)
        with self._lock:
            self._stopped_by_schema.discard(task)
            if self._stopped_by_schema:
                return
            self._said = ""
        self._schema.end("the tasks have the schema that they need")


@contextmanager
def _begun(client: redis.Redis, heartbeat: Heartbeat, troubles: _Troubles, task: str) -> Iterator[None]:
    """Within, the task is done. A server that is away is one line in the log: the schedule comes again."""
    forget_wakeup(client, task)
    try:
        with translated():
            yield
    except OtherSchema as error:
        heartbeat.wait(Doing.NO_DATABASE, troubles.meet_schema(task, error))
    except (DatabaseAway, Contended) as error:
        troubles.of[task].tell("a task waits for the database", error, task=task)
        heartbeat.wait(Doing.NO_DATABASE)
    except (redis.RedisError, dramatiq.errors.BrokerError) as error:
        troubles.of[task].tell("a task waits for Redis", error, task=task)
    else:
        troubles.end(task)


class _StopsExports(dramatiq.Middleware):
    """What runs at a stop is waited for; an export, which may take long, is left to another worker instead."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        self._exporter.stop()
