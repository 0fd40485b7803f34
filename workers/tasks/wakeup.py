"""The tasks by name, and waking one up from another process.

A dramatiq message is only a wake-up: the outbox, the parked rows and the rows of exports are the truth. The tasks are
also scheduled every second, so a lost one costs at most a second, and one too many finds nothing to do.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from periodiq import PeriodiqMiddleware

from caselog.workers.process.logs import get_logger

NAMESPACE: Final = "caselog"
QUEUE: Final = "caselog.tasks"
AGGREGATE: Final = "aggregate"
RETRY_PARKED: Final = "retry_parked"
MERGE_SEARCH: Final = "merge_search"
EXPORT: Final = "export_reports"
MOVE_READS: Final = "move_reads"
TELL: Final = "tell_redis"
UPKEEP: Final = "upkeep"
WOKEN_MS: Final = 1000


def make_broker(client: redis.Redis) -> RedisBroker:
    """The one dramatiq broker of a process."""
    broker = RedisBroker(client=client, namespace=NAMESPACE)  # type: ignore[no-untyped-call]  # dramatiq's own gap
    broker.add_middleware(PeriodiqMiddleware(skip_delay=55))
    broker.declare_queue(QUEUE)
    return broker


class WakeUp:
    """Asks the tasks to run, from a process that does not run them."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._broker = make_broker(client)

    def __call__(self, task: str) -> None:
        """Enqueue the task unless it was woken within the last second and has not begun since.

        Returns also where Redis is away: the schedule does the same a second later.
        """
        try:
            if self._client.set(_woken(task), 1, nx=True, px=WOKEN_MS):
                self._broker.enqueue(message_of(task))
        except (redis.RedisError, dramatiq.errors.BrokerError):
            get_logger().warning("a task could not be woken; the schedule runs it a second later", task=task)


def message_of(task: str) -> dramatiq.Message[None]:
    return dramatiq.Message(queue_name=QUEUE, actor_name=task, args=(), kwargs={}, options={})


def forget_wakeup(client: redis.Redis, task: str) -> None:
    with suppress(redis.RedisError):  # one that cannot be forgotten forgets itself within a second
        client.delete(_woken(task))


def _woken(task: str) -> str:
    return f"{NAMESPACE}:woken:{task}"
