"""Samples of queues and totals for the ops page, taken by one thread of the status worker every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import redis
from amqp.exceptions import AMQPError
from sqlalchemy.exc import SQLAlchemyError

from caselog.workers.health.queue_rates import QueueLine
from caselog.workers.health.queues import QueueView
from caselog.workers.process.logs import get_logger
from caselog.workers.telemetry.last_hour import EVERY_S, LastHour, Moment, Numbers, Told
from caselog.workers.telemetry.totals import read_totals

# What drivers raise while a server is away; kombu has some of them raise plain OSErrors.
AWAY: Final = (SQLAlchemyError, redis.RedisError, AMQPError, OSError)


class Sampler:
    """Looks at queues and totals again and again; `told` and `lines` may be asked from any thread and do not block."""

    def __init__(self, view: QueueView, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        """`client` should have socket timeouts."""
        self._view = view
        self._client = client
        self._clock = clock
        self._hour = LastHour()
        self._lines: tuple[list[QueueLine] | None, float] = (None, 0.0)

    def run(self, stopping: threading.Event) -> None:
        """Sample until it is to stop."""
        due_s = self._clock()
        while not stopping.wait(max(0.0, due_s - self._clock())):
            try:
                self.sample()
            except Exception:  # noqa: BLE001 - a thread that ended would leave a page of old numbers for ever
                get_logger().exception("a sample for the ops page failed")
            due_s = max(due_s + EVERY_S, self._clock())

    def sample(self) -> None:
        """Look once. What cannot be looked at is not known."""
        numbers = lines = None
        try:
            numbers = Numbers.of(read_totals(self._client))
            lines = self._view.lines()
        except AWAY as error:
            get_logger().debug("a sample for the ops page is incomplete", error=type(error).__name__)
        now_s = self._clock()
        waiting = None if lines is None else {line.queue: line.ready + (line.unacked or 0) for line in lines}
        self._hour.add(Moment(now_s, numbers, waiting))
        self._lines = (lines, now_s)

    def lines(self) -> list[QueueLine] | None:
        """The queues as `caselog queues` shows them, at most a few samples old; None where they are not known."""
        lines, at_s = self._lines
        return lines if self._clock() - at_s < 5 * EVERY_S else None

    def told(self) -> Told:
        """What the last hour says."""
        return self._hour.told(self._clock())
