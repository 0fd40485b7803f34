"""How fast queues fill and empty, from two looks at them."""

from __future__ import annotations

import msgspec

from caselog.schema.operations.pause import Pause


class Done(msgspec.Struct, frozen=True):
    """Messages that a worker got done since it started, and when it said so, in seconds by the looker's clock."""

    messages: int
    at_s: float


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """A queue at one instant. None is "not known", never zero.

    `arrived` counts all messages that ever came in; where nobody counts them, `done` counts those that left, by worker.
    """

    queue: str
    ready: int
    unacked: int | None = None
    oldest_age_s: float | None = None
    consumers: int | None = None
    arrived: int | None = None
    done: dict[str, Done] | None = None

    @property
    def messages(self) -> int:
        return self.ready + (self.unacked or 0)


class Sample(msgspec.Struct, frozen=True):
    """All queues at one instant, in seconds of a monotonic clock, and the pause in force."""

    at_s: float
    depths: list[Depth]
    pause: Pause | None = None


class QueueLine(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as operations see it (docs/operations.md "What waits: `caselog queues`"). None: not known, never zero.

    Ages in seconds, rates in messages a second. `paused` where the pause in force keeps this queue from being consumed.
    """

    queue: str
    ready: int
    unacked: int | None
    oldest_age_s: float | None
    in_per_s: float | None
    out_per_s: float | None
    consumers: int | None
    paused: Pause | None = None


def with_rates(before: Sample | None, after: Sample, paused: frozenset[str]) -> list[QueueLine]:
    """One line a queue of `after`, in its order. `paused` are the queues that a pause keeps from being consumed."""
    earlier = {} if before is None else {depth.queue: depth for depth in before.depths}
    within_s = 0.0 if before is None else after.at_s - before.at_s
    lines = []
    for depth in after.depths:
        came, went = _rates(earlier.get(depth.queue), depth, within_s)
        lines.append(
            QueueLine(
                queue=depth.queue,
                ready=depth.ready,
                unacked=depth.unacked,
                oldest_age_s=_rounded(depth.oldest_age_s),
                in_per_s=_rounded(came),
                out_per_s=_rounded(went),
                consumers=depth.consumers,
                paused=after.pause if depth.queue in paused else None,
            )
        )
    return lines


def _rates(before: Depth | None, after: Depth, within_s: float) -> tuple[float | None, float | None]:
    """Messages a second in and out: what came is counted, or what went is; the other follows from the depth."""
    if before is None or within_s <= 0:
        return None, None
    grew = (after.messages - before.messages) / within_s
    if before.arrived is not None and after.arrived is not None:
        if after.arrived < before.arrived:  # made anew, and counted anew
            return None, None
        came = (after.arrived - before.arrived) / within_s
        return came, max(0.0, came - grew)
    if before.done is not None and after.done is not None:
        went = sum(_rate(before.done[worker], done) for worker, done in after.done.items() if worker in before.done)
        return max(0.0, went + grew), went
    return None, None


def _rate(before: Done, after: Done) -> float:
    """Between the moments at which the worker said it: it does so about once a second, not when it is asked."""
    seconds = after.at_s - before.at_s
    return (after.messages - before.messages) / seconds if after.messages > before.messages and seconds > 0 else 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
