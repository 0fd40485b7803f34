"""When each health check was first found green or red, as it is now: kept in Redis, to outlive the status worker."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import redis

KEY: Final = "caselog:health:since"


class Since:
    """What was seen last of each check. Thread-safe. Several status workers on one Redis share what they saw."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[bool, str]] = {}

    def note(self, statuses: Mapping[str, bool], *, is_shared: bool) -> dict[str, str]:
        """By check, when it was first found as it is now: RFC 3339 in UTC, by this machine's clock.

        Without `is_shared` Redis is left alone, and what this process saw itself is all that is known.
        """
        with self._lock:
            if is_shared:
                self._learn()
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            changed = {
                name: (status, now)
                for name, status in statuses.items()
                if name not in self._seen or self._seen[name][0] != status
            }
            self._seen |= changed
            if is_shared and changed:
                self._teach(changed)
            return {name: self._seen[name][1] for name in statuses}

    def _learn(self) -> None:
        try:
            found: Any = self._client.hgetall(KEY)
        except redis.RedisError:
            return
        for name, value in found.items():
            status, _, moment = value.decode().partition(" ")
            self._seen[name.decode()] = (status == "green", moment)

    def _teach(self, changed: Mapping[str, tuple[bool, str]]) -> None:
        values: dict[Any, Any] = {
            name: f"{'green' if status else 'red'} {moment}" for name, (status, moment) in changed.items()
        }
        try:
            self._client.hset(KEY, mapping=values)
        except redis.RedisError:
            return
