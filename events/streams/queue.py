"""A work queue on one Redis stream: add, read, settle, release and take over entries, and count them.

A read entry stays *pending* under its consumer's name until it is settled, so a killed process loses nothing. It is
held under a lease: one that was not renewed for `lease_ms` is anybody's. Commands are those of Redis 6.2.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeAlias

from redis import Redis
from redis.exceptions import ResponseError

GROUP: Final = "caselog"
# What a consumer gave back is parked under this name, as if idle for a day: free for whoever asks first.
RELEASED: Final = "released"
RELEASED_IDLE_MS: Final = 86_400_000
LEASE_MS: Final = 10_000
# A living consumer shows itself four times a lease; one silent for six leases, with nothing pending, is forgotten.
FORGET_LEASES: Final = 6
# The id after this one, the very last, is how Redis writes ">" to itself: it would read new entries.
_BEYOND_ALL_IDS: Final = f"{2**64 - 1}-{2**64 - 2}"
_PAGE: Final = 1000
# A consumer is deleted together with its pending list, so between looking and deleting nothing may be read.
_DELETE_IF_EMPTY: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""

EntryIds: TypeAlias = Mapping[str, Sequence[bytes]]


class Entry(NamedTuple):
    queue: str
    entry_id: bytes
    fields: dict[bytes, bytes]
    redelivered: bool

    @property
    def added_ms(self) -> int:
        return added_ms(self.entry_id)


class Counts(NamedTuple):
    """Entries nobody holds, entries somebody holds, the age of the oldest of either, and living consumers.

    `arrived` counts the entries that were ever added; None before Redis 7, which does not count them.
    """

    ready: int
    unacked: int
    oldest_age_s: float | None
    consumers: int
    arrived: int | None = None


class StreamConsumer:
    """One consumer of the group, on as many queues as it likes. Not for use by several threads at once.

    Every method is one or two round trips and raises what redis-py raises; `read` alone may block.
    """

    def __init__(self, redis: Redis, lease_ms: int = LEASE_MS) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self.lease_ms = lease_ms
        self._redis: Any = redis  # redis-py declares every reply as possibly awaitable

    def create(self, queue: str, expire_ms: int | None = None) -> None:
        """Make the queue where there is none. What is in the stream already will be delivered."""
        try:
            self._redis.xgroup_create(queue, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        if expire_ms is not None:
            self._redis.pexpire(queue, expire_ms)

    def exists(self, queue: str) -> bool:
        return bool(self._redis.exists(queue))

    def delete(self, queue: str) -> None:
        self._redis.delete(queue)

    def add(
        self, queue: str, fields: Mapping[str, bytes], *, length_max: int | None = None, create: bool = True
    ) -> bytes | None:
        """Append an entry and give its id; `None` where there is no such queue and `create` is false.

        Beyond about `length_max` entries the oldest are dropped, held or not.
        """
        entry_id: bytes | None = self._redis.xadd(queue, fields, maxlen=length_max, nomkstream=not create)
        return entry_id

    def join(self, queue: str) -> None:
        """Be counted among the queue's consumers from now on."""
        self._redis.xgroup_createconsumer(queue, GROUP, self.name)

    def read(self, queues: Sequence[str], count: int, block_ms: int) -> list[Entry]:
        """Up to `count` entries of each queue that were never handed out; waits up to `block_ms` for the first."""
        reply = self._redis.xreadgroup(
            GROUP, self.name, dict.fromkeys(queues, ">"), count=count, block=block_ms if block_ms > 0 else None
        )
        return [
            Entry(queue.decode(), entry_id, fields, redelivered=False)
            for queue, entries in reply
            for entry_id, fields in entries
        ]

    def take_over(self, queue: str, count: int, *, lapsed: bool) -> list[Entry]:
        """Up to `count` entries that were released, or with `lapsed` also those whose lease ran out.

        XPENDING and XCLAIM, not XAUTOCLAIM: Redis 6.2 gives that one's deleted entries without their ids, so they
        could never be settled.
        """
        filters = {"idle": self.lease_ms} if lapsed else {"consumername": RELEASED}
        found = self._redis.xpending_range(queue, GROUP, min="-", max="+", count=count, **filters)
        if not found:
            return []
        wanted = [pending["message_id"] for pending in found]
        # Whoever is first resets the idle time, so of two that ask at once only one gets an entry.
        ids = self._redis.xclaim(queue, GROUP, self.name, self.lease_ms, wanted, justid=True)
        pipeline = self._redis.pipeline(transaction=False)
        for entry_id in ids:
            pipeline.xrange(queue, entry_id, entry_id)
        entries = [entry for reply in pipeline.execute() for entry in reply]
        gone = set(ids).difference(entry_id for entry_id, _ in entries)  # trimmed, or deleted by hand
        self.settle({queue: list(gone)})
        return [Entry(queue, entry_id, fields, redelivered=True) for entry_id, fields in entries]

    def renew(self, held: EntryIds, queues: Iterable[str]) -> None:
        """Start the lease of the held entries anew, and be seen as a living consumer of the queues.

        It also takes back what others took over meanwhile: at worst an entry is handled twice.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for queue, ids in _pages(held):
            pipeline.xclaim(queue, GROUP, self.name, 0, ids, justid=True)
        for queue in queues:
            # Reading new entries refreshes "seen" only when there are some; reading one's own history always does.
            pipeline.xreadgroup(GROUP, self.name, {queue: _BEYOND_ALL_IDS}, count=1)
        for reply in pipeline.execute(raise_on_error=False):
            is_missing(reply)

    def settle(self, held: EntryIds) -> None:
        """Acknowledge and delete, both or neither: an entry acknowledged but still there would count as ready."""
        pipeline = self._redis.pipeline(transaction=True)
        for queue, ids in _pages(held):
            pipeline.xack(queue, GROUP, *ids)
            pipeline.xdel(queue, *ids)
        pipeline.execute()

    def release(self, held: EntryIds) -> None:
        """Give entries back, to be taken over by others at once. They keep their ids, and so their age."""
        pipeline = self._redis.pipeline(transaction=False)
        for queue, ids in _pages(held):
            pipeline.xclaim(queue, GROUP, RELEASED, 0, ids, idle=RELEASED_IDLE_MS, justid=True)
        pipeline.execute()

    def leave(self, queue: str) -> None:
        """Give back all that is pending here, also what was read but never arrived, and be no consumer any more."""
        while pending := self._redis.xpending_range(queue, GROUP, "-", "+", _PAGE, consumername=self.name):
            self.release({queue: [entry["message_id"] for entry in pending]})
        self._redis.eval(_DELETE_IF_EMPTY, 1, queue, GROUP, self.name)

    def forget_the_silent(self, queue: str) -> None:
        """Delete consumers that hold nothing and have not been seen for long, so that their list does not grow."""
        for consumer in self._redis.xinfo_consumers(queue, GROUP):
            silent = consumer["idle"] > FORGET_LEASES * self.lease_ms and not consumer["pending"]
            if silent and consumer["name"] != RELEASED.encode():
                self._redis.eval(_DELETE_IF_EMPTY, 1, queue, GROUP, consumer["name"])

    def counts(self, queue: str) -> Counts:
        """The queue at one instant; all zero where there is none."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xlen(queue)
        pipeline.xpending(queue, GROUP)
        pipeline.xinfo_consumers(queue, GROUP)
        pipeline.xrange(queue, count=1)
        pipeline.xinfo_stream(queue)
        pipeline.time()
        length, pending, consumers, first, stream, (seconds, microseconds) = pipeline.execute(raise_on_error=False)
        pending = {"pending": 0, "consumers": []} if is_missing(pending) else pending
        consumers = [] if is_missing(consumers) else consumers
        free = sum(holder["pending"] for holder in pending["consumers"] if holder["name"] == RELEASED.encode())
        unacked = pending["pending"] - free
        alive = [c for c in consumers if c["idle"] <= 2 * self.lease_ms and c["name"] != RELEASED.encode()]
        age_s = seconds + microseconds / 1e6 - added_ms(first[0][0]) / 1000 if first else None
        # Entries that were trimmed while held are still pending: never report less than nothing.
        oldest_age_s = None if age_s is None else max(age_s, 0.0)
        arrived = None if is_missing(stream) else stream.get("entries-added")
        return Counts(max(length - unacked, 0), unacked, oldest_age_s, len(alive), arrived)

    def last_id(self, queue: str) -> str:
        """The id of the newest entry that was ever added; "0-0" where there is no queue."""
        try:
            newest: bytes = self._redis.xinfo_stream(queue)["last-generated-id"]
        except ResponseError as error:
            if not is_missing(error):
                raise
            return "0-0"
        return newest.decode()

    def is_settled_up_to(self, queue: str, last_id: str) -> bool:
        """True when no entry up to and including that id is left, ready or held."""
        return not self._redis.xrange(queue, max=last_id, count=1)


def added_ms(entry_id: bytes) -> int:
    """When Redis took an entry, in milliseconds since 1970 by the server's clock."""
    return int(entry_id.partition(b"-")[0])


def is_missing(reply: object) -> bool:
    """True for the errors that mean that the stream or its group is not there (any more); other errors are raised."""
    if not isinstance(reply, Exception):
        return False
    if isinstance(reply, ResponseError) and any(sign in str(reply) for sign in ("NOGROUP", "no such key", "UNBLOCKED")):
        return True
    raise reply


def _pages(held: EntryIds) -> Iterable[tuple[str, Sequence[bytes]]]:
    for queue, ids in held.items():
        for start in range(0, len(ids), _PAGE):
            yield queue, ids[start : start + _PAGE]
