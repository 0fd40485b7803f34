"""When the tasks run: every second, or as a schedule says, in the threads of this process until it is stopped."""

from __future__ import annotations

import signal
from typing import Final

import dramatiq
import pendulum
import redis
from dramatiq.brokers.redis import RedisBroker
from periodiq import Scheduler

from caselog.workers.process.logs import get_logger
from caselog.workers.process.shutdown import exit_in_time

# An idle dramatiq worker looks for messages this often; its default, a second, would double what a lost wake-up costs.
POLL_MS: Final = 100
WORKER_THREADS: Final = 4
EVERY_S: Final = 1


class EverySecond:
    """A schedule for periodiq, finer than its cron: whatever the moment, and again a second, or so many, later."""

    def __init__(self, every_s: int = EVERY_S) -> None:
        self._every_s = every_s

    def validate(self, _moment: pendulum.DateTime) -> bool:
        return True

    def next_valid_date(self, last: pendulum.DateTime) -> pendulum.DateTime:
        return last.add(seconds=self._every_s)


class _Schedule(Scheduler):  # type: ignore[misc]  # periodiq has no types
    """periodiq's scheduler, which outlives a Redis that is away."""

    def send_actors(self, actors: list[dramatiq.Actor[..., object]], now: pendulum.DateTime) -> None:
        try:
            super().send_actors(actors, now)
        except (redis.RedisError, dramatiq.errors.BrokerError) as error:
            get_logger().warning("the scheduled tasks could not be enqueued", error=str(error))

    def stop(self) -> None:
        self.alarm_q.put_nowait(None)


def run_tasks(broker: RedisBroker) -> None:
    """Work until SIGTERM or SIGINT: the tasks in threads, the schedule in the main thread. Finishes what is begun."""
    worker = dramatiq.Worker(broker, worker_timeout=POLL_MS, worker_threads=WORKER_THREADS)
    schedule = _Schedule([actor for actor in broker.actors.values() if "periodic" in actor.options])

    def stop(*_: object) -> None:
        exit_in_time()
        schedule.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    worker.start()
    try:
        schedule.schedule()
        schedule.loop()
    finally:
        signal.alarm(0)
        worker.stop()
