"""The queue of raw events as it stands on the broker: opened for use, and judged by what it was declared with.

RabbitMQ does not change the arguments of a queue that exists, and AMQP has no way to read them. But it refuses to
declare a queue with other arguments, and says each time which one differs and what it is: so they are found one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from time import monotonic
from typing import Any, Final

from amqp.exceptions import AccessRefused, ConsumerCancelled, NotFound, PreconditionFailed
from kombu import Connection, Queue
from kombu.message import Message

from caselog.events.errors import BrokerRefusal
from caselog.events.transport.broker import (
    EVENTS_EXCHANGE,
    EVENTS_QUEUE,
    HELD,
    HELD_EXCHANGE,
    HELD_QUEUE,
    REMOVED_QUEUE,
    consume,
    is_redis,
    open_channel,
)

_DIFFERS: Final = re.compile(
    # The type is said where it differs, too.
    r"inequivalent arg '(x-[^']+)' for queue .* but current is (?:(none)|the value '(.*)' of type '\w+'|'(.*)')$"
)
# RabbitMQ knows some fifteen arguments.
_ARGUMENTS_MAX: Final = 30
# Has the events while `caselog move-queue` puts the queue in order.
MOVING: Final = "caselog.events.moving"
_BIND_AGAIN_S: Final = 60.0
_SAFE: Final = ("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy", "x-overflow")
_MOVE: Final = 'move it: caselog move-queue (docs/operations.md, "The queue of events on RabbitMQ")'


class Standing(StrEnum):
    """What becomes of messages that a policy of the server's removes from the queue."""

    SAFE = "what a policy removes comes back"
    UNSAFE = "made by an earlier version, or by hand: what a policy removes would be lost"
    UNKNOWN = "its arguments cannot be read: the user of CASELOG_BROKER_URL may not configure it"


def open_events(connection: Connection) -> tuple[Any, Standing]:
    """A new channel for publishing to the exchange and consuming the queue of raw events, both declared where missing.

    Raises `BrokerRefusal` for a queue that cannot be relied on, and what the broker's driver raises.
    """
    channel = open_channel(connection)
    if is_redis(connection):
        EVENTS_QUEUE(channel).declare()
        return channel, Standing.SAFE
    _queues_of_removed(connection)  # before the one from which messages go there
    try:
        EVENTS_QUEUE(channel).declare()
    except PreconditionFailed as error:
        if not _DIFFERS.search(str(error.reply_text)):
            raise
        standing = standing_of(connection)
        if standing is None:  # it was deleted just now
            return open_events(connection)
        channel = open_channel(connection)
        EVENTS_EXCHANGE(channel).declare()
        EVENTS_QUEUE(channel).queue_bind()
        return channel, standing
    except AccessRefused:
        if not exists(connection, EVENTS_QUEUE.name):
            raise
        # Whoever may configure it has made it; to publish to it, or to consume it, takes no more.
        return open_channel(connection), Standing.UNKNOWN
    return channel, Standing.SAFE


def standing_of(connection: Connection) -> Standing | None:
    """How the queue of raw events on RabbitMQ stands; None where there is none yet. Raises as `open_events` does."""
    if not exists(connection, EVENTS_QUEUE.name):
        return None
    try:
        arguments = _arguments_of(connection)
    except AccessRefused:
        return Standing.UNKNOWN
    kind = arguments.get("x-queue-type", "classic")
    if kind != "quorum":
        raise BrokerRefusal(
            f"{EVENTS_QUEUE.name} is a {kind} queue, and caselog needs a quorum queue, which loses nothing with a "
            f"node: {_MOVE}"
        )
    wanted = EVENTS_QUEUE.queue_arguments
    return Standing.SAFE if all(arguments.get(name) == wanted[name] for name in _SAFE) else Standing.UNSAFE


@contextmanager
def consume_removed(
    channel: Any, on_message: Callable[[Message], None], *, prefetch_messages: int
) -> Iterator[Callable[[], None]]:
    """Within, consume what a policy of RabbitMQ's removed from the queue of raw events; on Redis nothing is.

    What RabbitMQ keeps for want of a queue comes within three minutes, which is how often it tries again, into a queue
    that is bound for it: only within, since a policy removes from each queue that nobody empties. Call what this gives
    while nothing comes: another recorder that ended has unbound it, and a queue of raw events that was deleted and made
    anew at once has no consumer any more, which RabbitMQ does not always say. It raises then what the driver raises.
    """
    connection = channel.connection.client
    queues = (
        [] if is_redis(connection) else [queue for queue in _queues_of_removed(connection) if _may_read(channel, queue)]
    )
    names = [queue.name for queue in queues]
    bound_s = monotonic()

    def bind() -> None:
        nonlocal bound_s
        if HELD in names:
            with suppress(AccessRefused), open_channel(connection) as apart:
                apart.queue_bind(HELD, HELD)
        bound_s = monotonic()

    def look_again() -> None:
        if queues and monotonic() >= bound_s + _BIND_AGAIN_S:
            if not channel.queue_declare(EVENTS_QUEUE.name, passive=True).consumer_count:
                raise ConsumerCancelled(f"{EVENTS_QUEUE.name} was deleted and made anew")
            bind()

    if not queues:
        yield look_again
        return
    with consume(channel, queues, on_message, prefetch_messages=prefetch_messages):
        bind()
        yield look_again
        # Not where it ends by an error: then the channel may be gone, and the next one binds it again anyway.
        if HELD in names:
            with suppress(AccessRefused), open_channel(connection) as apart:
                apart.queue_unbind(HELD, HELD)


def reasons_of(headers: Mapping[str, Any]) -> list[str]:
    """Why, first to last, a message was removed from the queues that it went through; empty for one that was not."""
    deaths = headers.get("x-death")
    if not isinstance(deaths, list):
        return []
    return [str(death.get("reason")) for death in reversed(deaths) if isinstance(death, dict)]


def _arguments_of(connection: Connection) -> dict[str, Any]:
    """What the queue of raw events, which exists, was declared with."""
    arguments = dict(EVENTS_QUEUE.queue_arguments)
    for _ in range(_ARGUMENTS_MAX):
        try:
            with open_channel(connection) as channel:
                channel.queue_declare(EVENTS_QUEUE.name, durable=True, auto_delete=False, arguments=arguments)
        except PreconditionFailed as error:
            differs = _DIFFERS.search(str(error.reply_text))
            if differs is None:
                raise
            name, none, value, value_of_type = differs.groups()
            found = value if value_of_type is None else value_of_type
            if none:
                del arguments[name]
            else:
                arguments[name] = int(found) if found.isdecimal() else found
        else:
            return arguments
    raise BrokerRefusal(f"the arguments of {EVENTS_QUEUE.name} cannot be read from what RabbitMQ says: {_MOVE}")


def _queues_of_removed(connection: Connection) -> list[Queue]:
    """Those only that may be used: without one events are recorded all the same, and what it would hold waits."""
    usable = []
    for queue in (REMOVED_QUEUE, HELD_QUEUE):
        try:
            with open_channel(connection) as channel:
                HELD_EXCHANGE(channel).declare()
                queue(channel).declare()
        except (AccessRefused, PreconditionFailed):
            if not exists(connection, queue.name):
                continue
        usable.append(Queue(queue.name, no_declare=True))
    return usable


def _may_read(channel: Any, queue: Queue) -> bool:
    """Whether this user may consume it: to be refused costs the channel, and so is tried on another one."""
    try:
        with open_channel(channel.connection.client) as apart:
            apart.basic_get(queue.name)  # not acked: it goes back with the channel
    except AccessRefused:
        return False
    return True


def exists(connection: Connection, queue: str) -> bool:
    """Whether RabbitMQ has the queue. Raises where it is on a node that does not answer."""
    try:
        with open_channel(connection) as channel:
            channel.queue_declare(queue, passive=True)
    except NotFound as error:
        if "is down" in str(error.reply_text):  # it exists, on a node that does not answer
            raise
        return False
    return True
