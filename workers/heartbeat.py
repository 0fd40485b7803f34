"""Heartbeats in Redis: each worker says what it last got done, so that health means progress (RULES.md §8)."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import Any, Final

import msgspec
import redis

PREFIX: Final = "caselog:heartbeat:"
KEPT_S: Final = 300
INTERVAL_S: Final = 1.0
# A worker whose heartbeat is older gets nothing done (RULES.md §8).
YOUNG_S: Final = 30.0


class Beat(msgspec.Struct, kw_only=True):
    """What a worker said last. `age_s` by the clock of Redis alone; `unacked` are messages it holds."""

    role: str
    worker: str
    pid: int
    host: str
    events: int = 0
    unacked: int = 0
    idle: bool = False
    age_s: float = 0.0


class Heartbeat:
    """The heartbeat of one worker. Beat only after work was done, or none was found: never from a timer alone."""

    def __init__(self, client: redis.Redis, role: str) -> None:
        self._client = client
        self._beat = Beat(
            role=role, worker=f"{role}-{secrets.token_hex(4)}", pid=os.getpid(), host=socket.gethostname()
        )
        self._due = 0.0

    def beat(self, *, events: int = 0, unacked: int = 0, idle: bool = False) -> None:
        """Add `events` to what was recorded, and write it, about once a second at most.

        A change from busy to idle is written at once: `caselog wait` looks for it. A Redis that is away is no reason
        to stop working; health sees the heartbeat grow old.
        """
        changed = idle != self._beat.idle
        self._beat.events += events
        self._beat.unacked, self._beat.idle = unacked, idle
        now = time.monotonic()
        if now < self._due and not changed:
            return
        self._due = now + INTERVAL_S
        try:
            self._client.set(PREFIX + self._beat.worker, msgspec.json.encode(self._beat), ex=KEPT_S)
        except redis.RedisError:
            self._due = 0.0

    def stop(self) -> None:
        """The worker ends as planned: its heartbeat is not missed."""
        try:
            self._client.delete(PREFIX + self._beat.worker)
        except redis.RedisError:
            return


def read_beats(client: redis.Redis) -> list[Beat]:
    """The heartbeats of all workers of the last minutes, youngest first. Raises `redis.RedisError`."""
    names = sorted(client.scan_iter(match=PREFIX + "*", count=1000))
    pipeline = client.pipeline(transaction=True)
    for name in names:
        pipeline.get(name)
        pipeline.pttl(name)
    answers: list[Any] = pipeline.execute()
    beats = []
    for value, left_ms in zip(answers[::2], answers[1::2], strict=True):
        if value is not None:
            beat = msgspec.json.decode(value, type=Beat)
            beat.age_s = KEPT_S - max(0, left_ms) / 1000
            beats.append(beat)
    return sorted(beats, key=lambda beat: beat.age_s)
