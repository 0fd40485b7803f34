"""What the workers count and measure: the families of metrics, and the increments of one process.

A worker adds to a `Tally` once a batch; `workers/telemetry/totals.py` carries the increments to Redis, where those of
all workers are summed, and `workers/web/prometheus.py` shows the sums at /metrics. No label holds what a sender wrote:
keys and codes are those of recorded events, which are registered; reasons are those of docs/dead-letters.md.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from caselog.events.errors import REASONS
from caselog.workers.telemetry.removals import POLICY_KEYS

# A family's name, then its labels' values; of a histogram "le" and the bucket's edge, or "sum".
Field: TypeAlias = tuple[str, ...]
OTHER: Final = "other"
LE: Final = "le"
SUM: Final = "sum"
ENDLESS: Final = "+Inf"


class CounterFamily(msgspec.Struct, frozen=True):
    """Counters of one name (it ends in `_total`), one for each combination of its labels' values."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    # Of a family with one label: shown as 0 before the first increment, so that the first increase is seen.
    known: tuple[str, ...] = ()


class HistogramFamily(msgspec.Struct, frozen=True):
    """A histogram without labels. `edges`: its buckets' upper edges, ascending, in the unit that the name ends in."""

    name: str
    help: str
    edges: tuple[float, ...]


RECORDED: Final = CounterFamily(
    "caselog_events_recorded_total", "Events written to the log, by key and code.", ("key", "code")
)
SUPPRESSED: Final = CounterFamily(
    "caselog_events_suppressed_total", "Events written to the log without effect on case or reports."
)
DUPLICATES: Final = CounterFamily(
    "caselog_events_duplicate_total", "Events that arrived once more and changed nothing."
)
PARKED: Final = CounterFamily("caselog_events_parked_total", "Events parked because their case did not exist yet.")
PARKED_AGAIN: Final = CounterFamily(
    "caselog_parked_retries_total", "Times that a parked event was tried and its case did not exist yet."
)
DEAD: Final = CounterFamily(
    "caselog_events_dead_total", "Events set aside as dead letters, by reason.", ("reason",), (*REASONS, OTHER)
)
REFOLDS: Final = CounterFamily(
    "caselog_refolds_total",
    "Logs folded anew because an event came late: of whole cases, and of stretches of an actor's timers.",
    ("of",),
    ("case", "actor"),
)
REMOVED: Final = CounterFamily(
    "caselog_messages_removed_total",
    "Messages that a policy of RabbitMQ removed from the queue of events, and that were recorded all the same.",
    ("reason",),
    (*POLICY_KEYS, OTHER),
)
AGGREGATED: Final = CounterFamily(
    "caselog_outbox_drained_deltas_total", "Report deltas taken out of the outbox and added to the report tables."
)
BATCH_EVENTS: Final = HistogramFamily(
    "caselog_batch_events",
    "Events a batch that a recorder recorded.",
    (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000),
)
_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TRANSACTION: Final = HistogramFamily(
    "caselog_transaction_seconds", "Time of a recording transaction, from its start to the end of its commit.", _SHORT
)
EVENT_TO_COMMIT: Final = HistogramFamily(
    "caselog_event_to_commit_seconds",
    "From an event's own time to its commit, by the database's clock; events recorded on arrival.",
    (*_SHORT[2:], 30.0, 60.0, 300.0, 1800.0, 3600.0, 21_600.0, 86_400.0),
)
RECEIPT_TO_COMMIT: Final = HistogramFamily(
    "caselog_receipt_to_commit_seconds",
    "From an event's arrival at a recorder to the commit of its batch.",
    (*_SHORT, 30.0, 60.0),
)
COUNTERS: Final = (RECORDED, SUPPRESSED, DUPLICATES, PARKED, PARKED_AGAIN, DEAD, REFOLDS, REMOVED, AGGREGATED)
HISTOGRAMS: Final = (BATCH_EVENTS, TRANSACTION, EVENT_TO_COMMIT, RECEIPT_TO_COMMIT)


class Tally:
    """The increments of this process that are not carried away yet. Thread-safe; never waits for a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._increments: defaultdict[Field, float] = defaultdict(float)

    def count(self, family: CounterFamily, by: float = 1, *labels: str) -> None:
        if by:
            with self._lock:
                self._increments[family.name, *labels] += by

    def observe(self, family: HistogramFamily, values: Iterable[float]) -> None:
        """Add measured values; one below zero (a sender's clock that is ahead) counts as zero."""
        ordered = sorted(values)  # buckets are then found by one search an edge, not one a value
        if not ordered:
            return
        total = sum(ordered[bisect_left(ordered, 0.0) :])
        below = 0
        with self._lock:
            for edge in family.edges:
                upto = bisect_right(ordered, edge)
                if upto > below:
                    self._increments[family.name, LE, f"{edge:g}"] += upto - below
                    below = upto
            if below < len(ordered):
                self._increments[family.name, LE, ENDLESS] += len(ordered) - below
            self._increments[family.name, SUM] += total

    def take(self) -> dict[Field, float]:
        """The increments since the last call; they are the caller's from now on."""
        with self._lock:
            taken, self._increments = self._increments, defaultdict(float)
        return taken


def tally_removed(tally: Tally, counts: Mapping[str, int]) -> None:
    """Messages that came back after a policy removed them, by RabbitMQ's reason."""
    for reason, messages in counts.items():
        tally.count(REMOVED, messages, reason if reason in POLICY_KEYS else OTHER)
