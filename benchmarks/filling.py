"""Filling a queue with single-event messages in bulk: the broker's confirmation is waited for at the end only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import redis
from kombu import Connection

from caselog.events.model.message import EVENT_TYPE
from caselog.events.transport.broker import EVENTS_EXCHANGE, EVENTS_QUEUE, connect, queue_status
from caselog.workers.servers.locate import redis_py_url

BULK = 5_000
GIVE_UP_S = 600
LOOK_S = 0.5


def fill(broker_url: str, events: Sequence[bytes]) -> None:
    """Return when the queue of raw events holds a message for each of these events."""
    if broker_url.startswith("amqp"):
        _fill_rabbitmq(broker_url, events)
    else:
        _fill_redis(broker_url, events)
    deadline_s = time.monotonic() + GIVE_UP_S
    while (waiting := _waiting(broker_url)) < len(events):
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{waiting} of {len(events)} messages are there after {GIVE_UP_S} seconds")
        time.sleep(LOOK_S)


def _fill_redis(broker_url: str, events: Sequence[bytes]) -> None:
    with redis.Redis.from_url(redis_py_url(broker_url)) as client:
        for bulk in _bulks(events):
            with client.pipeline(transaction=False) as pipe:
                for event in bulk:
                    pipe.xadd(EVENTS_QUEUE.name, {"event": event})
                pipe.execute()


def _fill_rabbitmq(broker_url: str, events: Sequence[bytes]) -> None:
    # Not by `connect`, which has each message confirmed before the next.
    with Connection(broker_url) as connection, connection.channel() as channel:
        EVENTS_QUEUE(channel).declare()
        for bulk in _bulks(events):
            for event in bulk:
                message = channel.prepare_message(
                    event, content_type=EVENT_TYPE, properties={"delivery_mode": 2, "timestamp": int(time.time())}
                )
                channel.basic_publish(message, exchange=EVENTS_EXCHANGE.name, routing_key="event.x")


def _waiting(broker_url: str) -> int:
    with connect(broker_url) as connection:
        return queue_status(connection, EVENTS_QUEUE.name).ready


def _bulks(events: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (events[start : start + BULK] for start in range(0, len(events), BULK))
