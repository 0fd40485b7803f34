"""What the recorder reads and writes: one function a statement, each for a whole batch.

All of it happens in one transaction. Locks are taken in one order (actors, then existing cases, each sorted; then the
rows that are inserted, sorted), so recorders wait for each other and do not deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from events.state import CaseState, Log, OrderKey, TimerState
from schema import rows, tables

_LOG: Final = (
    "id", "source", "event_id", "key", "code", "type", "level", "case_reference", "actor", "role", "actor_provider",
    "notes", "context", "patch", "extensions", "occurred_at", "timer_id", "suppressed", "category", "provider",
    "organisation", "case_source",
)  # fmt: skip
_LOG_FIELDS: Final = tuple("case" if name == "case_reference" else name for name in _LOG)
# The case's own columns, in the order of CaseState; then what the fold remembers.
_CASE_PLAIN: Final = tuple(c.name for c in tables.case.columns if c.name in CaseState.__struct_fields__)
_CASE: Final = (*_CASE_PLAIN, "state", "last_log_time", "last_log_source", "last_log_event_id", "memory")
_case_plain: Final = attrgetter(*_CASE_PLAIN)
_TIMER: Final = tuple(column.name for column in tables.timer.columns)


class _Memory(msgspec.Struct, omit_defaults=True):
    """The fold's memory of a case, as the column `memory` holds it."""

    last_outcome: str | None = None
    viewed_timers: tuple[int, ...] = ()
    call_started: bool = False
    open_complaints: tuple[str, ...] = ()


_MEMORY: Final = _Memory.__struct_fields__
_memory: Final = attrgetter(*_MEMORY)


def clock_and_ids(db: Connection, count: int) -> tuple[datetime, list[int]]:
    """The database's clock at the start of the transaction, and so many fresh log ids, ascending.

    Ids that are not used, or whose transaction is rolled back, are lost.
    """
    row = db.execute(
        text("select now(), array(select nextval('log_id_seq') from generate_series(1, :count))"), {"count": count}
    ).one()
    return row[0], row[1]


def lock_actors(db: Connection, actors: Collection[str]) -> None:
    """Nobody else folds these actors' timers until the transaction ends. Blocks."""
    db.execute(
        text(
            """
            select pg_advisory_xact_lock(hash) from (
                select distinct hashtextextended(actor, 0) as hash
                from unnest(cast(:actors as text[])) as actor order by hash
            ) as locks
            """
        ),
        {"actors": list(actors)},
    )


def lock_cases(db: Connection, references: Collection[str]) -> dict[str, CaseState]:
    """The cases that exist, as folded so far; nobody else changes them until the transaction ends. Blocks."""
    found = db.execute(_LOCK_CASES, {"references": list(references)})
    return {row[0]: _case(row) for row in found}


_LOCK_CASES: Final = text(
    f"""
    select {rows.names(_CASE)} from "case"
    where reference = any(:references) order by reference for update
    """  # noqa: S608 - column names of our own tables
)


def _case(row: Sequence[Any]) -> CaseState:
    *plain, _state, time, source, event_id, memory = row
    case = CaseState(**dict(zip(_CASE_PLAIN, plain, strict=True)))
    case.last_log = None if time is None else (time, source, event_id)
    for name, value in memory.items():
        setattr(case, name, tuple(value) if isinstance(value, list) else value)
    return case


def running_timers(db: Connection, actors: Collection[str]) -> dict[str, TimerState]:
    """The running timer of each actor who has one. The actors are locked before."""
    found = db.execute(
        text(
            "select id, actor, started_at, case_reference from timer where actor = any(:actors) and stopped_at is null"
        ),
        {"actors": list(actors)},
    )
    return {
        row.actor: TimerState(id=row.id, actor=row.actor, started_at=row.started_at, case=row.case_reference)
        for row in found
    }


def insert_logs(db: Connection, logs: Sequence[Log]) -> bool:
    """Append to the log. False where one of the events stands in it already: roll back and look which."""
    ordered = sorted(logs, key=attrgetter("order_key"))
    return db.execute(_INSERT_LOGS, rows.transposed(_LOG, map(_log_values, ordered))).rowcount == len(ordered)


_INSERT_LOGS: Final = text(
    f"""
    insert into log ({rows.names(_LOG)}) select {rows.selected(tables.log, _LOG)}
    from {rows.unnest(tables.log, _LOG)}
    on conflict (source, event_id) do nothing
    """  # noqa: S608 - column names of our own tables
)


def _log_values(log: Log) -> tuple[Any, ...]:
    return (
        log.id, log.source, log.event_id, log.key, log.code, log.type, log.level, log.case, log.actor, log.role,
        log.actor_provider, log.notes, _json(log.context) if log.context else "{}",
        None if log.patch is None else _json(log.patch), None if log.extensions is None else _json(log.extensions),
        log.occurred_at, log.timer_id, log.suppressed, log.category, log.provider, log.organisation, log.case_source,
    )  # fmt: skip


def recorded_events(db: Connection, events: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the (source, event_id) that the log holds already."""
    found = db.execute(
        text(
            """
            select log.source, log.event_id
            from unnest(cast(:sources as text[]), cast(:ids as text[])) as event(source, event_id)
            join log on log.source = event.source and log.event_id = event.event_id
            """
        ),
        {"sources": [source for source, _ in events], "ids": [event_id for _, event_id in events]},
    )
    return {(row.source, row.event_id) for row in found}


def last_logs(db: Connection, actors: Collection[str]) -> dict[str, OrderKey]:
    """The order key of the last log of each actor who has one."""
    found = db.execute(
        text(
            """
            select actor.id, last.occurred_at, last.source, last.event_id
            from unnest(cast(:actors as text[])) as actor(id), lateral (
                select occurred_at, source, event_id from log where log.actor = actor.id
                order by occurred_at desc, source desc, event_id desc limit 1
            ) as last
            """
        ),
        {"actors": list(actors)},
    )
    return {row.id: (row.occurred_at, row.source, row.event_id) for row in found}


def covering_starts(db: Connection, moments: Collection[tuple[str, datetime]]) -> dict[tuple[str, datetime], OrderKey]:
    """For each (actor, time) at which a timer of the actor ran: the order key of the log that started the first such.

    A timer that ended or began at that very instant counts: which log comes first is for the fold to say. An actor's
    timers do not overlap, so besides those that began then, only the last one before can have run.
    """
    found = db.execute(
        text(
            """
            select moment.actor, moment.time, first.occurred_at, first.source, first.event_id
            from unnest(cast(:actors as text[]), cast(:times as timestamptz[])) as moment(actor, time), lateral (
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
        ),
        {"actors": [actor for actor, _ in moments], "times": [moment for _, moment in moments]},
    )
    return {(row.actor, row.time): (row.occurred_at, row.source, row.event_id) for row in found}


Stretch = tuple[str, OrderKey, OrderKey | None]
"""Part of an actor's log: the actor, the order keys of its first and last log; None: to the end of the log."""


def next_logs(
    db: Connection, moments: Sequence[tuple[str, OrderKey]], codes: Collection[tuple[str, str]]
) -> list[OrderKey | None]:
    """For each (actor, order key): the order key of the actor's next log, after it, of one of these (key, code)."""
    found = db.execute(
        text(
            """
            select next.occurred_at, next.source, next.event_id
            from unnest(cast(:actors as text[]), cast(:times as timestamptz[]), cast(:sources as text[]),
                        cast(:ids as text[])) with ordinality as moment(actor, time, source, event_id, position)
            left join lateral (
                select occurred_at, source, event_id from log
                where log.actor = moment.actor and occurred_at >= moment.time
                  and (occurred_at, log.source, log.event_id) > (moment.time, moment.source, moment.event_id)
                  and (key, code) in (select * from unnest(cast(:keys as text[]), cast(:codes as text[])))
                order by occurred_at, log.source, log.event_id limit 1
            ) as next on true
            order by position
            """
        ),
        _stretches("", moments) | {"keys": [key for key, _ in codes], "codes": [code for _, code in codes]},
    )
    return [None if row.occurred_at is None else (row.occurred_at, row.source, row.event_id) for row in found]


def actor_logs(db: Connection, stretches: Sequence[Stretch]) -> list[list[Log]]:
    """The logs of each stretch, in order. The actors are locked."""
    logs: list[list[Log]] = [[] for _ in stretches]
    first = _stretches("", [(actor, start) for actor, start, _ in stretches])
    last = _stretches("last_", [(actor, end) for actor, _, end in stretches])
    for position, *row in db.execute(_ACTOR_LOGS, first | last):
        logs[position - 1].append(_stored_log(row))
    return logs


_ACTOR_LOGS: Final = text(
    f"""
    select part.position, {", ".join(f"log.{name}" for name in _LOG)}
    from unnest(cast(:actors as text[]), cast(:times as timestamptz[]), cast(:sources as text[]), cast(:ids as text[]),
                cast(:last_times as timestamptz[]), cast(:last_sources as text[]), cast(:last_ids as text[]))
         with ordinality as part(actor, time, source, event_id, last_time, last_source, last_event_id, position)
    join log on log.actor = part.actor
        and log.occurred_at between part.time and coalesce(part.last_time, 'infinity')
        and (log.occurred_at, log.source, log.event_id) >= (part.time, part.source, part.event_id)
        and (part.last_time is null or (log.occurred_at, log.source, log.event_id)
                                       <= (part.last_time, part.last_source, part.last_event_id))
    order by part.position, log.occurred_at, log.source, log.event_id
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
    for log in map(_stored_log, db.execute(_CASE_LOGS, {"references": list(references)})):
        logs[log.case or ""].append(log)
    return logs


_CASE_LOGS: Final = text(
    f"select {rows.names(_LOG)} from log where case_reference = any(:references)"  # noqa: S608 - our own columns
)


def _stored_log(row: Sequence[Any]) -> Log:
    return Log(**dict(zip(_LOG_FIELDS, row, strict=True)))


def timers(db: Connection, ids: Collection[int]) -> list[TimerState]:
    """These timers, as far as they exist."""
    found = db.execute(text(f"select {rows.names(_TIMER)} from timer where id = any(:ids)"), {"ids": list(ids)})  # noqa: S608 - ours
    return [TimerState(**dict(zip(TimerState.__struct_fields__, row, strict=True))) for row in found]


def rewrite_logs(db: Connection, logs: Iterable[Log]) -> None:
    """Write what folding again gave for the derived columns of stored logs."""
    db.execute(_REWRITE_LOGS, rows.transposed(_LOG_DERIVED, map(attrgetter(*_LOG_DERIVED), logs)))


_LOG_DERIVED: Final = ("id", "timer_id", "suppressed", "category", "provider", "organisation", "case_source")
_REWRITE_LOGS: Final = text(
    f"""
    update log set {rows.assignments(tables.log, _LOG_DERIVED[1:])}
    from {rows.unnest(tables.log, _LOG_DERIVED)} where log.id = new.id
    """  # noqa: S608 - column names of our own tables
)


def delete_timers(db: Connection, ids: Collection[int]) -> None:
    """Delete timers that, as a late event tells, were never started."""
    db.execute(text("delete from timer where id = any(:ids)"), {"ids": list(ids)})


def insert_cases(db: Connection, cases: Iterable[CaseState]) -> bool:
    """Write new cases. False where another recorder created one of them meanwhile: roll back and load again."""
    values = [_case_row(case) for case in sorted(cases, key=attrgetter("reference"))]
    inserted = db.execute(_INSERT_CASES, rows.transposed(_CASE, values)).all()
    return len(inserted) == len(values)


_INSERT_CASES: Final = text(
    f"""
    insert into "case" ({rows.names(_CASE)}) select {rows.selected(tables.case, _CASE)}
    from {rows.unnest(tables.case, _CASE)}
    on conflict (reference) do nothing returning reference
    """  # noqa: S608 - column names of our own tables
)


def update_cases(db: Connection, cases: Iterable[CaseState]) -> None:
    """Write changed cases over those that `lock_cases` gave."""
    db.execute(_UPDATE_CASES, rows.transposed(_CASE, map(_case_row, cases)))


_UPDATE_CASES: Final = text(
    f"""
    update "case" set {rows.assignments(tables.case, _CASE[1:])}, modified_at = now()
    from {rows.unnest(tables.case, _CASE)} where "case".reference = new.reference
    """  # noqa: S608 - column names of our own tables
)


def _case_row(case: CaseState) -> tuple[Any, ...]:
    memory = _json(_Memory(*_memory(case)))
    return (*_case_plain(case), case.state, *(case.last_log or (None, None, None)), memory)


def insert_timers(db: Connection, timers: Iterable[TimerState]) -> None:
    """Write timers that were started; their actors are locked."""
    db.execute(_INSERT_TIMERS, rows.transposed(_TIMER, map(_timer_row, timers)))


_INSERT_TIMERS: Final = text(
    f"insert into timer ({rows.names(_TIMER)}) select * from {rows.unnest(tables.timer, _TIMER)}"  # noqa: S608 - ours
)


def update_timers(db: Connection, timers: Iterable[TimerState]) -> None:
    """Write changed timers over those that `running_timers` gave."""
    db.execute(_UPDATE_TIMERS, rows.transposed(_TIMER, map(_timer_row, timers)))


_UPDATE_TIMERS: Final = text(
    f"""
    update timer set {rows.assignments(tables.timer, _TIMER[1:])}
    from {rows.unnest(tables.timer, _TIMER)} where timer.id = new.id
    """  # noqa: S608 - column names of our own tables
)


def _timer_row(timer: TimerState) -> tuple[Any, ...]:
    return (timer.id, timer.actor, timer.started_at, timer.stopped_at, timer.cancelled, timer.case)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
