"""Who read what: kept in a Redis stream before the first byte of the answer, and moved into the audit from there.

Nobody is shown anything that is not kept (docs/decisions/0112). Moving may be killed anywhere: a read is in the stream
until the audit has it, and the audit takes none twice.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy import Engine

from caselog.schema.operations import reads
from caselog.schema.operations.audit import storable
from caselog.schema.operations.reads import Kept
from caselog.workers.access.callers import Caller, Way
from caselog.workers.access.refusals import AnyRequest
from caselog.workers.process import crash_points
from caselog.workers.process.logs import get_logger
from caselog.workers.servers.locate import redis_py_url

STREAM: Final = "caselog:reads"
MOVED_AT_ONCE: Final = 1000
WITHIN_S: Final = 2
# A page that brings itself up to date shows the same again: that is one read, for so long.
SAME_S: Final = 300.0
_SAME_MAX: Final = 1024
_READ: Final = b"read"
_STATE: Final = "read"


class Read(msgspec.Struct, kw_only=True):
    """What an answer shows of cases. Whoever makes the answer says so; what he leaves out is not known, and kept too.

    `case` is its reference, `cases` those of a short list. `filter` is what was asked for, `rows` is how many rows the
    answer has. Nothing `of_cases`: it is no read. `refreshes`: it is the same page again, which asks by itself; it is
    another read where it shows other cases, or anything else of what is `shown`, which the audit does not repeat.
    """

    what: str
    case: str | None = None
    cases: list[str] = msgspec.field(default_factory=list)
    filter: Mapping[str, Any] = msgspec.field(default_factory=dict)
    rows: int | None = None
    of_cases: bool = True
    refreshes: bool = False
    shown: Any = None

    def detail(self, caller: Caller) -> dict[str, Any]:
        """As the audit says it."""
        said = {
            "what": self.what,
            "case": self.case,
            "cases": self.cases,
            "filter": {name: value for name, value in self.filter.items() if value is not None},
            "rows": self.rows,
            "through": "proxy" if caller.way is Way.PROXY else None,
            "provider": caller.provider,
        }
        found: dict[str, Any] = storable(
            msgspec.to_builtins({k: v for k, v in said.items() if v not in (None, [], {})})
        )
        return found


def begin_read(request: AnyRequest, what: str) -> None:
    request.scope["state"][_STATE] = Read(what=what)


def read_of(request: AnyRequest) -> Read:
    """The read that the request is, to say more of it before the answer begins; its `rows` until it ends."""
    found: Read = request.scope["state"].setdefault(_STATE, Read(what="unknown"))
    return found


class _Message(msgspec.Struct, kw_only=True):
    """A read in the stream; without `who`, how many rows one had that was kept before they were counted."""

    id: UUID
    who: str | None = None
    detail: dict[str, Any] = msgspec.field(default_factory=dict)
    rows: int | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Message)


class ReadLog:
    """Keeps reads. To be used on one event loop."""

    def __init__(self, redis_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = redis.asyncio.Redis.from_url(
            redis_py_url(redis_url),
            socket_connect_timeout=WITHIN_S,
            socket_timeout=WITHIN_S,
            # Once: a connection that stood idle may be gone. The same read, written twice, is in the audit once.
            retry=Retry(NoBackoff(), 1),
        )
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()

    async def keep(self, caller: Caller, read: Read) -> UUID | None:
        """Keep it; its id, or None where it is the same page as a moment ago. Raises `redis.RedisError`."""
        assert caller.name is not None
        said = read.detail(caller)
        seen, digest = (caller.name, read.what), hashlib.sha256(_encoder.encode([said, read.shown])).digest()
        if read.refreshes and self._is_same(seen, digest):
            return None
        read_id = uuid4()
        await self._add(_Message(id=read_id, who=storable(caller.name), detail=said))
        if read.refreshes:
            self._seen[seen] = (digest, self._clock() + SAME_S)
            while len(self._seen) > _SAME_MAX:
                self._seen.popitem(last=False)
        return read_id

    async def count(self, read_id: UUID, rows: int) -> None:
        """Say how many rows a read had that was kept before. Raises `redis.RedisError`."""
        await self._add(_Message(id=read_id, rows=rows))

    async def close(self) -> None:
        """Close its connections, on the loop that it was used on."""
        await self._client.aclose()

    async def _add(self, message: _Message) -> None:
        await self._client.xadd(STREAM, {"read": _encoder.encode(message)})

    def _is_same(self, seen: tuple[str, str], digest: bytes) -> bool:
        last, until = self._seen.get(seen, (b"", 0.0))
        return last == digest and until > self._clock()


def move_reads(client: redis.Redis, engine: Engine) -> int:
    """Move the oldest reads into the audit, `MOVED_AT_ONCE` at most; how many messages left the stream.

    Whoever moves the same at the same time does no harm. Raises `redis.RedisError`, or what the database raises.
    """
    found: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(STREAM, count=MOVED_AT_ONCE)  # type: ignore[assignment]  # it tells of every protocol
    if not found:
        return 0
    kept, counted = [], {}
    for stream_id, fields in found:
        try:
            message = _decoder.decode(fields[_READ])
        except (KeyError, msgspec.DecodeError) as error:
            get_logger().error("a read is malformed and not in the audit", at=stream_id.decode(), error=str(error))
            continue
        if message.who is not None:
            kept.append(Kept(message.id, _moment(stream_id), message.who, message.detail))
        elif message.rows is not None:
            counted[message.id] = message.rows
    with engine.begin() as db:
        reads.keep(db, kept)
        reads.count(db, counted)
        crash_points.reach("reads.before_commit")
    crash_points.reach("reads.committed")
    client.xdel(STREAM, *(stream_id for stream_id, _ in found))
    return len(found)


def move_all_reads(client: redis.Redis, engine: Engine) -> None:
    """Move until few are left, as `move_reads`."""
    while move_reads(client, engine) == MOVED_AT_ONCE:
        pass


def forget_reads(engine: Engine, *, retention_days: int, who: str) -> int:
    """Delete the reads that are older from the audit, which says so; how many. 0 days: they are kept for ever."""
    if not retention_days:
        return 0
    total = 0
    while True:
        with engine.begin() as db:
            forgotten = reads.forget(db, retention_days, who=who)
        total += forgotten
        if not forgotten:
            return total


def _moment(stream_id: bytes) -> datetime:
    """When it was kept, by the clock of Redis: one clock for all status workers."""
    return datetime.fromtimestamp(int(stream_id.partition(b"-")[0]) / 1000, UTC)
