"""Clients of Redis: one that works, and one that gives up soon."""

from __future__ import annotations

from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from caselog.workers.servers.locate import Services, redis_py_url

TIMEOUT_S: Final = 5
IMPATIENT_S: Final = 1


def make_redis(services: Services) -> redis.Redis:
    """A Redis client for jobs and heartbeats; nothing is connected yet."""
    return redis.Redis.from_url(
        redis_py_url(services.redis_url),
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,  # a Redis that hangs must not hold the recorder for ever
        health_check_interval=30,
    )


def impatient(redis_url: str, *, within_s: float = IMPATIENT_S) -> redis.Redis:
    """A client that gives up soon and does not retry: for what must not keep a worker from stopping, or has to say so.

    Nothing is connected yet.
    """
    return redis.Redis.from_url(
        redis_py_url(redis_url),
        socket_connect_timeout=within_s,
        socket_timeout=within_s,
        retry=Retry(NoBackoff(), 0),
    )
