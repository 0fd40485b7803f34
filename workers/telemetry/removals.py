"""What policies of RabbitMQ removed from the queue of events, and recorders got back: counted in Redis, for health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import redis

KEY: Final = "caselog:removals"
# So long after the last one nothing is red any more.
KEPT_S: Final = 3600
# What RabbitMQ calls the reason, and the key of the policy that removes for it.
POLICY_KEYS: Final = {"expired": "message-ttl", "maxlen": "max-length", "delivery_limit": "delivery-limit"}


class Removals:
    """Counts of one recorder, on their way to Redis; kept while it is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._counts: dict[str, int] = {}

    def note(self, counts: Mapping[str, int]) -> None:
        for reason, messages in counts.items():
            self._counts[reason] = self._counts.get(reason, 0) + messages
        try:
            pipeline = self._client.pipeline(transaction=True)
            for reason, messages in self._counts.items():
                pipeline.hincrby(KEY, reason, messages)
            pipeline.expire(KEY, KEPT_S)
            pipeline.execute()
        except redis.RedisError:
            return
        self._counts = {}


def read_removals(client: redis.Redis) -> dict[str, int]:
    """Messages by reason, where the last one came within an hour; else empty. Raises `redis.RedisError`."""
    found: dict[Any, Any] = client.hgetall(KEY)
    return {reason.decode(): int(messages) for reason, messages in found.items()}
