"""Named points at which a process kills itself, so that a test can see it survived: `CASELOG_CRASH_AT=name[:nth]`.

    CASELOG_CRASH_AT=recording.committed:3 caselog worker recorder

dies as by `kill -9` when the third transaction is committed and nothing of it is acked. Unset, a point is the call of
an empty function: some eight a batch of a thousand events (benchmarks/crash_points.py).
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

from caselog.events.errors import did_you_mean

Point: TypeAlias = Literal[
    "recorder.received",  # a batch is decoded, nothing of it is in the database
    "recorder.acked",  # a batch is acked, the next one is not
    "recording.locked",  # actors and cases are locked and loaded; by recorder, tasks and requeue, as all of these
    "recording.inserted",  # logs, cases, timers and the reports' deltas are written
    "recording.dead_letter",  # dead letters are written
    "recording.parked",  # events without their case are parked
    "recording.unparked",  # events that were parked leave
    "recording.before_commit",  # everything is written
    "recording.committed",  # and committed; nothing is acked
    "retry.taken",  # parked events that are due are read
    "aggregator.taken",  # deltas left the outbox for the sums
    "aggregator.before_commit",  # the facts are written, too
    "aggregator.committed",
    "requeue.before_commit",  # dead letters of a batch are recorded and deleted, and counted in the audit
    "requeue.committed",
    "reads.before_commit",  # reads of the stream are in the audit
    "reads.committed",  # and committed; the stream still has them
    "rebuild.before_swap",  # all is folded afresh, the gate is open
    "rebuild.in_swap",  # the gate is closed and everything is written
    "rebuild.swapped",  # it is committed; the reports' outbox is not added up
]
POINTS: Final[tuple[Point, ...]] = get_args(Point)


def _go_on(_point: Point) -> None:
    """What a point is where no crash is asked for."""


# Call it as `crashing.reach(...)`: `arm` puts another function in its place.
reach: Callable[[Point], None] = _go_on


def parse(crash_at: str) -> tuple[Point, int] | None:
    """The point and the how manieth time; None for the empty string. Raises `ValueError`, which names the points."""
    if not crash_at:
        return None
    name, colon, nth = crash_at.partition(":")
    if name not in POINTS:
        raise ValueError(f"no crash point {name!r}: choose one of {', '.join(POINTS)}.{did_you_mean(name, POINTS)}")
    if colon and not (nth.isdecimal() and int(nth) > 0):
        raise ValueError(f"expected name or name:nth with nth from 1 on, not {crash_at!r}")
    return name, int(nth or 1)


def arm(crash_at: str) -> None:
    """From now on, die at this point: `name[:nth]`; the empty string changes nothing. Raises as `parse`."""
    parsed = parse(crash_at)
    if parsed is None:
        return
    name, nth = parsed
    visits = itertools.count(1)

    def die(point: Point) -> None:
        if point == name and next(visits) == nth:
            sys.stderr.write(f"caselog: killed at {name}, visit {nth}, as CASELOG_CRASH_AT says\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    global reach  # noqa: PLW0603 - once, when a process starts: so that it costs nothing where it is not asked for
    reach = die
