"""Events whose rules took too long or ended their process: known to the next one, tried alone, set aside in the end.

Condemned, an event is set aside untried whenever it comes, until its dead letter is requeued or discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Engine

from caselog.events.model.message import Malformed
from caselog.events.phrases import count_of
from caselog.schema.recording import suspects
from caselog.schema.recording.suspects import Suspect
from caselog.schema.sessions.connection import IDLE_IN_BATCH_S
from caselog.workers.process.logs import get_logger
from caselog.workers.recording.loading import Identity
from caselog.workers.rule_watch.entry import Entry, identity
from caselog.workers.rule_watch.guard import Folding
from caselog.workers.rule_watch.limits import PATIENCE
from caselog.workers.servers.database_errors import OtherSchema, translated

# A suspect is tried alone, and its session may stand still until whoever looks on has lost all patience.
PATIENCE_S: Final = (PATIENCE + 1) * IDLE_IN_BATCH_S


class Suspects:
    """The suspects as they were when this process began, and those that it met itself.

    What others meet later is not looked up: it costs this process one interruption more, and each batch nothing.
    """

    def __init__(self, engine: Engine, folding: Folding) -> None:
        self._engine = engine
        self._folding = folding
        self._known: dict[Identity, Suspect] | None = None
        self._lacks_table = False

    def among(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of the events that are suspects. Raises `DatabaseAway`."""
        if self._known is None:
            self._known = self._found()
        known = self._known
        if not known:
            return []
        return [entry for entry in entries if not isinstance(entry.item, Malformed) and identity(entry) in known]

    def is_slow(self, entry: Entry) -> bool:
        """Whether this event's fold is known to take long."""
        if not self._known or isinstance(entry.item, Malformed):
            return False
        return identity(entry) in self._known

    def strike(self, entry: Entry, why: str) -> None:
        """Its rules took too long once more; written down at once. Raises `DatabaseAway`."""
        name = identity(entry)
        known = self._known or {}
        try:
            with translated(), self._engine.begin() as db:
                struck = suspects.strike(db, [name], why)
        except OtherSchema:  # remembered in this process alone, until it is migrated
            struck = {name: Suspect(known[name].too_long + 1 if name in known else 1, 0, why)}
        self._known = known | struck
        assert not isinstance(entry.item, Malformed)
        get_logger().warning(
            "an event's rule took too long and was interrupted",
            key=entry.item.type, source=name[0], event_id=name[1], times=struck[name].too_long, why=why,
        )  # fmt: skip

    def verdict(self, entry: Entry) -> str | None:
        """Why it is to be a dead letter; None while it may be tried once more. Raises `DatabaseAway`."""
        self._known = self._found()  # a pardon of another process may be newer than what this one knows
        suspect = self._known.get(identity(entry))
        if suspect is None or not suspect.is_condemned:
            return None
        assert not isinstance(entry.item, Malformed)
        counts = (("took too long", suspect.too_long), ("ended their process", suspect.endings))
        happened = " and ".join(f"{what}, {count_of(times, 'time')}" for what, times in counts if times)
        return (
            f"the rules of {entry.item.type!r} {happened}; the last: {suspect.why}. A rule has "
            f"{self._folding.limit_s:g} s of processor time, is not to wait for anything, and not to end its "
            f"process or take all memory. Mend the rule and requeue the dead letter."
        )

    def acquit(self, entry: Entry) -> None:
        """It was tried and did no harm: it is no suspect any more, unless it was condemned meanwhile.

        Where the database is away just then, it stays one that is known to do no harm.
        """
        suspect = (self._known or {}).get(identity(entry))
        if suspect is not None and not suspect.is_condemned:
            self._forget([entry])

    def pardon(self, entries: Sequence[Entry]) -> None:
        """Somebody wants these dead letters tried: those that are condemned are tried as if for the first time.

        They stay so while they are dead letters, since their messages may come again, as long as others of the same
        message end the process before it is acknowledged. Raises `DatabaseAway`.
        """
        self._known = known = self._found()
        if condemned := [entry for entry in self.among(entries) if known[identity(entry)].is_condemned]:
            self._forget(condemned)

    def _forget(self, entries: Sequence[Entry]) -> None:
        names = [identity(entry) for entry in entries]
        if not self._lacks_table:
            with translated(), self._engine.begin() as db:
                suspects.forget(db, names)
        self._known = {name: suspect for name, suspect in (self._known or {}).items() if name not in names}

    def _found(self) -> dict[Identity, Suspect]:
        """Those that are written down. A database that is still to be migrated has none: recorders go on all the same.

        Raises `DatabaseAway`.
        """
        try:
            with translated(), self._engine.begin() as db:
                found = suspects.find(db)
        except OtherSchema:
            self._lacks_table = True
            return self._known or {}
        self._lacks_table = False
        return found
