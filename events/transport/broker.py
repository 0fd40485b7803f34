"""The broker in one place: how to connect, the queues there are, and what operations ask about them.

Everything here is the same on Redis (`caselog.events.streams.transport`) and RabbitMQ (kombu's py-amqp), except where
it says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any, Final
from uuid import uuid4

import msgspec
from amqp.exceptions import NotFound
from kombu import Connection, Consumer, Exchange, Queue
from kombu.message import Message

from caselog.events.errors import SettingsError
from caselog.events.streams.queue import LEASE_MS
from caselog.events.streams.transport import TRANSPORT
from caselog.events.transport.amqp import CONNECT_TIMEOUT_S, RabbitMq
from caselog.events.transport.urls import AMQP_SCHEMES, BROKER_SCHEMES, BadUrl, read_urls, redis_py_url

HEARTBEAT_S: Final = 30
CONFIRM_TIMEOUT_S: Final = 10
# RabbitMQ 4 deletes a message at its 21st delivery unless told otherwise. caselog sets aside what is bad itself, and
# redelivers what is good as often as the database or a recorder goes away: the limit must never bite.
DELIVERIES_MAX: Final = 2**31 - 1
# Nobody needs old pings; a queue of them must not fill the broker while no status worker runs.
PINGS_MAX: Final = 1000
PING_AGE_S: Final = 60
REPLY_QUEUE_IDLE_S: Final = 600
_PUMPED_FRAMES: Final = 10_000

REMOVED: Final = "caselog.events.removed"
HELD: Final = "caselog.events.held"
EVENTS_EXCHANGE: Final = Exchange("caselog.events", type="topic", durable=True)
# What earlier versions declared the queue with (docs/decisions/0102); such a queue is used as it is.
FORMER_ARGUMENTS: Final = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERIES_MAX}
# A policy of the server's may remove a message from a queue all the same: then it is moved, and only forgotten when the
# queue that it is moved to has it.
_MOVED_SAFELY: Final = {**FORMER_ARGUMENTS, "x-overflow": "reject-publish", "x-dead-letter-strategy": "at-least-once"}
EVENTS_QUEUE: Final = Queue(
    "caselog.events",
    EVENTS_EXCHANGE,
    routing_key="event.#",
    durable=True,
    # Through the default exchange, by the queue's name: no binding that could be lost.
    queue_arguments={**_MOVED_SAFELY, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": REMOVED},
)
# RabbitMQ only. What a policy removed from the queue of events; recorders consume it, too. What a policy removes from
# it in turn has no queue to go to, and so RabbitMQ keeps it inside, beyond the reach of policies, until one is bound.
HELD_EXCHANGE: Final = Exchange(HELD, type="fanout", durable=True)
REMOVED_QUEUE: Final = Queue(REMOVED, durable=True, queue_arguments={**_MOVED_SAFELY, "x-dead-letter-exchange": HELD})
# A recorder binds it for a moment at its start, and so gets what was kept; else it is not bound.
HELD_QUEUE: Final = Queue(HELD, durable=True, queue_arguments={**_MOVED_SAFELY, "x-dead-letter-exchange": HELD})

# Published to by its name, through the default exchange: on Redis, and on RabbitMQ by older callers.
PING_QUEUE: Final = Queue("caselog.ping", durable=True, max_length=PINGS_MAX, message_ttl=PING_AGE_S)
# On RabbitMQ: each status worker has a queue of its own behind it, so no node but the worker's own must be up.
PINGS_EXCHANGE: Final = Exchange("caselog.pings", type="fanout", durable=True)
REPLY_PREFIX: Final = "caselog.reply."
# Names that a client gives its reply queue; those that RabbitMQ gives; RabbitMQ's direct replies. A name beginning with
# "amq." cannot be a client's own choice.
_REPLY_QUEUE: Final = re.compile(
    r"caselog\.reply\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|amq\.gen-[\w=-]{1,100}|amq\.rabbitmq\.reply-to\.[\w.+/=-]{1,200}"
)


class QueueStatus(msgspec.Struct, frozen=True):
    """A queue as operations see it. `None` means not known, never zero.

    Redis: all exact at one instant. RabbitMQ: `unacked` is None, since AMQP does not tell (the recorders know what
    they hold); `oldest_age_s` is that of the first *ready* message, and None where there is none or its sender set no
    `timestamp`, by the sender's clock and in whole seconds.
    """

    queue: str
    ready: int
    unacked: int | None
    oldest_age_s: float | None
    consumers: int
    arrived: int | None = None  # all that ever were; Redis 7 and later


def connect(url: str, *, heartbeat_s: int = HEARTBEAT_S, lease_ms: int = LEASE_MS) -> Connection:
    """A connection to the broker at that URL, not yet established. Raises `SettingsError` for one that is no good.

    Of a list of RabbitMQ's nodes it is to the first one that takes it; the next connection of this process begins with
    that one. Whose connection failed says so to `leave_host`.
    Who holds messages calls `keep_alive` more often than `heartbeat_s` (RabbitMQ; 0: no heartbeats) and `lease_ms`
    (Redis): otherwise the broker takes the consumer for dead and hands its messages to others.
    """
    try:
        urls = read_urls(url, BROKER_SCHEMES)
    except BadUrl as error:
        raise SettingsError(f"the broker's URL: {error}") from None
    if urls[0].scheme in AMQP_SCHEMES:
        return RabbitMq(urls, heartbeat_s)
    return Connection(
        redis_py_url(url),
        transport=TRANSPORT,
        connect_timeout=CONNECT_TIMEOUT_S,
        transport_options={"lease_ms": lease_ms},
    )


def leave_host(connection: Connection, error: BaseException) -> None:
    """Say what error ended the use of the connection: after one of the connection itself, the next node is tried first.

    On RabbitMQ with a list of nodes; else nothing happens. A connection used in a `with` block does so by itself.
    """
    if isinstance(connection, RabbitMq):
        connection.leave_after(error)


def limit_connecting(connection: Connection, deadline_s: float | None) -> None:
    """RabbitMQ: past this time (`monotonic`) no host is waited for. Each is asked all the same. None: no such time."""
    if isinstance(connection, RabbitMq):
        connection.deadline_s = deadline_s


def open_channel(connection: Connection) -> Any:
    """A new channel, on a new connection where there is none. Raises at once while the broker is away.

    (kombu on its own would try a second time after two seconds.)
    """
    connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
    return connection.channel()


def alarm_of(connection: Connection) -> str | None:
    """Why RabbitMQ takes nothing more that is published on this connection ("low on memory"), as far as it said so.

    It says so when something is published on it, and takes it back; both are seen when the connection is read.
    """
    alarm: str | None = getattr(connection, "alarm", None)
    return alarm


def outlast_alarm(connection: Connection, within_s: float) -> bool:
    """Wait for the end of an alarm; False where it goes on. What was published meanwhile may have arrived or not.

    On the same connection: RabbitMQ does not even notice that one under an alarm was closed, so that each new one would
    stay there beside it.
    """
    deadline_s = monotonic() + within_s
    while alarm_of(connection) is not None:
        left_s = deadline_s - monotonic()
        if left_s <= 0:
            return False
        try:
            connection.drain_events(timeout=left_s)
        except TimeoutError:
            continue
        except (*connection.connection_errors, *connection.channel_errors):
            connection.collect()
            connection.alarm = None
    return True


def disconnect(connection: Connection) -> None:
    """Close it; the broker gives what was not acked to others. Raises nothing, and never waits for a broker's alarm."""
    try:
        if alarm_of(connection) is None:
            connection.release()
        else:
            # RabbitMQ reads nothing on it until the alarm is over, a goodbye neither.
            connection.collect()
    except (*connection.connection_errors, *connection.channel_errors):
        return  # it is gone already; what was not acked comes back by itself


def is_redis(connection: Connection) -> bool:
    return bool(connection.transport.driver_type == "redis")


def reply_queue() -> Queue:
    """A queue for answers to this connection alone; it is gone when its channel (Redis) or connection closes."""
    return Queue(
        f"{REPLY_PREFIX}{uuid4()}", durable=False, exclusive=True, auto_delete=True, expires=REPLY_QUEUE_IDLE_S
    )


def is_reply_queue(name: object) -> bool:
    """Whether an answer may be sent there: a name as `reply_queue` gives it, or one that only RabbitMQ itself gives."""
    return isinstance(name, str) and _REPLY_QUEUE.fullmatch(name) is not None


def pings_queue() -> Queue:
    """A queue of pings for one status worker on RabbitMQ; it goes with its connection."""
    return Queue(
        f"{PINGS_EXCHANGE.name}.{uuid4()}",
        PINGS_EXCHANGE,
        durable=False,
        exclusive=True,
        auto_delete=True,
        max_length=PINGS_MAX,
        message_ttl=PING_AGE_S,
    )


def consume(
    channel: Any,
    queue: Queue | Sequence[Queue],
    on_message: Callable[[Message], None],
    *,
    prefetch_messages: int,
) -> Consumer:
    """A consumer of raw messages, as yet inactive: use it as a context manager, or call `consume()`.

    Declares the queue, or queues, unless they say `no_declare`. `message.body` is the bytes as they were sent, whatever
    encoding or compression the sender claimed: nothing is unpacked (a few kilobytes may claim to be gigabytes), and
    what cannot be read is for the decoder to say. At most `prefetch_messages` are held unacked (on RabbitMQ, of each
    queue).
    """

    def receive(message: Message, _error: Exception | None = None) -> None:
        # py-amqp gives text where the sender named an encoding.
        message.body = message.body.encode() if isinstance(message.body, str) else bytes(message.body or b"")
        on_message(message)

    if not is_redis(channel.connection.client):
        to_message = channel.message_to_python

        def as_sent(raw: Any) -> Any:
            # kombu would unpack the body before anybody could look at it; on Redis `stream_message` sees to it.
            (raw.properties.get("application_headers") or {}).pop("compression", None)
            return to_message(raw)

        channel.message_to_python = as_sent
    return Consumer(
        channel,
        queues=[queue] if isinstance(queue, Queue) else list(queue),
        on_message=receive,
        on_decode_error=receive,
        prefetch_count=prefetch_messages,
    )


def limit_prefetch(consumer: Consumer, prefetch_messages: int) -> None:
    """Change how many messages an active consumer may hold unacked. Those that it holds stay its own.

    RabbitMQ reads the limit when a consumer begins, so there it ends and begins anew: two round trips, in which
    messages may be handed over.
    """
    consumer.qos(prefetch_count=prefetch_messages)
    if not is_redis(consumer.channel.connection.client):
        consumer.cancel()
        consumer.consume()


def publish(
    channel: Any,
    body: bytes,
    *,
    routing_key: str,
    exchange: str = "",
    content_type: str,
    confirm_timeout_s: float = CONFIRM_TIMEOUT_S,
    **properties: Any,
) -> None:
    """Publish one durable message and return when the broker has it.

    Raises one of the connection's `connection_errors` or `channel_errors`; then drop the channel and publish the same
    body again on a new one, because nobody knows whether the broker has it. Raises also where no queue would get it.
    """
    message = channel.prepare_message(
        body,
        content_type=content_type,
        content_encoding="utf-8",
        properties={"delivery_mode": 2, "timestamp": int(time()), **properties},
    )
    channel.basic_publish(
        message, exchange=exchange, routing_key=routing_key, mandatory=True, confirm_timeout=confirm_timeout_s
    )


def keep_alive(connection: Connection) -> None:
    """Tell the broker that this consumer lives, though it does not drain: call it about once a second.

    Redis: renews the leases of the messages held. RabbitMQ: sends heartbeats and reads the broker's, and so may hand
    messages to the consumer's callback, up to its prefetch limit. From the connection's own thread only.
    """
    if not is_redis(connection):
        with suppress(TimeoutError):
            for _ in range(_PUMPED_FRAMES):
                connection.drain_events(timeout=0.001)
    connection.heartbeat_check()


def queue_status(connection: Connection, queue: str, *, with_age: bool = True) -> QueueStatus:
    """What is in the queue now; zeros where there is no such queue. What is known on which broker: `QueueStatus`.

    Who asks again and again does it without the age: on RabbitMQ that takes the first message out for an instant, in
    which it is not ready, and whoever takes it counts as a consumer.
    """
    with open_channel(connection) as channel:
        if is_redis(connection):
            return QueueStatus(queue, *channel.counts(queue))
        try:
            _, ready, consumers = channel.queue_declare(queue, passive=True)
        except NotFound:
            return QueueStatus(queue, 0, None, None, 0)
        age_s = _head_age_s(channel, queue) if ready and with_age else None
        return QueueStatus(queue, ready, None, age_s, consumers)


def published_s(message: Message) -> int | None:
    """When the message was published, in whole seconds since 1970: by the clock of Redis, or on RabbitMQ its sender's.

    None where the sender did not say.
    """
    sent_s = message.properties.get("timestamp")
    return sent_s if isinstance(sent_s, int) else None


def high_water(connection: Connection, queue: str) -> str | None:
    """A mark for `is_handled`: all that was published before now is below it. None on RabbitMQ: it has no positions."""
    if not is_redis(connection):
        return None
    with open_channel(connection) as channel:
        return str(channel.consumer.last_id(queue))


def is_handled(connection: Connection, queue: str, mark: str) -> bool:
    """True when everything up to the mark has been acked. Redis only."""
    with open_channel(connection) as channel:
        return bool(channel.consumer.is_settled_up_to(queue, mark))


def _head_age_s(channel: Any, queue: str) -> float | None:
    """AMQP has no way to look at a message: it is taken and put back, at the head, where it came from."""
    message = channel.basic_get(queue)
    if message is None:
        return None
    channel.basic_reject(message.delivery_tag, requeue=True)
    sent_s = published_s(message)
    return None if sent_s is None else max(time() - sent_s, 0.0)
