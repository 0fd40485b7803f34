"""What is missing of what was stored: Redis's memory and the database are read, what is there again is looked up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import msgspec
import redis
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from caselog.schema.recording import continuity
from caselog.schema.sessions.connection import driver_of, fence_of, limit_statements, server_of
from caselog.schema.sessions.fencing import Fence, OlderTimeline, Server, place
from caselog.workers.continuity.comparison import (
    Gap,
    Letter,
    Loss,
    Mark,
    Name,
    Remembered,
    Stored,
    Verdict,
    event_of,
    gaps,
    judge,
    measure,
    named,
    older_timeline,
)
from caselog.workers.continuity.memory import forget_runs, lost_marks, read_memory, settle, tell_stored
from caselog.workers.process.logs import get_logger

# A look-up by index of so many names takes some tenths of a second.
LOOKED_UP: Final = 20_000


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One look: the verdict, and what it was made of; `where` is the host and port that answered."""

    verdict: Verdict
    loss: Loss
    gaps: Mapping[str, Gap]
    remembered: Remembered | None
    server: Server | None
    where: str


class Losses:
    """Looks again and again; thread-safe. What was found to be there again is not looked up once more."""

    def __init__(self, engine: Engine, client: redis.Redis, fence: Fence | None) -> None:
        """`fence`, the engine's, is told what Redis remembers, and Redis what it met and what the database has.

        Without one also a server that is fenced off is looked at, and nobody is told of it.
        """
        self._engine = engine
        self._client = client
        self._fence = fence
        self._lock = threading.Lock()
        self._gaps: Mapping[str, Gap] = {}
        self._marks: list[Mark] = []
        self._missing: deque[Name] = deque()
        self._again: set[Name] = set()

    def look(self, *, statement_ms: int = 0, looked_up: int | None = LOOKED_UP) -> Found:
        """What is so now. At most `looked_up` lost events are looked for, the others at the next look.

        What is proven to be there again is settled: Redis remembers it as it is. Raises `RedisError` and SQLAlchemy's
        errors.
        """
        with self._lock:
            # Redis first: what is recorded meanwhile makes the database the newer of the two, and no loss.
            remembered = read_memory(self._client, self._fence)
            try:
                found, stored = self._ask(remembered, statement_ms, looked_up)
            except OlderTimeline as error:
                # With a session from before that was known; a new one is to another server, where a list has one.
                try:
                    found, stored = self._ask(remembered, statement_ms, looked_up)
                except OlderTimeline:
                    return _fenced_off(remembered, error)
            if self._fence is not None:
                tell_stored(self._client, self._fence, stored)
            return found

    def missing(self) -> list[tuple[str | None, str | None, str | None]]:
        """The lost events that are not there again, as far as they are known by name, sorted; of the last look.

        Source and id; of a dead letter, as far as they could be read, and the SHA-256 of its bytes.
        """
        with self._lock:
            return [_in_words(name) for name in _in_order(self._missing)]

    def _ask(self, remembered: Remembered | None, statement_ms: int, looked_up: int | None) -> tuple[Found, Stored]:
        """Raises `OlderTimeline` as it is, and SQLAlchemy's errors."""
        try:
            with self._engine.begin() as db:
                if statement_ms:
                    limit_statements(db, statement_ms)
                return self._look(db, remembered, looked_up)
        except DBAPIError as error:
            if isinstance(error.orig, OlderTimeline):
                raise error.orig from error
            raise

    def _look(self, db: Connection, remembered: Remembered | None, looked_up: int | None) -> tuple[Found, Stored]:
        info = driver_of(db).info
        where = place(info.host, info.port)
        stored = Stored(server=server_of(db), runs=continuity.read_runs(db))
        found = {} if remembered is None else gaps(remembered, stored)
        if found != self._gaps:
            self._marks = list(lost_marks(self._client, found))
            self._missing, self._again, self._gaps = deque(_in_order(named(self._marks))), set(), found
        self._look_up(db, looked_up)
        loss = Loss() if remembered is None else measure(remembered, stored, self._marks, self._again)
        verdict = judge(remembered, stored, loss, where)
        if found and verdict.is_green:
            get_logger().info("all events that were lost are there again", events=loss.again)
            settle(self._client, found)
        look = Found(verdict=verdict, loss=loss, gaps=found, remembered=remembered, server=stored.server, where=where)
        return look, stored

    def _look_up(self, db: Connection, looked_up: int | None) -> None:
        left = len(self._missing) if looked_up is None else min(looked_up, len(self._missing))
        since = datetime.fromtimestamp(min((mark.at_ms for mark in self._marks), default=0) / 1000, UTC)
        while left:
            part = set(islice(self._missing, min(left, LOOKED_UP)))
            there = _there(db, part, since)
            for _ in part:
                one = self._missing.popleft()
                if one not in there:
                    self._missing.append(one)
            self._again |= there
            left -= len(part)


def _there(db: Connection, names: Collection[Name], since: datetime) -> set[Name]:
    """Those that are in the log, parked, a dead letter or discarded, `since` when what was lost had begun to be stored.

    What was recorded or parked is not there again by a dead letter from before: that is what it was until somebody
    requeued it, or sent it again.
    """
    letters = {name for name in names if isinstance(name, Letter)}
    own = {letter: event_of(letter) for letter in letters if letter.is_own}
    events = {name for name in names if not isinstance(name, Letter)}
    kept = continuity.kept_events(db, events.union(own.values()))
    digests = continuity.kept_letters(db, {letter.sha256 for letter in letters}) if letters else set()
    # Also of a dead letter: sent again, an event may be written in other bytes, with a trace of its own, say.
    refused = continuity.refused_events(db, lacking, since) if (lacking := events.union(own.values()) - kept) else set()
    # What came again and was discarded then is no loss: whoever did so is in the audit.
    gone = continuity.discarded_since(db, since)
    found = kept | refused | gone.parked
    return {
        *(events & found),
        *(
            letter
            for letter in letters
            if letter.sha256 in digests | gone.sha256s or own.get(letter) in found | gone.letters
        ),
    }


def _in_words(name: Name) -> tuple[str | None, str | None, str | None]:
    return (name.source, name.event_id, name.sha256.hex()) if isinstance(name, Letter) else (*name, None)


def _in_order(names: Collection[Name]) -> list[Name]:
    """Dead letters last; half a million are sorted while a transaction is open."""
    letters = [name for name in names if isinstance(name, Letter)]
    events = [name for name in names if not isinstance(name, Letter)]
    return [*sorted(events), *sorted(letters, key=lambda one: (one.source or "", one.event_id or "", one.sha256))]


def _fenced_off(remembered: Remembered | None, error: OlderTimeline) -> Found:
    where = place(error.host, error.port)
    verdict = older_timeline(error.server, error.known, Loss(), where)
    return Found(verdict=verdict, loss=Loss(), gaps={}, remembered=remembered, server=error.server, where=where)


def tell(engine: Engine, client: redis.Redis) -> None:
    """Tell Redis which server answers, and the counts that it has; as `look`, and nothing is judged."""
    fence = fence_of(engine)
    read_memory(client, fence)
    with engine.begin() as db:
        if not continuity.can_count(db):
            return
        stored = Stored(server=server_of(db), runs=continuity.read_runs(db))
    tell_stored(client, fence, stored)


def tidy_runs(engine: Engine, client: redis.Redis, days: int) -> int:
    """Forget runs that nobody counted in for so many days and that lack nothing; how many.

    Redis forgets first: what it still remembered and the database has no more would be a loss.
    """
    remembered = read_memory(client)
    with engine.begin() as db:
        stored = Stored(server=server_of(db), runs=continuity.read_runs(db))
        old = continuity.runs_older_than(db, days)
    lacking = {} if remembered is None else gaps(remembered, stored)
    names = [name for name in old if name not in lacking]
    if names:
        forget_runs(client, names)
        with engine.begin() as db:
            continuity.forget_runs(db, names)
    return len(names)
