"""The queues as operations see them: raw events, what is parked, the outbox, the tasks and the pings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import redis
from kombu import Connection
from sqlalchemy import Engine

from caselog.events.transport.broker import (
    EVENTS_QUEUE,
    HELD,
    PING_QUEUE,
    REMOVED,
    QueueStatus,
    connect,
    is_redis,
    queue_status,
)
from caselog.schema.operations import pause as pausing
from caselog.schema.recording import parking
from caselog.schema.reports import outbox
from caselog.schema.sessions.connection import fence_of, make_engine
from caselog.workers.continuity.memory import read_memory
from caselog.workers.health.queue_rates import Depth, Done, QueueLine, Sample, with_rates
from caselog.workers.process.bounded_call import ANSWER_S, Asked, bounded
from caselog.workers.servers.locate import Services
from caselog.workers.tasks.wakeup import NAMESPACE, QUEUE
from caselog.workers.telemetry.heartbeat import Beat, read_beats

PARKED: Final = "parked"
OUTBOX: Final = "report_outbox"
# A pause of all recorders holds these up; the reports are added up, and pings answered, all the same.
PAUSED: Final = frozenset({EVENTS_QUEUE.name, REMOVED, HELD, PARKED})
BETWEEN_S: Final = 1.0
# A worker whose heartbeat is older is not counted among the consumers of a queue that does not know its consumers.
CONSUMES_WITHIN_S: Final = 30.0


class QueueView:
    """Looks at all queues, again and again. Raises what the servers' drivers raise, and recovers from it."""

    def __init__(self, engine: Engine, broker_url: str, client: redis.Redis) -> None:
        self._engine = engine
        self._broker_url = broker_url
        self._client = client
        self._before: Sample | None = None
        self.asked = Asked()

    def lines(self) -> list[QueueLine]:
        """One line a queue; rates since the last call, and not known at the first."""
        sample = self.sample()
        lines = with_rates(self._before, sample, PAUSED)
        self._before = sample
        return lines

    def sample(self) -> Sample:
        """All queues now."""
        self.asked.server = "Redis"
        beats = read_beats(self._client)
        read_memory(self._client, fence_of(self._engine))  # of a list no old primary is asked
        # A connection for each look: a broker that was away in between needs no care.
        self.asked.server = "the broker"
        with connect(self._broker_url) as connection:
            found = [raw_events_status(connection, beats), *removed_statuses(connection)]
            pings = queue_status(connection, PING_QUEUE.name)
        self.asked.server = "PostgreSQL"
        with self._engine.connect() as db:
            pause = pausing.find_pause(db)
            parked, lag = parking.count_parked(db), outbox.lag(db)
            arrived = parking.count_arrivals(db)
        self.asked.server = "Redis"
        at_s = time.monotonic()
        tasks = [beat for beat in beats if beat.role == "tasks" and beat.age_s < CONSUMES_WITHIN_S]
        recorders = [beat for beat in beats if beat.role == "recorder"]
        return Sample(
            at_s,
            [
                _depth(found[0], _done(recorders, at_s)),
                *(_depth(status, None) for status in found[1:]),
                _depth(pings, None),
                Depth(
                    queue=PARKED,
                    ready=parked.waiting + parked.ready,
                    unacked=0,
                    oldest_age_s=parked.oldest_age_s,
                    consumers=len(tasks),
                    arrived=arrived,
                ),
                Depth(
                    queue=OUTBOX,
                    ready=lag.deltas,
                    unacked=0,
                    oldest_age_s=lag.oldest_age_s,
                    consumers=len(tasks),
                    done={beat.worker: Done(beat.events, at_s - beat.age_s) for beat in tasks},
                ),
                *task_depths(self._client, QUEUE, len(tasks), _done(tasks, at_s)),
            ],
            pause,
        )


@contextmanager
def queue_view(services: Services, client: redis.Redis) -> Iterator[QueueView]:
    """A view of the queues of these services, with connections to PostgreSQL of its own."""
    engine = make_engine(services.database_url, application="caselog queues", connections=1)
    try:
        yield QueueView(engine, services.broker_url, client)
    finally:
        engine.dispose()


def lines_within(view: QueueView, within_s: float) -> list[QueueLine]:
    """As `view.lines()`, for a person who waits: raises `NoAnswerInTime` after `within_s`, naming the server."""
    return bounded(
        view.lines, within_s, lambda: f"{view.asked.server} has not answered within {within_s:g} s: see caselog ping"
    )


def queue_table(services: Services, client: redis.Redis, within_s: float = ANSWER_S) -> list[QueueLine]:
    """Each queue with its rates over a second, for which this waits. Raises as `lines_within`, at each of two looks."""
    with queue_view(services, client) as view:
        lines_within(view, within_s)
        time.sleep(BETWEEN_S)  # a rate needs time to pass
        return lines_within(view, within_s)


def raw_events_status(connection: Connection, beats: Sequence[Beat]) -> QueueStatus:
    """The queue of raw events; on RabbitMQ with what only the recorders know, from their `beats`, youngest first.

    AMQP tells nobody what is unacked: each recorder says what it holds, about once a second. The oldest message is
    the oldest that a recorder holds; only where none holds any is RabbitMQ's first ready message looked at, which
    takes it out for an instant.
    """
    queue = EVENTS_QUEUE.name
    status = queue_status(connection, queue, with_age=is_redis(connection))
    if is_redis(connection):
        return status
    # What a recorder held that was killed is ready again; RabbitMQ does not count it among the consumers any more.
    holders = [beat for beat in beats if beat.role == "recorder"][: status.consumers]
    ages_s = [beat.held_age_s for beat in holders if beat.unacked and beat.held_age_s is not None]
    oldest_age_s = max(ages_s, default=None)
    if oldest_age_s is None and status.ready:
        oldest_age_s = queue_status(connection, queue).oldest_age_s
    unacked = sum(beat.unacked for beat in holders)
    return msgspec.structs.replace(status, unacked=unacked, oldest_age_s=oldest_age_s)


def removed_statuses(connection: Connection) -> list[QueueStatus]:
    """The queues of what a policy of RabbitMQ's removed; none on Redis. What recorders hold of them is not known."""
    if is_redis(connection):
        return []
    return [queue_status(connection, queue) for queue in (REMOVED, HELD)]


def task_depths(client: redis.Redis, queue: str, consumers: int, done: dict[str, Done]) -> list[Depth]:
    """A dramatiq queue in Redis, that of its delayed messages, and its dead letters, which dramatiq keeps a week.

    Ages by the clocks of those who sent the messages, or of those who gave the dead ones up.
    """
    seconds, microseconds = client.time()
    now_ms = (seconds + microseconds / 1e6) * 1000
    workers: list[bytes] = client.zrange(f"{NAMESPACE}:__heartbeats__", 0, -1)  # type: ignore[assignment]
    depths = []
    for name in (queue, f"{queue}.DQ"):
        key = f"{NAMESPACE}:{name}"
        pipeline = client.pipeline(transaction=True)
        pipeline.llen(key)
        pipeline.lindex(key, 0)
        for worker in workers:
            pipeline.scard(f"{NAMESPACE}:__acks__.{worker.decode()}.{name}")
        ready, first, *held = pipeline.execute()
        sent_ms = None if first is None else _sent_ms(client.hget(f"{key}.msgs", first))
        depths.append(
            Depth(
                queue=name,
                ready=ready,
                unacked=sum(held),
                oldest_age_s=None if sent_ms is None else max(0.0, (now_ms - sent_ms) / 1000),
                consumers=consumers,
                done=done if name == queue else None,
            )
        )
    dead = f"{NAMESPACE}:{queue}.XQ"
    pipeline = client.pipeline(transaction=True)
    pipeline.zcard(dead)
    pipeline.zrange(dead, 0, 0, withscores=True)
    count, first = pipeline.execute()
    age_s = max(0.0, (now_ms - first[0][1]) / 1000) if first else None
    return [*depths, Depth(queue=f"{queue}.XQ", ready=count, unacked=0, oldest_age_s=age_s, consumers=0)]


def _sent_ms(message: Any) -> int | None:
    """When a dramatiq message was sent; None where it has just been done."""
    return None if message is None else msgspec.json.decode(message)["message_timestamp"]


def _depth(status: QueueStatus, done: dict[str, Done] | None) -> Depth:
    return Depth(
        queue=status.queue,
        ready=status.ready,
        unacked=status.unacked,
        oldest_age_s=status.oldest_age_s,
        consumers=status.consumers,
        arrived=status.arrived,
        done=done,
    )


def _done(beats: Sequence[Beat], at_s: float) -> dict[str, Done]:
    return {beat.worker: Done(beat.messages, at_s - beat.age_s) for beat in beats}
