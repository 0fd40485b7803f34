"""The broker in one place: how to connect, the queues there are, and what operations ask about them.

Everything here is the same on Redis (`events.redis_streams`) and RabbitMQ (kombu's py-amqp), except where it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import time
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import msgspec
from amqp.exceptions import NotFound
from kombu import Connection, Consumer, Exchange, Queue
from kombu.message import Message

from events.errors import SettingsError
from events.redis_streams import TRANSPORT
from events.stream_queue import LEASE_MS

REDIS_SCHEMES: Final = ("redis", "rediss", "redis+socket")
AMQP_SCHEMES: Final = ("amqp", "amqps")
HEARTBEAT_S: Final = 30
CONFIRM_TIMEOUT_S: Final = 10
CONNECT_TIMEOUT_S: Final = 5
# RabbitMQ 4 deletes a message at its 21st delivery unless told otherwise. caselog sets aside what is bad itself, and
# redelivers what is good as often as the database or a recorder goes away: the limit must never bite.
DELIVERIES_MAX: Final = 2**31 - 1
# Nobody needs old pings; a queue of them must not fill the broker while no status worker runs.
PINGS_MAX: Final = 1000
PING_AGE_S: Final = 60
REPLY_QUEUE_IDLE_S: Final = 600
_PUMPED_FRAMES: Final = 10_000

EVENTS_EXCHANGE: Final = Exchange("caselog.events", type="topic", durable=True)
EVENTS_QUEUE: Final = Queue(
    "caselog.events",
    EVENTS_EXCHANGE,
    routing_key="event.#",
    durable=True,
    queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": DELIVERIES_MAX},
)
# Published to by its name, through the default exchange.
PING_QUEUE: Final = Queue("caselog.ping", durable=True, max_length=PINGS_MAX, message_ttl=PING_AGE_S)


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
    """A connection to the broker at that URL, not yet established. Raises `SettingsError` for another kind of URL.

    Who holds messages calls `keep_alive` more often than `heartbeat_s` (RabbitMQ; 0: no heartbeats) and `lease_ms`
    (Redis): otherwise the broker takes the consumer for dead and hands its messages to others.
    """
    scheme = url.partition("://")[0]
    if scheme in REDIS_SCHEMES:
        return Connection(
            _redis_url(url),
            transport=TRANSPORT,
            connect_timeout=CONNECT_TIMEOUT_S,
            transport_options={"lease_ms": lease_ms},
        )
    if scheme in AMQP_SCHEMES:
        return Connection(
            url,
            connect_timeout=CONNECT_TIMEOUT_S,
            heartbeat=heartbeat_s,
            # Without it a publish returns before RabbitMQ has the message.
            transport_options={"confirm_publish": True},
        )
    expected = ", ".join(f"{scheme}://" for scheme in (*REDIS_SCHEMES, *AMQP_SCHEMES))
    raise SettingsError(f"the broker's URL starts with {scheme!r}: expected one of {expected}")


def open_channel(connection: Connection) -> Any:
    """A new channel, on a new connection where there is none. Raises at once while the broker is away.

    (kombu on its own would try a second time after two seconds.)
    """
    connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
    return connection.channel()


def is_redis(connection: Connection) -> bool:
    return bool(connection.transport.driver_type == "redis")


def reply_queue() -> Queue:
    """A queue for answers to this connection alone; it is gone when its channel (Redis) or connection closes."""
    return Queue(
        f"caselog.reply.{uuid4()}", durable=False, exclusive=True, auto_delete=True, expires=REPLY_QUEUE_IDLE_S
    )


def consume(channel: Any, queue: Queue, on_message: Callable[[Message], None], *, prefetch_messages: int) -> Consumer:
    """A consumer of raw messages, as yet inactive: use it as a context manager, or call `consume()`.

    Declares the queue. `message.body` is the bytes as they were sent, whatever encoding or compression the sender
    claimed: nothing is unpacked (a few kilobytes may claim to be gigabytes), and what cannot be read is for the decoder
    to say. At most `prefetch_messages` are held unacked.
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
        channel, queues=[queue], on_message=receive, on_decode_error=receive, prefetch_count=prefetch_messages
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
    channel: Any, body: bytes, *, routing_key: str, exchange: str = "", content_type: str, **properties: Any
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
        message, exchange=exchange, routing_key=routing_key, mandatory=True, confirm_timeout=CONFIRM_TIMEOUT_S
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


def _redis_url(url: str) -> str:
    """The URL as redis-py reads it: a socket is `unix://`, and the database is `db`, which kombu calls virtual_host."""
    parts = urlsplit(url)
    scheme = "unix" if parts.scheme == "redis+socket" else parts.scheme
    query = [("db" if name == "virtual_host" else name, value) for name, value in parse_qsl(parts.query)]
    return f"{scheme}://{parts.netloc}{parts.path}" + (f"?{urlencode(query)}" if query else "")
