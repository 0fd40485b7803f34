"""The part of the log that tells a case's history: its own logs, and those of its actors that its timers depend on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.events.model.state import Log, OrderKey
from caselog.schema.recording.history import stored_log
from caselog.schema.recording.store import LOG_COLUMNS
from caselog.schema.sql import arrays


class Part(msgspec.Struct, kw_only=True):
    """A case's logs in no order; the stretches of its actors' logs, each in order; when each of its logs was recorded.

    `began` is when the case's first log of all was recorded, whatever the part: None where there is no such case.
    """

    logs: list[Log]
    stretches: list[list[Log]]
    recorded_at: dict[int, datetime]
    began: datetime | None


def case_part(
    db: Connection,
    reference: str,
    ends: Collection[tuple[str, str]],
    *,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
) -> Part:
    """The part of the log up to `as_of` (the events' times) that was recorded by `known_at`, both included.

    `ends` are the (key, code) after which no timer of their actor runs. To be called in a transaction that sees one
    state of the database throughout.
    """
    moments = {"as_of": as_of, "known_at": known_at}
    logs, recorded_at = [], {}
    for recorded, *row in db.execute(_CASE, {"reference": reference, **moments}):
        logs.append(stored_log(row))
        recorded_at[logs[-1].id] = recorded
    began = db.execute(text("select min(recorded_at) from log where case_reference = :case"), {"case": reference})
    return Part(
        logs=logs,
        stretches=_stretches(db, logs, ends, known_at),
        recorded_at=recorded_at,
        began=began.scalar_one(),
    )


_CASE: Final = text(
    f"""
    select recorded_at, {arrays.names(LOG_COLUMNS)} from log
    where case_reference = :reference
      and (cast(:as_of as timestamptz) is null or occurred_at <= :as_of)
      and (cast(:known_at as timestamptz) is null or recorded_at <= :known_at)
    """  # noqa: S608 - column names of our own tables
)


def _stretches(
    db: Connection, logs: Iterable[Log], ends: Collection[tuple[str, str]], known_at: datetime | None
) -> list[list[Log]]:
    """For each log of an actor who ever had a timer: the actor's logs from after the last end of a timer up to it."""
    keys = [(log.actor, log.order_key) for log in logs if log.actor is not None]
    if not keys:
        return []
    names = {"keys": [key for key, _ in ends], "codes": [code for _, code in ends]}
    # Logs that follow the same end of a timer share a stretch, which reaches to the last of them.
    last: dict[tuple[str, OrderKey], OrderKey] = {}
    for position, started_at, *end in db.execute(_LAST_ENDS, _columns(keys) | names | {"known_at": known_at}):
        actor, key = keys[position - 1]
        since = (started_at, "", "") if end[0] is None else (end[0], end[1], end[2])
        last[actor, since] = max(key, last.get((actor, since), key))
    stretches: list[list[Log]] = [[] for _ in last]
    first = _columns([(actor, since) for actor, since in last])
    until = {f"last_{name}": values for name, values in _columns([("", key) for key in last.values()]).items()}
    for position, *row in db.execute(_STRETCHES, first | until | {"known_at": known_at}):
        stretches[position - 1].append(stored_log(row))
    return stretches


def _columns(keys: Sequence[tuple[str, OrderKey]]) -> dict[str, list[Any]]:
    return {
        "actors": [actor for actor, _ in keys],
        "times": [key[0] for _, key in keys],
        "sources": [key[1] for _, key in keys],
        "ids": [key[2] for _, key in keys],
    }


# An actor's first timer was started by the first log that could start one: nothing before it matters, now or as known
# at any moment.
_LAST_ENDS: Final = text(
    """
    select moment.position, first.started_at, ending.occurred_at, ending.source, ending.event_id
    from unnest(cast(:actors as text[]), cast(:times as timestamptz[]), cast(:sources as text[]),
                cast(:ids as text[])) with ordinality as moment(actor, time, source, event_id, position)
    join (
        select actor, min(started_at) as started_at from timer where actor = any(:actors) group by actor
    ) as first on first.actor = moment.actor and first.started_at <= moment.time
    left join lateral (
        select occurred_at, log.source, log.event_id from log
        where log.actor = moment.actor and occurred_at between first.started_at and moment.time
          and (occurred_at, log.source, log.event_id) < (moment.time, moment.source, moment.event_id)
          and (key, code) in (select * from unnest(cast(:keys as text[]), cast(:codes as text[])))
          and (cast(:known_at as timestamptz) is null or recorded_at <= :known_at)
        order by occurred_at desc, log.source desc, log.event_id desc limit 1
    ) as ending on true
    """
)

_STRETCHES: Final = text(
    f"""
    select part.position, {", ".join(f"log.{name}" for name in LOG_COLUMNS)}
    from unnest(cast(:actors as text[]), cast(:times as timestamptz[]), cast(:sources as text[]), cast(:ids as text[]),
                cast(:last_times as timestamptz[]), cast(:last_sources as text[]), cast(:last_ids as text[]))
         with ordinality as part(actor, time, source, event_id, last_time, last_source, last_event_id, position)
    join log on log.actor = part.actor and log.occurred_at between part.time and part.last_time
        and (log.occurred_at, log.source, log.event_id) > (part.time, part.source, part.event_id)
        and (log.occurred_at, log.source, log.event_id) <= (part.last_time, part.last_source, part.last_event_id)
        and (cast(:known_at as timestamptz) is null or log.recorded_at <= :known_at)
    order by part.position, log.occurred_at, log.source, log.event_id
    """  # noqa: S608 - column names of our own tables
)
