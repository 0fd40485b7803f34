"""The pause of all recorders, and the breaker, which calls for one when most of what arrives dies.

That is seldom the data's fault (docs/design.md "A bad deploy").
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from caselog.events.phrases import count_of
from caselog.schema.operations import pause as pausing
from caselog.schema.operations.pause import BREAKER, Pause
from caselog.workers.process.logs import get_logger
from caselog.workers.recording.outcome import Recorded

LOOK_S: Final = 1.0


class Verdict(msgspec.Struct, frozen=True):
    """Why the breaker tripped: of the last `arrived` events, so many became dead letters, by reason."""

    arrived: int
    dead: Mapping[str, int]

    @property
    def deaths(self) -> int:
        return sum(self.dead.values())

    def in_words(self) -> str:
        """What happened and what to do, without anything of the events."""
        reason, times = max(self.dead.items(), key=lambda item: item[1])
        return (
            f"{self.deaths:,} of the last {count_of(self.arrived, 'event')} became dead letters, {times:,} of them "
            f"{reason}. See: caselog dead list --group --reason {reason}. Deploy what knows these events, or run: "
            f"caselog resume"
        )


class Breaker:
    """Watches a sliding window of about the last `count` events that arrived for the first time.

    Trips when `ratio` of them or more (0 to 1) became dead letters. `ratio` or `count` 0: never. Redelivered events
    are not for the window: neither what is recorded already nor what is a dead letter already says anything new.
    """

    def __init__(self, ratio: float, count: int) -> None:
        self._ratio = ratio
        self._count = count
        self._window: deque[Verdict] = deque()
        self._arrived = 0
        self._dead: Counter[str] = Counter()

    def observe(self, arrived: int, dead: Mapping[str, int]) -> Verdict | None:
        """Take in a batch: events that arrived, and those of them that died, by reason. A verdict where it trips.

        The window holds whole batches: at least `count` events before it can trip, and not one batch more than needed.
        """
        if not (self._ratio and self._count and arrived):
            return None
        self._window.append(Verdict(arrived, dead))
        self._arrived += arrived
        self._dead.update(dead)
        while self._arrived - self._window[0].arrived >= self._count:
            oldest = self._window.popleft()
            self._arrived -= oldest.arrived
            self._dead.subtract(oldest.dead)
        if self._arrived < self._count or self._dead.total() < self._ratio * self._arrived:
            return None
        return Verdict(self._arrived, {reason: times for reason, times in self._dead.items() if times})

    def reset(self) -> None:
        """Forget what was seen: after a pause, what comes is judged anew."""
        self._window.clear()
        self._arrived = 0
        self._dead.clear()


class PauseWatch:
    """Says whether recorders are paused. From one thread; asks PostgreSQL about once a second, whatever it is asked.

    While PostgreSQL is away the answer stays what it was: nothing can be recorded then anyway.
    """

    def __init__(self, engine: Engine, breaker: Breaker, deploy: str) -> None:
        """`deploy`: what this recorder runs. The first look lifts a pause by the breaker of another deploy."""
        self._engine = engine
        self._breaker = breaker
        self._deploy = deploy
        self._has_lifted = False
        self._verdict: Verdict | None = None
        self._pause: Pause | None = None
        self._due = 0.0

    def look(self) -> Pause | None:
        """The pause in force, as of a second ago at most; None: go on recording."""
        now = time.monotonic()
        if now < self._due:
            return self._pause
        try:
            found = self._find()
        except SQLAlchemyError as error:
            get_logger().debug("the pause cannot be looked up", error=type(error).__name__)
        else:
            self._tell(found)
            self._pause = found
        self._due = now + LOOK_S
        return self._pause

    def observe(self, recorded: Recorded) -> None:
        """Have the breaker judge a batch. Where it trips, the next look is a pause, for all recorders."""
        arrived = recorded.recorded + recorded.parked + recorded.dead.total()
        verdict = self._breaker.observe(arrived, recorded.dead)
        if verdict is not None:
            self._verdict, self._due = verdict, 0.0
            # In force here at once, also where it cannot be written down for the others yet.
            self._pause = Pause(who=BREAKER, since=datetime.now(UTC), why=verdict.in_words(), deploy=self._deploy)
            get_logger().error("the breaker tripped", why=verdict.in_words(), dead=dict(verdict.dead))

    def _find(self) -> Pause | None:
        if not self._has_lifted:
            with self._engine.begin() as db:
                lifted = pausing.resume_after_deploy(db, self._deploy)
            self._has_lifted = True
            if lifted is not None:
                get_logger().info("this deploy lifted the pause of another one", **_told(lifted))
        if self._verdict is not None:
            with self._engine.begin() as db:
                detail = {"arrived": self._verdict.arrived, "dead": self._verdict.dead, "deploy": self._deploy}
                pausing.trip(db, why=self._verdict.in_words(), deploy=self._deploy, detail=detail)
            self._verdict = None
        with self._engine.begin() as db:
            return pausing.find_pause(db)

    def _tell(self, found: Pause | None) -> None:
        if found is None and self._pause is not None:
            self._breaker.reset()
            get_logger().info("resumed")
        elif found is not None and (self._pause is None or found.since != self._pause.since):
            get_logger().warning("paused", **_told(found))


def _told(pause: Pause) -> dict[str, str]:
    return {"by": pause.who, "since": pause.since.isoformat(), "why": pause.why}
