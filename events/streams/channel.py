"""A kombu channel on Redis Streams: queues, publishing, prefetch, acks in one pipeline."""

# ruff: noqa: ARG002, FBT001, FBT002 - the signatures are kombu's
from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from itertools import count
from time import monotonic
from typing import Any, Final, NamedTuple

from amqp.exceptions import NotFound, PreconditionFailed, RecoverableConnectionError
from kombu.message import Message as KombuMessage
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from redis.exceptions import RedisError, ResponseError

from caselog.events.streams.entry import from_entry, to_fields
from caselog.events.streams.queue import LEASE_MS, Counts, Entry, StreamConsumer, is_missing

# Messages a read without a prefetch limit: from 100 to 1,000 the rate is level.
READ_MESSAGES: Final = 500
# Released messages are looked for this often; a new message wakes a blocked reader at once.
TAKE_OVER_MS: Final = 100
# Temporary queues are deleted with their channel; this is for the client that was killed.
TEMPORARY_QUEUE_MS: Final = 3_600_000


class _Subscription(NamedTuple):
    queue: str
    on_message: Callable[[KombuMessage], None]
    no_ack: bool


class Channel(virtual.Channel):
    """One consumer of the group `caselog`. Delivery tags count up, as in AMQP."""

    Message = KombuMessage

    def __init__(self, connection: Any) -> None:
        """`connection` is the `Transport` that makes it."""
        super().__init__(connection)
        options = connection.client.transport_options
        self.consumer = StreamConsumer(connection.redis, options.get("lease_ms", LEASE_MS))
        self.prefetch_count = 0
        self._subscriptions: dict[str, _Subscription] = {}
        self._held: dict[int, tuple[str, bytes]] = {}
        self._inbox: deque[tuple[_Subscription, KombuMessage]] = deque()
        self._queues_read: set[str] = set()
        self._temporary: set[str] = set()
        self._tags = count(1)
        self._next_upkeep = self._next_take_over = 0.0

    # Queues

    def _new_queue(self, queue: str, **options: Any) -> None:
        arguments = options.get("arguments") or {}
        temporary = options.get("exclusive") or options.get("auto_delete")
        expire_ms = arguments.get("x-expires", TEMPORARY_QUEUE_MS if temporary else None)
        if temporary:
            self._temporary.add(queue)
        self.connection.length_max[queue] = arguments.get("x-max-length")
        self.consumer.create(queue, expire_ms)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.consumer.exists(queue)

    def _size(self, queue: str) -> int:
        return self.counts(queue).ready

    def _purge(self, queue: str) -> int:
        purged = 0
        while entries := (
            self.consumer.take_over(queue, READ_MESSAGES, lapsed=False) or self.consumer.read([queue], READ_MESSAGES, 0)
        ):
            self.consumer.settle({queue: [entry.entry_id for entry in entries]})
            purged += len(entries)
        return purged

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any) -> None:
        counts = self.counts(queue)
        if (if_empty and counts.ready) or (if_unused and counts.consumers):
            raise PreconditionFailed(f"queue {queue!r} is in use or not empty", reply_code=406)
        self.state.queue_bindings_delete(queue)
        self._temporary.discard(queue)
        self.consumer.delete(queue)

    def prepare_queue_arguments(self, arguments: Mapping[str, Any], **options: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **options)

    def counts(self, queue: str) -> Counts:
        return self.consumer.counts(queue)

    # Publishing

    def basic_publish(
        self, message: dict[str, Any], exchange: str = "", routing_key: str = "", *, mandatory: bool = False, **_: Any
    ) -> None:
        """Returns when Redis has the message. Raises `NotFound` where an exchange leads to no queue.

        Through the default exchange a message for a queue that is gone is dropped, unless it is `mandatory`: so a
        late reply does not bring a deleted reply queue back.
        """
        queues = self._lookup(exchange, routing_key)
        if not queues:
            raise NotFound(f"exchange {exchange!r} leads to no queue by {routing_key!r}: declare the queue first")
        fields = to_fields(message)
        for queue in queues:
            limit = self.connection.length_max.get(queue)
            added = self.consumer.add(queue, fields, length_max=limit, create=bool(exchange))
            if added is None and mandatory:
                raise NotFound(f"there is no queue {queue!r}: declare it first")

    # Consuming

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        self.prefetch_count = prefetch_count

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[KombuMessage], None],
        consumer_tag: str = "",
        **_: Any,
    ) -> str:
        if any(subscription.queue == queue for subscription in self._subscriptions.values()):
            raise PreconditionFailed(f"this channel consumes {queue!r} already: use another channel", reply_code=406)
        tag = consumer_tag or f"{self.consumer.name}.{queue}"
        self._subscriptions[tag] = _Subscription(queue, callback, no_ack)
        self._queues_read.add(queue)
        self.consumer.join(queue)
        return tag

    def basic_cancel(self, consumer_tag: str, **_: Any) -> None:
        """Messages handed over stay held until they are acked; those read ahead are given back."""
        subscription = self._subscriptions.pop(consumer_tag, None)
        ahead = [message for owner, message in self._inbox if owner is subscription]
        self._inbox = deque(item for item in self._inbox if item[0] is not subscription)
        self.consumer.release(self._take([message.delivery_tag for message in ahead]))

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> KombuMessage | None:
        self._queues_read.add(queue)
        entries = self.consumer.take_over(queue, 1, lapsed=False) or self.consumer.read([queue], 1, 0)
        return self._receive(entries[0], no_ack=no_ack) if entries else None

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """One round trip, however many messages `multiple` covers: all handed over up to this one."""
        self._settle(self._tags_up_to(delivery_tag) if multiple else [delivery_tag])

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Requeued, the message keeps its place and age and is free for others at once; otherwise it is dropped."""
        if requeue:
            self.consumer.release(self._take([delivery_tag]))
        else:
            self._settle([delivery_tag])

    def basic_recover(self, requeue: bool = False) -> None:
        if not requeue:
            raise NotImplementedError("recover without requeue has no meaning here, as on RabbitMQ: use requeue=True")
        self._inbox.clear()
        self.consumer.release(self._take(list(self._held)))

    def extend_lease(self) -> None:
        """Tell the others that what is held here is still being worked on."""
        held: dict[str, list[bytes]] = defaultdict(list)
        for queue, entry_id in self._held.values():
            held[queue].append(entry_id)
        self.consumer.renew(held, [subscription.queue for subscription in self._subscriptions.values()])

    def deliver(self, block_ms: int) -> bool:
        """Hand over what there is, up to the prefetch limit; waits up to `block_ms` for it.

        False where there was nothing. What a failing callback leaves is handed over by the next call.
        """
        if not self._inbox:
            try:
                self._fill_inbox(block_ms)
            except ResponseError as error:
                if not is_missing(error):
                    raise
                for subscription in self._subscriptions.values():  # the data were flushed: begin again
                    self.consumer.create(subscription.queue)
        delivered = bool(self._inbox)
        while self._inbox:
            subscription, message = self._inbox.popleft()
            subscription.on_message(message)
        return delivered

    @property
    def is_consuming(self) -> bool:
        return bool(self._subscriptions)

    @property
    def has_room(self) -> bool:
        return not self.prefetch_count or len(self._held) < self.prefetch_count

    def _fill_inbox(self, block_ms: int) -> None:
        now = monotonic()
        lapsed = now >= self._next_upkeep
        by_queue = {subscription.queue: subscription for subscription in self._subscriptions.values()}
        if lapsed:
            self._next_upkeep = now + self.consumer.lease_ms / 4000
            self.extend_lease()  # before looking for lapsed leases: our own must not be among them
            for queue in by_queue:
                self.consumer.forget_the_silent(queue)
        if not self.has_room:
            return
        room = self.prefetch_count - len(self._held) if self.prefetch_count else READ_MESSAGES
        # XREADGROUP counts for each queue, the prefetch limit for all of them: each queue gets its share, in turn.
        queues = list(by_queue)[:room]
        first = next(iter(self._subscriptions))
        self._subscriptions[first] = self._subscriptions.pop(first)
        entries: list[Entry] = []
        if lapsed or now >= self._next_take_over:
            self._next_take_over = now + TAKE_OVER_MS / 1000
            for queue in queues:
                entries += self.consumer.take_over(queue, room // len(queues), lapsed=lapsed)
        if not entries:
            entries = self.consumer.read(queues, room // len(queues), block_ms)
        for entry in entries:
            subscription = by_queue[entry.queue]
            self._inbox.append((subscription, self._receive(entry, no_ack=subscription.no_ack)))

    def _receive(self, entry: Entry, *, no_ack: bool) -> KombuMessage:
        tag = next(self._tags)
        if no_ack:
            self.consumer.settle({entry.queue: [entry.entry_id]})
        else:
            self._held[tag] = (entry.queue, entry.entry_id)
        return from_entry(entry, tag, self)

    def _tags_up_to(self, delivery_tag: int) -> list[int]:
        tags = []
        for tag in self._held:  # in the order of delivery
            if tag > delivery_tag:
                break
            tags.append(tag)
        return tags

    def _settle(self, tags: list[int]) -> None:
        if self.closed:
            raise RecoverableConnectionError("the channel is closed, and its messages were given back")
        by_queue: dict[str, list[bytes]] = defaultdict(list)
        for tag in tags:
            if tag in self._held:
                queue, entry_id = self._held[tag]
                by_queue[queue].append(entry_id)
        self.consumer.settle(by_queue)
        for tag in tags:  # not before: what could not be acked is still held, and given back on close
            self._held.pop(tag, None)

    def _take(self, tags: list[int]) -> dict[str, list[bytes]]:
        taken: dict[str, list[bytes]] = defaultdict(list)
        for tag in tags:
            if tag in self._held:
                queue, entry_id = self._held.pop(tag)
                taken[queue].append(entry_id)
        return taken

    def message_to_python(self, raw_message: KombuMessage) -> KombuMessage:
        return raw_message

    def close(self) -> None:
        """Give back what is held and delete the temporary queues. Without a server, the leases run out instead."""
        if not self.closed:
            try:
                for queue in self._queues_read - self._temporary:
                    self.consumer.leave(queue)
                for queue in self._temporary:
                    self.consumer.delete(queue)
            except (RedisError, OSError):
                pass
            self._subscriptions.clear()
            self._inbox.clear()
            self._held.clear()
        super().close()
