"""The last hour of the pipeline: samples of the workers' totals and of the queues, and what they say together."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from caselog.workers.telemetry.counters import (
    DEAD,
    EVENT_TO_COMMIT,
    RECEIPT_TO_COMMIT,
    RECORDED,
    Field,
    HistogramFamily,
)
from caselog.workers.telemetry.totals import bucket_counts, count_all

EVERY_S: Final = 3.0
KEPT_S: Final = 3600.0
# A sparkline's steps: a minute each, once there is an hour of them.
STEPS: Final = 60
SPAN_S_MIN: Final = 300.0
MEDIAN: Final = 0.5
MOST: Final = 0.95


class Numbers(msgspec.Struct, frozen=True):
    """What the workers counted since Redis was last emptied; times are counts by bucket."""

    recorded: float
    dead: float
    to_commit: Sequence[float]
    from_receipt: Sequence[float]

    @classmethod
    def of(cls, totals: Mapping[Field, float]) -> Numbers:
        return cls(
            count_all(RECORDED, totals),
            count_all(DEAD, totals),
            # An hour of samples is kept: as plain lists of floats they took four megabytes.
            array("d", bucket_counts(EVENT_TO_COMMIT, totals)),
            array("d", bucket_counts(RECEIPT_TO_COMMIT, totals)),
        )


class Moment(msgspec.Struct, frozen=True):
    """One sample, at a monotonic clock's seconds; None where a server was away. `waiting`: messages by queue."""

    at_s: float
    numbers: Numbers | None
    waiting: Mapping[str, int] | None


class Latency(msgspec.Struct, frozen=True):
    """Seconds that half of the events took at most, and that 95 % of them took at most."""

    median_s: float
    most_s: float


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the samples say. Rates in events a second; each list has `STEPS` entries of `span_s` together, up to now.

    `per_s` and `dead_per_s` are of the newest samples, over about 15 seconds; None where it is not known.
    """

    covered_s: float
    span_s: float
    recorded: float
    dead: float
    per_s: float | None
    dead_per_s: float | None
    recorded_by_step: list[float | None]
    dead_by_step: list[float | None]
    to_commit: Latency | None
    from_receipt: Latency | None
    waiting: dict[str, list[float | None]]


class LastHour:
    """Keeps the samples of an hour and no more; from one thread. `told` may be asked from any."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=int(KEPT_S / EVERY_S))

    def add(self, moment: Moment) -> None:
        self._moments.append(moment)

    def told(self, now_s: float) -> Told:
        """What the samples of the last hour say, at `now_s` of their clock."""
        moments = [moment for moment in tuple(self._moments) if moment.at_s > now_s - KEPT_S]
        counted = [(moment.at_s, moment.numbers) for moment in moments if moment.numbers is not None]
        grown = [(then, _grown(before, after)) for (_, before), (then, after) in pairwise(counted)]
        lately = [(at_s, numbers) for at_s, numbers in counted if at_s >= now_s - 5 * EVERY_S]
        queues = dict.fromkeys(queue for moment in moments if moment.waiting for queue in moment.waiting)
        covered_s = now_s - moments[0].at_s if moments else 0.0
        span_s = min(KEPT_S, max(SPAN_S_MIN, covered_s))
        return Told(
            covered_s=covered_s,
            span_s=span_s,
            recorded=sum(numbers.recorded for _, numbers in grown),
            dead=sum(numbers.dead for _, numbers in grown),
            per_s=_rate(lately, lambda numbers: numbers.recorded),
            dead_per_s=_rate(lately, lambda numbers: numbers.dead),
            recorded_by_step=_by_step(counted, now_s, span_s, lambda numbers: numbers.recorded),
            dead_by_step=_by_step(counted, now_s, span_s, lambda numbers: numbers.dead),
            to_commit=latency(EVENT_TO_COMMIT, [numbers.to_commit for _, numbers in grown]),
            from_receipt=latency(RECEIPT_TO_COMMIT, [numbers.from_receipt for _, numbers in grown]),
            waiting={queue: _highest(moments, queue, now_s, span_s) for queue in queues},
        )


def latency(family: HistogramFamily, counts: Iterable[Sequence[float]]) -> Latency | None:
    """The times that these counts by bucket tell, summed; None where nothing was measured."""
    summed = [sum(column) for column in zip(*counts, strict=True)]
    if sum(summed) <= 0:
        return None
    return Latency(quantile(family.edges, summed, MEDIAN), quantile(family.edges, summed, MOST))


def quantile(edges: Sequence[float], counts: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed, spread evenly within their bucket, as Prometheus does it.

    What lies above the last edge is told as that edge.
    """
    rank = share * sum(counts)
    below, lower = 0.0, 0.0
    for edge, count in zip(edges, counts, strict=False):
        if count > 0 and below + count >= rank:
            return lower + (edge - lower) * (rank - below) / count
        below, lower = below + count, edge
    return edges[-1]


def _grown(before: Numbers, after: Numbers) -> Numbers:
    """What was counted between the two. Counts that fell were begun anew, when Redis was emptied."""
    if after.recorded < before.recorded or after.dead < before.dead:
        return after
    return Numbers(
        after.recorded - before.recorded,
        after.dead - before.dead,
        [max(0.0, now - then) for then, now in zip(before.to_commit, after.to_commit, strict=True)],
        [max(0.0, now - then) for then, now in zip(before.from_receipt, after.from_receipt, strict=True)],
    )


def _rate(counted: Sequence[tuple[float, Numbers]], value: Callable[[Numbers], float]) -> float | None:
    if len(counted) < 2:  # noqa: PLR2004 - two samples make a rate
        return None
    return sum(value(_grown(before, after)) for (_, before), (_, after) in pairwise(counted)) / (
        counted[-1][0] - counted[0][0]
    )


def _by_step(
    counted: Sequence[tuple[float, Numbers]], now_s: float, span_s: float, value: Callable[[Numbers], float]
) -> list[float | None]:
    grown = [0.0] * STEPS
    seconds = [0.0] * STEPS
    for (then_s, before), (at_s, after) in pairwise(counted):
        step = _step(at_s, now_s, span_s)
        grown[step] += value(_grown(before, after))
        seconds[step] += at_s - then_s
    return [many / took if took > 0 else None for many, took in zip(grown, seconds, strict=True)]


def _highest(moments: Sequence[Moment], queue: str, now_s: float, span_s: float) -> list[float | None]:
    found: list[float | None] = [None] * STEPS
    for moment in moments:
        if moment.waiting is not None and queue in moment.waiting:
            step = _step(moment.at_s, now_s, span_s)
            found[step] = max(found[step] or 0.0, float(moment.waiting[queue]))
    return found


def _step(at_s: float, now_s: float, span_s: float) -> int:
    return max(0, min(STEPS - 1, STEPS - 1 - int((now_s - at_s) / (span_s / STEPS))))
