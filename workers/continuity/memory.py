"""What Redis remembers of what was recorded, so that a database that lost some of it is told from one that did not.

Everybody who records writes here, after the commit and in a thread of its own: no batch waits for Redis. Counts only
grow, whoever writes last; so what is remembered may lag behind the database, and is never ahead of what committed.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
import redis

from caselog.schema.sessions.fencing import Fence, Server
from caselog.workers.continuity.comparison import Gap, Mark, Remembered, Run, Stored, is_lost, to_tell
from caselog.workers.process.logs import get_logger

STATE: Final = "caselog:continuity:state"
RUNS: Final = "caselog:continuity:runs"
MARKS: Final = "caselog:continuity:marks"
THREAD: Final = "continuity"
# The newest batches by name, for a proof that they are there again: of ids of 36 characters some 400,000 events.
MARKS_BYTES: Final = 16 * 1024 * 1024
# So much more than its own bytes a mark takes in Redis.
_MARK_BYTES: Final = 64
# One call takes so many marks: it stops Redis for a millisecond or two.
_SENT_MARKS: Final = 50
_READ_MARKS: Final = 500
# While Redis is away a process keeps so many for it; of more only the counts.
KEPT_MARKS: Final = 2_000
EVERY_S: Final = 0.1
LOOK_S: Final = 1.0
LAG_S: Final = 5.0
_LOOK, _EMPTY, _RECORDER = "look", "empty", "recorder"

# KEYS: state, runs, marks. ARGV: system, timeline, how many acknowledgements its sender knew of when it met them,
# 'empty' where nothing was ever recorded, 'recorder' where something is, 'look' of who does not record, and begins no
# memory; the bytes to keep; then in turn of each batch its run, the count after it, its moment, and the mark. Returns
# the state. What was met before an acknowledgement does not undo it; a Redis that came back from before one is told it.
_NOTE: Final = """
local state, runs, marks = KEYS[1], KEYS[2], KEYS[3]
if redis.call('exists', state) == 0 then
    if ARGV[4] == 'look' then return {} end
    local now = redis.call('time')
    redis.call('hset', state, 'since_ms', now[1] .. string.format('%03d', math.floor(now[2] / 1000)), 'bytes', 0)
end
if ARGV[4] == 'empty' then redis.call('hset', state, 'established', 1) end
local newer = tonumber(ARGV[3]) - tonumber(redis.call('hget', state, 'acknowledged') or '0')
if ARGV[1] ~= '' and newer >= 0 then
    local system = redis.call('hget', state, 'system')
    if not system then
        redis.call('hset', state, 'system', ARGV[1], 'timeline', ARGV[2])
    elseif system == ARGV[1] and (newer > 0 or tonumber(redis.call('hget', state, 'timeline')) < tonumber(ARGV[2])) then
        redis.call('hset', state, 'timeline', ARGV[2])
    end
    if newer > 0 then redis.call('hset', state, 'acknowledged', ARGV[3]) end
end
local bytes = 0
for i = 6, #ARGV, 4 do
    local known = redis.call('hget', runs, ARGV[i])
    local events, first = tonumber(ARGV[i + 1]), ARGV[i + 2]
    if known then
        local run = cjson.decode(known)
        first = string.format('%d', run[2])
        if run[1] > events then events = nil end
    end
    if events then
        redis.call('hset', runs, ARGV[i], string.format('[%d,%s,%s]', events, first, ARGV[i + 2]))
    end
    if ARGV[i + 3] ~= '' then
        redis.call('rpush', marks, ARGV[i + 3])
        bytes = bytes + #ARGV[i + 3] + 64
    end
end
local kept = redis.call('hincrby', state, 'bytes', bytes)
local limit = tonumber(ARGV[5])
while kept > limit do
    local oldest = redis.call('lpop', marks)
    if not oldest then
        redis.call('hset', state, 'bytes', 0)
        break
    end
    kept = redis.call('hincrby', state, 'bytes', -(#oldest + 64))
end
return redis.call('hgetall', state)
"""

# KEYS: state, runs. ARGV: '1' where a person acknowledges, system, timeline, the timeline that was known when it was
# judged; then in turn of each run its name, what was remembered when it was judged, and what the database has. Returns
# -1, with nothing changed, where a higher timeline was met since than the one that was judged.
_SETTLE: Final = """
local settled = 0
if ARGV[1] == '1' and ARGV[2] ~= '' and redis.call('hget', KEYS[1], 'system') == ARGV[2] then
    local known = tonumber(redis.call('hget', KEYS[1], 'timeline'))
    if known > tonumber(ARGV[3]) and known ~= tonumber(ARGV[4]) then return -1 end
end
for i = 5, #ARGV, 3 do
    local known = redis.call('hget', KEYS[2], ARGV[i])
    if known then
        local run = cjson.decode(known)
        if run[1] == tonumber(ARGV[i + 1]) then
            redis.call('hset', KEYS[2], ARGV[i], string.format('[%s,%d,%d]', ARGV[i + 2], run[2], run[3]))
            settled = settled + 1
        end
    end
end
if ARGV[1] == '1' then
    if redis.call('exists', KEYS[1]) == 0 then
        local now = redis.call('time')
        redis.call('hset', KEYS[1], 'since_ms', now[1] .. string.format('%03d', math.floor(now[2] / 1000)), 'bytes', 0)
    end
    redis.call('hset', KEYS[1], 'established', 1)
    redis.call('hincrby', KEYS[1], 'acknowledged', 1)
    if ARGV[2] ~= '' then redis.call('hset', KEYS[1], 'system', ARGV[2], 'timeline', ARGV[3]) end
end
return settled
"""


class Memory:
    """The memory of one process that records: what it committed, on its way to Redis. Thread-safe.

    `fence` is told which timeline others have met.
    """

    def __init__(self, client: redis.Redis, fence: Fence) -> None:
        """`client` should have short timeouts."""
        self._client = client
        self.fence = fence
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._role: str = _LOOK
        self._marks: deque[Mark] = deque(maxlen=KEPT_MARKS)
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_away = False

    def begin(self) -> None:
        """Have Redis told once a second which server this process meets, whoever of its engines does; returns at once.

        Also where it never records anything.
        """
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
            self._thread.start()
        atexit.register(self.stop)

    def meet(self, stored: Callable[[], Stored]) -> bool:
        """Before the first batch is committed: begin, and learn from Redis what others met. Waits for it a moment.

        Returns whether this was the first time; later it does nothing.

        `stored` is what the database has: where it has no run, what is remembered from here on is all; and where Redis
        knows less than that, it is told.
        """
        if self._role is not _LOOK:
            return False
        found = stored()
        self._role = _RECORDER if found.runs else _EMPTY
        self._attempt()
        if not self._is_away:
            with suppress(redis.RedisError):
                tell_stored(self._client, self.fence, found)
        self.begin()
        return True

    def learn(self) -> None:
        """Tell the fence what others have met. Waits for Redis a second or so; where it is away nothing is known."""
        with suppress(redis.RedisError):
            read_memory(self._client, self.fence)

    def keep(self, marks: list[Mark]) -> None:
        """These batches are committed. Does not wait."""
        with self._lock:
            self._marks.extend(marks)
        self._woken.set()

    def stop(self) -> None:
        """Send what is left. Where Redis is away, whoever looks next tells it the counts that the database has."""
        atexit.unregister(self.stop)
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def flush(self) -> None:
        """Send all that there is. Raises `RedisError`, and keeps what was not sent; Redis takes a mark again."""
        with self._sending:
            while True:
                with self._lock:
                    marks = list(self._marks)[:_SENT_MARKS]
                _note(self._client, self.fence, self._role, marks)
                if self._role is _EMPTY:
                    self._role = _RECORDER
                with self._lock:
                    for mark in marks:
                        if self._marks and self._marks[0] is mark:
                            self._marks.popleft()
                    if not self._marks:
                        return

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._woken.wait(LOOK_S):
                self._woken.clear()
            self._attempt()
            self._stopping.wait(EVERY_S)
        try:
            self.flush()
        except redis.RedisError as error:
            with self._lock:
                events = sum(mark.after - mark.before for mark in self._marks)
            if events:
                get_logger().warning(
                    "Redis was not told what was recorded last; whoever looks next tells it the counts, not the names",
                    events=events,
                    error=str(error),
                )

    def _attempt(self) -> None:
        try:
            self.flush()
        except redis.RedisError as error:
            if not self._is_away:
                get_logger().warning("Redis is not told what was recorded; it is tried again", error=str(error))
            self._is_away = True
        else:
            self._is_away = False


def read_memory(client: redis.Redis, fence: Fence | None = None) -> Remembered | None:
    """All that Redis remembers but for the marks; None where it remembers nothing. Raises `redis.RedisError`.

    `fence` is told of it.
    """
    pipeline = client.pipeline(transaction=True)
    pipeline.hgetall(STATE)
    pipeline.hgetall(RUNS)
    found, runs = pipeline.execute()
    state = _decoded(found)
    if not state:
        return None
    if fence is not None:
        _teach(fence, state)
    return Remembered(
        server=_server(state),
        is_established="established" in state,
        acknowledged=int(state.get("acknowledged", 0)),
        since_ms=int(state["since_ms"]),
        runs={name.decode(): msgspec.json.decode(value, type=Run) for name, value in runs.items()},
    )


def tell_server(client: redis.Redis, fence: Fence) -> None:
    """Tell Redis which server was met, and the fence what others did. Timelines only grow. Raises `redis.RedisError`.

    Of who does not record: where Redis remembers nothing it stays so.
    """
    _note(client, fence, _LOOK, [])


def tell_stored(client: redis.Redis, fence: Fence, stored: Stored) -> None:
    """Tell Redis which server was met, and of each run of which it knows less the count that the database has.

    Counts only grow; that of a run without its names, so that it is a number alone, should it be lost. Where Redis
    remembers nothing it stays so. Raises `redis.RedisError`.
    """
    tell_server(client, fence)
    remembered = read_memory(client, fence)
    if remembered is None:
        return
    now = datetime.now(UTC)
    runs = to_tell(remembered, stored, now)
    # What was recorded a moment ago its recorder is about to tell.
    forgotten = sum(
        events - (remembered.runs[name].events if name in remembered.runs else 0)
        for name, (events, at) in runs.items()
        if (now - at).total_seconds() > LAG_S
    )
    if forgotten:
        get_logger().warning("Redis knew of fewer events than the database has; it is told", events=forgotten)
    marks = [Mark(name, 0, events, int(at.timestamp() * 1000), {}) for name, (events, at) in runs.items()]
    for start in range(0, len(marks), _READ_MARKS):
        _note(client, fence, _LOOK, marks[start : start + _READ_MARKS])


def _note(client: redis.Redis, fence: Fence, role: str, marks: list[Mark]) -> None:
    server, acknowledged = fence.met
    system, timeline = ("", "") if server is None else (str(server.system), str(server.timeline))
    arguments: list[Any] = [system, timeline, acknowledged, role, MARKS_BYTES]
    for mark in marks:
        arguments += (mark.run, mark.after, mark.at_ms, msgspec.msgpack.encode(mark) if mark.names() else b"")
    found = client.register_script(_NOTE)(keys=[STATE, RUNS, MARKS], args=arguments)
    _teach(fence, _decoded(dict(zip(found[::2], found[1::2], strict=True))))


def lost_marks(client: redis.Redis, found: Mapping[str, Gap]) -> Iterator[Mark]:
    """The marks in these gaps, as far as Redis still has them. Raises `redis.RedisError`."""
    if not found:
        return
    start = 0
    while page := cast("list[bytes]", client.lrange(MARKS, start, start + _READ_MARKS - 1)):
        for one in page:
            mark = msgspec.msgpack.decode(one, type=Mark)
            if is_lost(mark, found):
                yield mark
        start += len(page)


def settle(client: redis.Redis, found: Mapping[str, Gap]) -> None:
    """These gaps are made good, by proof: remember of each run what the database has. Raises `redis.RedisError`."""
    client.register_script(_SETTLE)(keys=[STATE, RUNS], args=["0", "", "", "", *_told(found)])


def acknowledge(
    client: redis.Redis, found: Mapping[str, Gap], server: Server | None, known: Server | None = None
) -> bool:
    """A person says that it is well as it is: these gaps, this server, and what is not known. Raises `RedisError`.

    `known` is the server that was remembered when it was judged. False, with nothing changed, where somebody has met a
    newer one since.
    """
    told = ["", ""] if server is None or server.timeline is None else [str(server.system), str(server.timeline)]
    judged = 0 if known is None or known.timeline is None else known.timeline
    settled = client.register_script(_SETTLE)(keys=[STATE, RUNS], args=["1", *told, judged, *_told(found)])
    return int(settled) >= 0


def forget_runs(client: redis.Redis, runs: list[str]) -> None:
    """Remember nothing of them any more. Raises `redis.RedisError`."""
    if runs:
        client.hdel(RUNS, *runs)


def _told(found: Mapping[str, Gap]) -> list[Any]:
    return [word for name, gap in found.items() for word in (name, gap.remembered, gap.stored)]


def _decoded(found: Mapping[Any, Any]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in found.items()}


def _server(state: Mapping[str, str]) -> Server | None:
    return Server(int(state["system"]), int(state["timeline"])) if "system" in state else None


def _teach(fence: Fence, state: Mapping[str, str]) -> None:
    server = _server(state)
    if server is not None:
        fence.learn(server, int(state.get("acknowledged", 0)))
