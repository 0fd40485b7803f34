"""Counting what is stored, within the transaction that stores it, for the memory of it (comparison.py)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import Connection

from caselog.schema.recording import continuity
from caselog.schema.sessions.connection import server_of
from caselog.schema.sessions.fencing import OlderTimeline
from caselog.workers.continuity.comparison import Letter, Mark, Name, Stored
from caselog.workers.continuity.memory import Memory
from caselog.workers.servers.database_errors import DatabaseAway


class Counting:
    """The count of one process, in the database and in its memory.

    Where the database has not what this process left there, another run begins: after a failover or a restore, and
    also where a commit's answer was lost, or two threads record at once. Neither is a fault of itself.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._run = _new_run()
        self._events = 0
        self._can_count = False

    def meet(self, db: Connection) -> None:
        """At the beginning of each transaction; of the first one it may wait for Redis, a second or so.

        Raises `DatabaseAway` where the first one learns that this server is fenced off: it was not known at its BEGIN.
        """
        self._can_count = self._can_count or continuity.can_count(db)
        if not self._can_count:
            return
        server = server_of(db)
        if self._memory.meet(lambda: Stored(server=server, runs=continuity.read_runs(db))) and server is not None:
            try:
                self._memory.fence.admit(server)
            except OlderTimeline as error:
                raise DatabaseAway(f"PostgreSQL: {error}") from error

    def count(self, db: Connection, names: Sequence[Name]) -> list[Mark]:
        """Count what the transaction in hand stores; the mark for `keep`, once it is committed. Nothing for none."""
        if not names or not self._can_count:
            return []
        run, before = self._run, self._events
        now = continuity.extend_run(db, run, before, before + len(names)) if before else None
        if now is None:
            run, before = _new_run(), 0
            now = continuity.begin_run(db, run, len(names))
        ids: dict[str, list[str]] = {}
        letters = []
        for name in names:
            if isinstance(name, Letter):
                letters.append(name)
            else:
                ids.setdefault(name[0], []).append(name[1])
        return [Mark(run, before, before + len(names), int(now.timestamp() * 1000), ids, letters)]

    def keep(self, marks: list[Mark]) -> None:
        """What `count` gave is committed."""
        for mark in marks:
            self._run, self._events = mark.run, mark.after
        if marks:
            self._memory.keep(marks)

    def close(self) -> None:
        """Have what was kept last remembered, as far as Redis is there."""
        self._memory.stop()


def _new_run() -> str:
    return secrets.token_hex(8)
