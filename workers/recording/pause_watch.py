"""The recorder's eye on the pause of all recorders, and the breaker's hand on it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from caselog.schema.operations import pause as pausing
from caselog.schema.operations.pause import BREAKER, Pause
from caselog.workers.process.logs import get_logger
from caselog.workers.recording.breaker import Breaker, Verdict
from caselog.workers.recording.outcome import Recorded

LOOK_S: Final = 1.0


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
