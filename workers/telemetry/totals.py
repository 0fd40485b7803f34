"""The workers' metrics in Redis: increments carried there once a second, and summed over all workers there ever were.

Counters never go back because a worker ended, and no worker needs a port of its own. A flush whose answer was lost is
sent again under its number, and Redis adds it once. Redis emptied is a counter reset, which Prometheus knows.
docs/decisions/0077-metrics-summed-in-redis.md says why.
"""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import redis

from caselog.workers.telemetry.counters import LE, CounterFamily, Field, HistogramFamily, Tally

TOTALS: Final = "caselog:metrics:totals"
GAUGES: Final = "caselog:metrics:gauges:"
NUMBER: Final = "caselog:metrics:flush:"
INTERVAL_S: Final = 1.0
# A worker that stopped writing has no pool any more.
GAUGES_KEPT_S: Final = 15
# The number of a worker's last flush must outlive any time for which its Redis may be away.
NUMBER_KEPT_S: Final = 86_400
TIMEOUT_S: Final = 1

# KEYS: totals, the worker's number, the worker's gauges. ARGV: number, its and the gauges' seconds, the gauges, then
# fields and increments in turn.
_FLUSH: Final = """
redis.call('set', KEYS[3], ARGV[4], 'ex', ARGV[3])
if redis.call('get', KEYS[2]) == ARGV[1] then return 0 end
for i = 5, #ARGV, 2 do redis.call('hincrbyfloat', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('set', KEYS[2], ARGV[1], 'ex', ARGV[2])
return 1
"""


class Gauges(msgspec.Struct, kw_only=True):
    """What a worker holds just now: connections to the database, in use and at most."""

    role: str
    pool_in_use: int
    pool_size: int


class Flusher:
    """Carries a tally's increments to Redis, in a thread of its own: the work never waits for it."""

    def __init__(self, client: redis.Redis, tally: Tally, gauges: Callable[[], Gauges]) -> None:
        """`client` should have short timeouts: `stop` waits for a last flush."""
        self._tally = tally
        self._gauges = gauges
        self._script = client.register_script(_FLUSH)
        self._worker = secrets.token_hex(8)
        self._number = 0
        self._sending: dict[Field, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Carry away what is left. Where Redis is away, the last increments are lost with the process."""
        self._stopping.set()
        self._thread.join()
        with suppress(redis.RedisError):
            self.flush()

    def flush(self) -> None:
        """Send what is there; first once more, with the same number, what may not have arrived. Raises `RedisError`."""
        if self._sending:
            self._send()
        self._sending, self._number = self._tally.take(), self._number + 1
        self._send()

    def _send(self) -> None:
        arguments: list[Any] = [self._number, NUMBER_KEPT_S, GAUGES_KEPT_S, msgspec.json.encode(self._gauges())]
        for field, increment in self._sending.items():
            arguments += (msgspec.json.encode(field), increment)
        self._script(keys=[TOTALS, NUMBER + self._worker, GAUGES + self._worker], args=arguments)
        self._sending = {}

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            with suppress(redis.RedisError):  # kept, and sent when Redis is back; health says that it is away
                self.flush()


def read_totals(client: redis.Redis) -> Mapping[Field, float]:
    """The sums of all workers' increments since Redis was last emptied. Raises `redis.RedisError`."""
    found = client.hgetall(TOTALS)
    return {msgspec.json.decode(field, type=Field): float(value) for field, value in found.items()}


def bucket_counts(family: HistogramFamily, totals: Mapping[Field, float]) -> list[float]:
    """Of a histogram, how many values fell into each bucket: one for each edge, and one for what is above them."""
    counts = [0.0] * (len(family.edges) + 1)
    for (name, *rest), total in totals.items():
        if name == family.name and rest[0] == LE:
            # An edge that another version had counts in the next that we have.
            counts[bisect_left(family.edges, float(rest[1]))] += total
    return counts


def count_all(family: CounterFamily, totals: Mapping[Field, float]) -> float:
    """A family's counters, summed over their labels."""
    return sum(total for (name, *_), total in totals.items() if name == family.name)


def read_gauges(client: redis.Redis) -> dict[str, Gauges]:
    """The gauges of the workers that run, summed by role. Raises `redis.RedisError`."""
    names = list(client.scan_iter(match=GAUGES + "*", count=1000))
    in_use: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for value in client.mget(names) if names else []:
        if value is not None:
            one = msgspec.json.decode(value, type=Gauges)
            in_use[one.role] += one.pool_in_use
            size[one.role] += one.pool_size
    return {role: Gauges(role=role, pool_in_use=in_use[role], pool_size=size[role]) for role in size}
