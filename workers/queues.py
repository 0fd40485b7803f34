"""The queues as operations see them: raw events, what is parked, the outbox, the tasks and the pings."""

from __future__ import annotations

import redis

from events.broker import EVENTS_QUEUE, PING_QUEUE, QueueStatus, connect, queue_status
from schema import parking
from schema.connection import make_engine
from schema.reports import outbox
from workers.heartbeat import Beat, read_beats
from workers.services import Services
from workers.tasks import NAMESPACE, QUEUE


def queue_table(services: Services, client: redis.Redis) -> list[QueueStatus]:
    """Each queue with what is ready, unacked, the oldest message's age in seconds and consumers; None: not known."""
    beats = read_beats(client)
    with connect(services.broker_url) as connection:
        found = [queue_status(connection, queue.name) for queue in (EVENTS_QUEUE, PING_QUEUE)]
    if found[0].unacked is None:
        found[0] = _with_unacked(found[0], beats)
    engine = make_engine(services.database_url, application="caselog queues")
    try:
        with engine.connect() as db:
            parked, lag = parking.count_parked(db), outbox.lag(db)
    finally:
        engine.dispose()
    tasks = sum(beat.role == "tasks" for beat in beats)
    return [
        *found,
        QueueStatus("parked", parked.waiting + parked.ready, 0, parked.oldest_age_s, tasks),
        QueueStatus("report_outbox", lag.deltas, 0, lag.oldest_age_s, tasks),
        QueueStatus(QUEUE, client.llen(f"{NAMESPACE}:{QUEUE}"), None, None, tasks),
    ]


def _with_unacked(status: QueueStatus, beats: list[Beat]) -> QueueStatus:
    """RabbitMQ does not tell AMQP clients what is unacked; the recorders tell what they hold."""
    held = sum(beat.unacked for beat in beats if beat.role == "recorder")
    return QueueStatus(status.queue, status.ready, held, status.oldest_age_s, status.consumers)
