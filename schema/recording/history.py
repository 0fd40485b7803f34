"""What late events need of what is recorded: who logged what when, and the whole logs of cases."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from caselog.events.model.state import Log, OrderKey, TimerState
from caselog.schema.recording.store import LOG_COLUMNS, TIMER_COLUMNS
from caselog.schema.sql import arrays
from caselog.schema.sql.statement import Statement


def last_logs(db: Connection, actors: Collection[str]) -> dict[str, OrderKey]:
    """The order key of the last log of each actor who has one."""
    found = _LAST_LOGS.rows(db, actors=list(actors))
    return {actor: (time, source, event_id) for actor, time, source, event_id in found}


_LAST_LOGS: Final = Statement(
    """
    select actor.id, last.occurred_at, last.source, last.event_id
    from unnest(%(actors)s::text[]) as actor(id), lateral (
        select occurred_at, source, event_id from log where log.actor = actor.id
        order by occurred_at desc, source desc, event_id desc limit 1
    ) as last
    """
)


def covering_starts(db: Connection, moments: Collection[tuple[str, datetime]]) -> dict[tuple[str, datetime], OrderKey]:
    """For each (actor, time) at which a timer of the actor ran: the order key of the log that started the first such.

    A timer that ended or began at that very instant counts: which log comes first is for the fold to say. An actor's
    timers do not overlap, so besides those that began then, only the last one before can have run.
    """
    found = _COVERING_STARTS.rows(db, actors=[actor for actor, _ in moments], times=[moment for _, moment in moments])
    return {(actor, moment): (time, source, event_id) for actor, moment, time, source, event_id in found}


_COVERING_STARTS: Final = Statement(
    """
    select moment.actor, moment.time, first.occurred_at, first.source, first.event_id
    from unnest(%(actors)s::text[], %(times)s::timestamptz[]) as moment(actor, time), lateral (
        select start.occurred_at, start.source, start.event_id
        from (
            (select id, stopped_at from timer
             where timer.actor = moment.actor and started_at < moment.time
             order by started_at desc, stopped_at desc nulls first limit 1)
            union all
            select id, stopped_at from timer where timer.actor = moment.actor and started_at = moment.time
        ) as near join log as start on start.id = near.id
        where near.stopped_at is null or near.stopped_at >= moment.time
        order by start.occurred_at, start.source, start.event_id limit 1
    ) as first
    """
)


Stretch = tuple[str, OrderKey, OrderKey | None]
"""Part of an actor's log: the actor, the order keys of its first and last log; None: to the end of the log."""


def next_logs(
    db: Connection, moments: Sequence[tuple[str, OrderKey]], codes: Collection[tuple[str, str]]
) -> list[OrderKey | None]:
    """For each (actor, order key): the order key of the actor's next log, after it, of one of these (key, code)."""
    names = [f"{key}{_BETWEEN}{code}" for key, code in codes]
    found = _NEXT_LOGS.rows(db, **_stretches("", moments), names=names)
    return [None if time is None else (time, source, event_id) for time, source, event_id in found]


# Neither a key nor a code holds a control character.
_BETWEEN: Final = "\x1f"
# One array of names is hashed; held against two arrays, a log took as long as thirty.
_IS_NEXT: Final = f"""
    log.actor = moment.actor
    and (log.occurred_at, log.source, log.event_id) > (moment.time, moment.source, moment.event_id)
    and log.key || '{_BETWEEN}' || log.code = any(%(names)s::text[])
"""
# First the instant, in the very order of the index, and then which log it is. Sorted by all three in one, PostgreSQL
# may as well read all that the actor did since: without statistics it supposes that to be little.
_NEXT_LOGS: Final = Statement(
    f"""
    select next.occurred_at, next.source, next.event_id
    from unnest(%(actors)s::text[], %(times)s::timestamptz[], %(sources)s::text[], %(ids)s::text[])
         with ordinality as moment(actor, time, source, event_id, position)
    left join lateral (
        select occurred_at from log where {_IS_NEXT} and occurred_at >= moment.time order by occurred_at limit 1
    ) as instant on true
    left join lateral (
        select occurred_at, source, event_id from log where {_IS_NEXT} and occurred_at = instant.occurred_at
        order by source, event_id limit 1
    ) as next on true
    order by position
    """  # noqa: S608 - our own columns
)


def actor_logs(db: Connection, stretches: Sequence[Stretch]) -> list[list[Log]]:
    """The logs of each stretch, in order. The actors are locked."""
    logs: list[list[Log]] = [[] for _ in stretches]
    first = _stretches("", [(actor, start) for actor, start, _ in stretches])
    last = _stretches("last_", [(actor, end) for actor, _, end in stretches])
    for position, *row in _ACTOR_LOGS.rows(db, **(first | last)):
        logs[position - 1].append(stored_log(row))
    return logs


# A sub-select with an offset is planned by itself, for one stretch: by the index. As a plain join, the planner would
# rather read the whole log, and the cost of a late event would grow with it.
_ACTOR_LOGS: Final = Statement(
    f"""
    select part.position, found.*
    from unnest(%(actors)s::text[], %(times)s::timestamptz[], %(sources)s::text[], %(ids)s::text[],
                %(last_times)s::timestamptz[], %(last_sources)s::text[], %(last_ids)s::text[])
         with ordinality as part(actor, time, source, event_id, last_time, last_source, last_event_id, position),
    lateral (
        select {", ".join(f"log.{name}" for name in LOG_COLUMNS)} from log
        where log.actor = part.actor and occurred_at between part.time and coalesce(part.last_time, 'infinity')
          and (occurred_at, log.source, log.event_id) >= (part.time, part.source, part.event_id)
          and (part.last_time is null or (occurred_at, log.source, log.event_id)
                                         <= (part.last_time, part.last_source, part.last_event_id))
        offset 0
    ) as found
    order by part.position, found.occurred_at, found.source, found.event_id
    """  # noqa: S608 - column names of our own tables
)


def _stretches(prefix: str, moments: Sequence[tuple[str, OrderKey | None]]) -> dict[str, list[Any]]:
    keys = [key or (None, None, None) for _, key in moments]
    return {
        "actors": [actor for actor, _ in moments],
        f"{prefix}times": [key[0] for key in keys],
        f"{prefix}sources": [key[1] for key in keys],
        f"{prefix}ids": [key[2] for key in keys],
    }


def case_logs(db: Connection, references: Collection[str]) -> dict[str, list[Log]]:
    """The whole log of each of these cases, by reference. The cases are locked."""
    logs: dict[str, list[Log]] = {reference: [] for reference in references}
    for log in map(stored_log, _CASE_LOGS.rows(db, references=list(references))):
        logs[log.case or ""].append(log)
    return logs


_CASE_LOGS: Final = Statement(
    f"select {arrays.names(LOG_COLUMNS)} from log where case_reference = any(%(references)s)"  # noqa: S608 - our own columns
)


def logs_of(db: Connection, events: Collection[tuple[str, str]]) -> dict[tuple[str, str], Log]:
    """The log entry of each of the (source, event_id) that is recorded."""
    found = _LOGS_OF.rows(db, sources=[source for source, _ in events], ids=[event_id for _, event_id in events])
    return {(log.source, log.event_id): log for log in map(stored_log, found)}


_LOGS_OF: Final = Statement(
    f"""
    select {", ".join(f"log.{name}" for name in LOG_COLUMNS)}
    from unnest(%(sources)s::text[], %(ids)s::text[]) as event(source, event_id)
    join log on log.source = event.source and log.event_id = event.event_id
    """  # noqa: S608 - column names of our own tables
)


def stored_log(row: Sequence[Any]) -> Log:
    """A row of LOG_COLUMNS."""
    return Log(*row)


def timers(db: Connection, ids: Collection[int]) -> list[TimerState]:
    """These timers, as far as they exist."""
    found = _TIMERS.rows(db, ids=list(ids))
    return [TimerState(**dict(zip(TimerState.__struct_fields__, row, strict=True))) for row in found]


_TIMERS: Final = Statement(f"select {arrays.names(TIMER_COLUMNS)} from timer where id = any(%(ids)s)")  # noqa: S608 - ours
