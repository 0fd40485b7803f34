"""How many events each run of a recorder has stored, counted in the transaction that does; and whether they are there.

Stored is what was written to the log, parked or made a dead letter, each when that became of a message: what was parked
is not counted once more when it is recorded or given up, since it waits again where that is lost.

A run is one process's unbroken count. Its row is written by nobody else, and only on top of the number that the process
itself left there: where the database went back to an older state, the row no longer has it, the process begins another
run, and what the old row says stays what was left of it (docs/decisions/0109).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import Connection, TextClause, text

from caselog.schema.sql.statement import Statement


def can_count(db: Connection) -> bool:
    """Whether the table is there: a recorder goes on also while the database is yet to be migrated to 0015."""
    ((found,),) = _CAN_COUNT.rows(db)
    return bool(found)


_CAN_COUNT: Final = Statement("select to_regclass('recorded') is not null")


def begin_run(db: Connection, run: str, events: int) -> datetime:
    """The first batch of a run. Returns the transaction's moment."""
    ((now,),) = _BEGIN_RUN.rows(db, run=run, events=events)
    return cast("datetime", now)


_BEGIN_RUN: Final = Statement("insert into recorded (run, events) values (%(run)s, %(events)s) returning changed_at")


def extend_run(db: Connection, run: str, before: int, after: int) -> datetime | None:
    """Count on, and return the transaction's moment; None, with nothing changed, where the run is not at `before`."""
    found = _EXTEND_RUN.rows(db, run=run, before=before, after=after)
    return found[0][0] if found else None


_EXTEND_RUN: Final = Statement(
    "update recorded set events = %(after)s, changed_at = now() where run = %(run)s and events = %(before)s "
    "returning changed_at"
)


def read_runs(db: Connection) -> dict[str, tuple[int, datetime]]:
    """Of each run the events counted, and the moment of its newest batch. Some rows for each start of a recorder."""
    found = db.execute(text("select run, events, changed_at from recorded"))
    return {run: (events, changed_at) for run, events, changed_at in found}


def runs_older_than(db: Connection, days: int) -> list[str]:
    """Runs that nobody counted in for so many days."""
    found = db.execute(
        text("select run from recorded where changed_at < now() - make_interval(days => :days) order by run"),
        {"days": days},
    )
    return list(found.scalars())


def forget_runs(db: Connection, runs: Collection[str]) -> None:
    """Delete their rows: nothing remembers them any more."""
    db.execute(text("delete from recorded where run = any(:runs)"), {"runs": list(runs)})


def kept_events(db: Connection, events: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the (source, event_id) that are recorded or parked."""
    return _named(db, _KEPT_EVENTS, events)


_KEPT_EVENTS: Final = text(
    """
    with event(source, event_id) as (select * from unnest(cast(:sources as text[]), cast(:ids as text[])))
    select log.source, log.event_id from event join log using (source, event_id)
    union all
    select parked.source, parked.event_id from event join parked using (source, event_id)
    """
)


def refused_events(db: Connection, events: Collection[tuple[str, str]], since: datetime) -> set[tuple[str, str]]:
    """Those of the (source, event_id) that became dead letters since then. It reads all dead letters since."""
    return _named(db, _REFUSED_EVENTS, events, since=since)


_REFUSED_EVENTS: Final = text(
    """
    select source, event_id
    from unnest(cast(:sources as text[]), cast(:ids as text[])) as event(source, event_id)
    join dead_letter using (source, event_id) where received_at >= :since
    """
)


def kept_letters(db: Connection, sha256s: Collection[bytes]) -> set[bytes]:
    """Those of the digests of which there is a dead letter with these bytes."""
    found = db.execute(
        text("select fingerprint from dead_letter where fingerprint = any(:sha256s)"), {"sha256s": list(sha256s)}
    )
    return set(found.scalars())


class Discarded(NamedTuple):
    """What was discarded: of dead letters the digests and names, of parked events the names."""

    sha256s: set[bytes]
    letters: set[tuple[str, str]]
    parked: set[tuple[str, str]]


def discarded_since(db: Connection, since: datetime) -> Discarded:
    """What people or retention discarded since then, by the audit. It reads all of that."""
    found = db.execute(_DISCARDED, {"since": since}).all()
    return Discarded(
        {bytes.fromhex(fingerprint) for action, _, _, fingerprint in found if action != _PARKED},
        {(source, event_id) for action, source, event_id, _ in found if action != _PARKED and source and event_id},
        {(source, event_id) for action, source, event_id, _ in found if action == _PARKED},
    )


_PARKED: Final = "parked.discard"
_DISCARDED: Final = text(
    f"""
    select action, one ->> 'source', one ->> 'event_id', one ->> 'fingerprint'
    from audit cross join jsonb_array_elements(coalesce(detail -> 'letters', detail -> 'events')) as one
    where at >= :since and action in ('dead.discard', 'dead.expire', 'dead.recorded', '{_PARKED}')
    """  # noqa: S608 - a name of our own
)


def _named(
    db: Connection, statement: TextClause, events: Collection[tuple[str, str]], **more: Any
) -> set[tuple[str, str]]:
    names = {"sources": [source for source, _ in events], "ids": [event_id for _, event_id in events]}
    return {(source, event_id) for source, event_id in db.execute(statement, {**names, **more})}
