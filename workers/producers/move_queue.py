"""Making the queue of events on RabbitMQ anew, as it should be, while publishers go on: `caselog move-queue`.

At each moment every event is in a queue, or in two, which is harmless; killed at any instruction, it is run again.
Recorders must be paused: what one of them held while its queue is deleted could not go back.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
from kombu import Connection, Queue

from caselog.events.errors import BrokerRefusal, CaselogError
from caselog.events.phrases import count_of
from caselog.events.transport.broker import (
    CONFIRM_TIMEOUT_S,
    EVENTS_EXCHANGE,
    EVENTS_QUEUE,
    REMOVED_QUEUE,
    connect,
    consume,
    disconnect,
    is_redis,
    open_channel,
    queue_status,
)
from caselog.events.transport.events_queue import MOVING, Standing, exists, open_events, standing_of

POLL_S: Final = 0.2
AT_ONCE_MESSAGES: Final = 200
_MOVING_QUEUE: Final = Queue(
    MOVING,
    EVENTS_EXCHANGE,
    routing_key=EVENTS_QUEUE.routing_key,
    durable=True,
    queue_arguments=EVENTS_QUEUE.queue_arguments,
)


class NotMoved(CaselogError):
    """The queue is as it was, or the move is to be ended by another run; nothing is lost."""


class Moved(msgspec.Struct, frozen=True):
    """How many messages waited and were carried over; None where the queue was as it should be."""

    messages: int | None


def move_queue(broker_url: str, within_s: float) -> Moved:
    """Make the queue anew where that is needed. Waits up to `within_s` seconds for recorders to stop consuming.

    Raises `NotMoved`, and what the broker's driver raises.
    """
    connection = connect(broker_url)
    try:
        if is_redis(connection):
            raise NotMoved("the broker is Redis: there is no queue to move")
        return _move(connection, within_s)
    finally:
        disconnect(connection)


def _move(connection: Connection, within_s: float) -> Moved:
    is_begun = exists(connection, MOVING)
    try:
        is_right = standing_of(connection) in (Standing.SAFE, None)
    except BrokerRefusal:
        is_right = False
    if is_right and not is_begun:
        return Moved(None)
    channel = open_channel(connection)
    EVENTS_EXCHANGE(channel).declare()
    REMOVED_QUEUE(channel).declare()
    moved = 0
    if not is_right:
        _wait_for_pause(connection, within_s)
        _MOVING_QUEUE(channel).declare()
        # Until now both get what is published, and from now on the new one alone.
        channel.queue_unbind(EVENTS_QUEUE.name, EVENTS_EXCHANGE.name, EVENTS_QUEUE.routing_key)
        moved += _pour(connection, EVENTS_QUEUE.name, MOVING)
        _wait_for_pause(connection, 0)
        # A Publisher that began meanwhile has bound it again; what it sent went to both.
        channel.queue_delete(EVENTS_QUEUE.name)
    _, standing = open_events(connection)
    channel = open_channel(connection)
    channel.queue_unbind(MOVING, EVENTS_EXCHANGE.name, EVENTS_QUEUE.routing_key)
    poured = _pour(connection, MOVING, EVENTS_QUEUE.name)
    channel.queue_delete(MOVING)
    if standing is not Standing.SAFE:
        raise NotMoved(
            f"{EVENTS_QUEUE.name} was made again by a process of an earlier version, as it was. Nothing is lost. "
            f"Upgrade all publishers and recorders, and then move it"
        )
    return Moved(max(moved, poured))


def _wait_for_pause(connection: Connection, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while consumers := queue_status(connection, EVENTS_QUEUE.name, with_age=False).consumers:
        if time.monotonic() >= deadline_s:
            raise NotMoved(
                f"{count_of(consumers, 'recorder consumes', 'recorders consume')} {EVENTS_QUEUE.name}. "
                f"Pause them: caselog pause --why 'the queue is moved'; afterwards: caselog resume"
            )
        time.sleep(POLL_S)  # polls a condition; the deadline bounds it


def _pour(connection: Connection, source: str, target: str) -> int:
    """Move all messages of a queue to another; each is acked when the other has it. How many they were."""
    taken: list[Any] = []
    receiving, sending = open_channel(connection), open_channel(connection)
    consumer = consume(receiving, Queue(source, no_declare=True), taken.append, prefetch_messages=AT_ONCE_MESSAGES)
    consumer.consume()
    poured = 0
    while True:
        try:
            connection.drain_events(timeout=POLL_S)
        except TimeoutError:
            if not taken and not queue_status(connection, source, with_age=False).ready:
                break
        batch, taken[:] = taken[:], []
        for message in batch:
            sending.basic_publish(
                _copy(sending, message), routing_key=target, mandatory=True, confirm_timeout=CONFIRM_TIMEOUT_S
            )
            message.ack()
        poured += len(batch)
    consumer.cancel()
    receiving.close()
    sending.close()
    return poured


def _copy(channel: Any, message: Any) -> Any:
    """The message as it was sent, to be published again."""
    kept = {name: value for name, value in message.properties.items() if name not in _TOLD_APART}
    return channel.prepare_message(
        message.body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=message.headers,
        properties={**kept, "delivery_mode": 2},
    )


_TOLD_APART: Final = ("content_type", "content_encoding", "application_headers", "delivery_mode")
