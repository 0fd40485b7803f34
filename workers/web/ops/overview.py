"""What the ops page shows: the same numbers, from the same functions, as health, metrics and the command line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec
import redis
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from caselog.events.transport.broker import EVENTS_QUEUE
from caselog.schema.operations import audit, dead_letter_queries, parked_queries
from caselog.schema.operations import pause as pausing
from caselog.schema.operations.audit import AuditEntry
from caselog.schema.operations.dead_letter_queries import Filter, Group
from caselog.schema.operations.parked_queries import CaseWaited
from caselog.schema.operations.pause import Pause
from caselog.schema.operations.reads import ACTION as READ_ACTION
from caselog.schema.recording import dead_letters, parking
from caselog.schema.recording.parking import ParkedCount
from caselog.schema.sessions.connection import limit_statements
from caselog.workers.health.checks import ALL, STATEMENT_TIMEOUT_MS, Check, Health
from caselog.workers.health.queue_rates import QueueLine
from caselog.workers.health.sampler import Sampler
from caselog.workers.telemetry.heartbeat import Beat, read_beats
from caselog.workers.telemetry.last_hour import Told

GROUPS_SHOWN: Final = 20
AUDIT_SHOWN: Final = 20
# Many who watch cost as much as one.
FRESH_S: Final = 1.0

T = TypeVar("T")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says. `letters` counts all dead letters; `groups` are the largest ones.

    `waited` are the cases that events have waited for longest; `waited_cases` counts all of them.
    """

    pause: Pause | None
    letters: int
    groups: list[Group]
    parked: ParkedCount
    waited: list[CaseWaited]
    waited_cases: int
    audit: list[AuditEntry]


class Ops(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the installation; None where a server is away and it is not known."""

    at: datetime
    checks: Mapping[str, Check]
    told: Told
    queues: list[QueueLine] | None
    beats: list[Beat] | None
    stored: Stored | None

    @property
    def red(self) -> list[Check]:
        """The checks that are red."""
        return [check for name, check in self.checks.items() if name != ALL and not check.status]

    @property
    def events_queue(self) -> QueueLine | None:
        """The queue of raw events."""
        return next((line for line in self.queues or () if line.queue == EVENTS_QUEUE.name), None)

    @property
    def is_well(self) -> bool:
        return self.checks[ALL].status


class OpsView:
    """Looks at the installation. Thread-safe; what one looked at in the last second, another one need not again."""

    def __init__(
        self, engine: Engine, client: redis.Redis, health: Health, sampler: Sampler, *, give_up_s: float
    ) -> None:
        self._engine = engine
        self._client = client
        self._health = health
        self._sampler = sampler
        self._give_up_s = give_up_s
        self._lock = threading.Lock()
        self._last: tuple[float, Ops] | None = None

    def look(self, *, afresh: bool = False) -> Ops:
        """The installation now, or a second ago at most unless `afresh`. Blocks for seconds where a server hangs."""
        with self._lock:
            if afresh or self._last is None or time.monotonic() - self._last[0] > FRESH_S:
                found = self._look()
                self._last = (time.monotonic(), found)
            return self._last[1]

    def _look(self) -> Ops:
        checks = self._health.check()
        return Ops(
            at=datetime.now(UTC),
            checks=checks,
            told=self._sampler.told(),
            queues=self._sampler.lines(),
            # What is red is away or hangs, and is not asked once more.
            beats=_known(lambda: read_beats(self._client)) if checks["redis"].status else None,
            stored=_known(self._stored) if checks["database"].status else None,
        )

    def _stored(self) -> Stored:
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            return read_stored(db, give_up_s=self._give_up_s)


def read_stored(db: Connection, *, give_up_s: float) -> Stored:
    """What the page shows of the database."""
    return Stored(
        pause=pausing.find_pause(db),
        letters=sum(dead_letters.count_by_reason(db).values()),
        groups=dead_letter_queries.groups(db, Filter(), limit=GROUPS_SHOWN),
        parked=parking.count_parked(db),
        waited=parked_queries.by_case(db, give_up_s=give_up_s, limit=GROUPS_SHOWN),
        waited_cases=parked_queries.count_cases(db),
        audit=list(audit.list_audit(db, but=READ_ACTION, limit=AUDIT_SHOWN)),
    )


def _known(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (SQLAlchemyError, redis.RedisError):
        return None
