"""Heartbeats in Redis: each worker says what it last got done, so that health means progress (docs/rules.md §8)."""

from __future__ import annotations

import os
import secrets
import socket
import time
from enum import StrEnum
from typing import Any, Final

import msgspec
import redis

from caselog.workers.process.build_info import installed_version

PREFIX: Final = "caselog:heartbeat:"
# A worker that vanished without a word is missed for so long; then nobody expects it any more.
KEPT_S: Final = 300
INTERVAL_S: Final = 1.0
# A worker that proved nothing for so long gets nothing done (docs/rules.md §8); `health_heartbeat_s` unless set.
YOUNG_S: Final = 30


class Doing(StrEnum):
    """What a worker does just now, in the words that health says."""

    WORKING = "working"
    IDLE = "finding nothing to do"
    PAUSED = "paused by a person"
    TRIPPED = "paused by the breaker"
    FOLDING = "folding"
    NO_DATABASE = "waiting for the database"
    NO_BROKER = "waiting for the broker"
    REFUSED = "refused by the broker"


class Beat(msgspec.Struct, kw_only=True):
    """What a worker said last.

    `age_s` is the age of these words, by the clock of Redis alone. The other ages, in seconds, are what they were when
    the words were written, by the worker's own clock, and with `age_s` added what they are when read; None: never yet.
    `why` says more of what it is `doing`. `unacked` are messages it holds, `held_age_s` is how long ago the oldest of
    them was published. `messages` and `events` count what it got done since it started.
    """

    role: str
    worker: str
    pid: int
    host: str
    version: str | None = None
    doing: Doing = Doing.WORKING
    why: str | None = None
    messages: int = 0
    events: int = 0
    unacked: int = 0
    held_age_s: float | None = None
    message_age_s: float | None = None
    commit_age_s: float | None = None
    empty_age_s: float | None = None
    proof_age_s: float = 0.0
    age_s: float = 0.0

    @property
    def idle(self) -> bool:
        return self.doing is Doing.IDLE

    @property
    def is_paused(self) -> bool:
        return self.doing in (Doing.PAUSED, Doing.TRIPPED)

    def is_well(self, limit_s: float) -> bool:
        """It proved work or an empty queue in the last `limit_s` seconds, or says in them that it is paused."""
        return self.vital_age_s < limit_s

    @property
    def vital_age_s(self) -> float:
        """Since it proved work or an empty queue, or said that it is paused."""
        return self.age_s if self.is_paused else self.proof_age_s


class Heartbeat:
    """The heartbeat of one worker, beaten by the code that does the work: never from a timer alone."""

    def __init__(self, client: redis.Redis, role: str) -> None:
        self._client = client
        self._beat = Beat(
            role=role,
            worker=f"{role}-{secrets.token_hex(4)}",
            pid=os.getpid(),
            host=socket.gethostname(),
            version=installed_version(),
        )
        self._due = 0.0
        self._message: float | None = None
        self._commit: float | None = None
        self._empty: float | None = None
        self._published: float | None = None
        self._proof = time.monotonic()

    def beat(
        self, *, messages: int = 0, events: int = 0, unacked: int = 0, held_since_s: float | None = None,
        idle: bool = False,
    ) -> None:  # fmt: skip
        """Work was done, or none was found: the proof that health wants. Adds to what was done before.

        `held_since_s` is when the oldest of the `unacked` messages was published, in seconds since 1970.
        """
        now = time.monotonic()
        self._proof = now
        if idle:
            self._empty = now
        else:
            self._commit = now
        if messages:
            self._message = now
        self._beat.messages += messages
        self._beat.events += events
        self._say(Doing.IDLE if idle else Doing.WORKING, unacked, held_since_s, now)

    def take(self, *, unacked: int, held_since_s: float | None) -> None:
        """Work is taken in hand."""
        now = self._proof = time.monotonic()
        self._say(Doing.WORKING, unacked, held_since_s, now)

    def progress(self) -> None:
        """A step of a long piece of work is done: it is proof, too."""
        now = self._proof = time.monotonic()
        if now >= self._due:
            self._write(now)

    def fold(self, why: str) -> None:
        """A batch is folded for long: no proof of work by itself, but words that tell it from waiting."""
        now = time.monotonic()
        changed = self._beat.doing is not Doing.FOLDING
        self._beat.doing, self._beat.why = Doing.FOLDING, why
        if now >= self._due or changed:
            self._write(now)

    def wait(
        self, doing: Doing, why: str | None = None, *, unacked: int = 0, held_since_s: float | None = None
    ) -> None:
        """Nothing can be done, for this reason: no proof of work, but words that tell it from hanging."""
        self._say(doing, unacked, held_since_s, time.monotonic(), why)

    def stop(self) -> None:
        """The worker ends as planned: its heartbeat is not missed."""
        try:
            self._client.delete(PREFIX + self._beat.worker)
        except redis.RedisError:
            return

    def succeed(self) -> None:
        """Take the place of workers of this role that died on this host: what was started again is not missed."""
        try:
            for beat in read_beats(self._client):
                ours = (beat.role, beat.host) == (self._beat.role, self._beat.host)
                if ours and beat.worker != self._beat.worker and not _lives(beat.pid):
                    self._client.delete(PREFIX + beat.worker)
        except redis.RedisError:
            return

    def _say(self, doing: Doing, unacked: int, held_since_s: float | None, now: float, why: str | None = None) -> None:
        """Write it about once a second at most, and at once where what it does has changed: `caselog wait` looks."""
        changed = doing is not self._beat.doing
        self._beat.doing, self._beat.why = doing, why
        self._beat.unacked, self._published = unacked, held_since_s
        if now >= self._due or changed:
            self._write(now)

    def _write(self, now: float) -> None:
        """A Redis that is away is no reason to stop working; health sees the heartbeat grow old."""
        beat = self._beat
        self._due = now + INTERVAL_S
        beat.message_age_s, beat.commit_age_s = _since(self._message, now), _since(self._commit, now)
        beat.empty_age_s, beat.proof_age_s = _since(self._empty, now), now - self._proof
        beat.held_age_s = None if self._published is None else max(0.0, time.time() - self._published)
        try:
            self._client.set(PREFIX + beat.worker, msgspec.json.encode(beat), ex=KEPT_S)
        except redis.RedisError:
            self._due = 0.0


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
            for name in ("held_age_s", "message_age_s", "commit_age_s", "empty_age_s", "proof_age_s"):
                told = getattr(beat, name)
                setattr(beat, name, None if told is None else told + beat.age_s)
            beats.append(beat)
    return sorted(beats, key=lambda beat: beat.age_s)


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else now - then


def _lives(pid: int) -> bool:
    """Whether another process of that number runs here; ours is none: a container starts again with the same one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
