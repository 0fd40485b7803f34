"""What the recorder reads and writes: one function a statement, each for a whole batch.

All of it happens in one transaction. Locks are taken in one order (actors, then existing cases, each sorted; then the
rows that are inserted, sorted), so recorders wait for each other and do not deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from caselog.events.model.state import CaseState, Log, TimerState
from caselog.schema.sql import arrays, tables
from caselog.schema.sql.copy import Copy
from caselog.schema.sql.statement import Statement

LOG_COLUMNS: Final = tuple("case_reference" if name == "case" else name for name in Log.__struct_fields__)
# The case's own columns, in the order of CaseState; then what the fold remembers.
_CASE_PLAIN: Final = tuple(c.name for c in tables.case.columns if c.name in CaseState.__struct_fields__)
_CASE: Final = (*_CASE_PLAIN, "state", "last_log_time", "last_log_source", "last_log_event_id", "memory")
_case_plain: Final = attrgetter(*_CASE_PLAIN)
TIMER_COLUMNS: Final = tuple(column.name for column in tables.timer.columns)


class _Memory(msgspec.Struct, omit_defaults=True):
    """The fold's memory of a case, as the column `memory` holds it."""

    last_outcome: str | None = None
    viewed_timers: tuple[int, ...] = ()
    call_started: bool = False
    open_complaints: tuple[str, ...] = ()
    called_back: bool = False
    callback_code: str | None = None


_MEMORY: Final = _Memory.__struct_fields__
_memory: Final = attrgetter(*_MEMORY)


# Any number that nothing else locks.
GATE: Final = 0x6361_7365_6761_74


def clock_and_ids(db: Connection, count: int) -> tuple[datetime, list[int]]:
    """The database's clock at the start of the transaction, and so many fresh log ids, ascending.

    The first that a batch does: it shares the gate until its transaction ends, and so waits while a rebuild swaps
    (schema/verification/rebuild.py). Ids that are not used, or whose transaction is rolled back, are lost.
    """
    ((now, ids),) = _CLOCK_AND_IDS.rows(db, count=count, gate=GATE)
    return now, ids


_CLOCK_AND_IDS: Final = Statement(
    """
    with gate as materialized (select pg_advisory_xact_lock_shared(%(gate)s))
    select now(), array(select nextval('log_id_2_seq') from generate_series(1, %(count)s)) from gate
    """
)


def close_gate(db: Connection) -> None:
    """Nobody else records until the transaction ends: to be called before all else in it.

    Blocks for two seconds at most, during which nobody begins a batch; then it raises, as a lock that is not to be had.
    """
    _CLOSE_GATE.run(db, gate=GATE)


_CLOSE_GATE: Final = Statement(
    "with waits as materialized (select set_config('lock_timeout', '2s', true)) "
    "select pg_advisory_xact_lock(%(gate)s) from waits"
)


def lock_actors(db: Connection, actors: Collection[str]) -> None:
    """Nobody else folds these actors' timers until the transaction ends. Blocks."""
    _LOCK_ACTORS.run(db, actors=list(actors))


_LOCK_ACTORS: Final = Statement(
    """
    select pg_advisory_xact_lock(hash) from (
        select distinct hashtextextended(actor, 0) as hash from unnest(%(actors)s::text[]) as actor order by hash
    ) as locks
    """
)


def lock_cases(db: Connection, references: Collection[str]) -> dict[str, CaseState]:
    """The cases that exist, as folded so far; nobody else changes them until the transaction ends. Blocks."""
    return {row[0]: _case(row) for row in _LOCK_CASES.rows(db, references=list(references))}


_LOCK_CASES: Final = Statement(
    f"""
    select {arrays.names(_CASE)} from "case"
    where reference = any(%(references)s) order by reference for update
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
    found = _RUNNING_TIMERS.rows(db, actors=list(actors))
    return {
        actor: TimerState(id=timer_id, actor=actor, started_at=started_at, case=case)
        for timer_id, actor, started_at, case in found
    }


_RUNNING_TIMERS: Final = Statement(
    "select id, actor, started_at, case_reference from timer where actor = any(%(actors)s) and stopped_at is null"
)


# What only another recorder can have written, since what a transaction read of it.
TAKEN: Final = ("log_source_event_id_key", "case_pkey")


@contextmanager
def inserting_logs(db: Connection, logs: Sequence[Log]) -> Iterator[None]:
    """Append to the log; within, PostgreSQL is at it, and the connection is not to be used.

    Raises `IntegrityError` for a constraint of `TAKEN` where one of the events stands in it already.
    """
    with _COPY_LOGS.inserting(db, map(_log_values, sorted(logs, key=_log_order))):
        yield


_log_order: Final = attrgetter("occurred_at", "source", "event_id")
_COPY_LOGS: Final = Copy(tables.log, LOG_COLUMNS)
_log_values: Final = attrgetter(*Log.__struct_fields__)


def recorded_events(db: Connection, events: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the (source, event_id) that the log holds already."""
    found = _RECORDED_EVENTS.rows(
        db, sources=[source for source, _ in events], ids=[event_id for _, event_id in events]
    )
    return {(source, event_id) for source, event_id in found}


_RECORDED_EVENTS: Final = Statement(
    """
    select log.source, log.event_id
    from unnest(%(sources)s::text[], %(ids)s::text[]) as event(source, event_id)
    join log on log.source = event.source and log.event_id = event.event_id
    """
)


def rewrite_logs(db: Connection, logs: Iterable[Log]) -> None:
    """Write what folding again gave for the derived columns of stored logs."""
    _REWRITE_LOGS.run(db, **_DERIVED_LOGS.bound(map(attrgetter(*_LOG_DERIVED), logs)))


_LOG_DERIVED: Final = (
    "id", "timer_id", "suppressed", "category", "provider", "organisation", "case_source", "case_created_at",
)  # fmt: skip
_DERIVED_LOGS: Final = arrays.Listed(tables.log, _LOG_DERIVED)
_REWRITE_LOGS: Final = Statement(
    f"update log set {arrays.assignments(_LOG_DERIVED[1:])} from {_DERIVED_LOGS.new} where log.id = new.id"  # noqa: S608 - our own columns
)


def delete_timers(db: Connection, ids: Collection[int]) -> None:
    """Delete timers that, as a late event tells, were never started."""
    _DELETE_TIMERS.run(db, ids=list(ids))


_DELETE_TIMERS: Final = Statement("delete from timer where id = any(%(ids)s)")


def insert_cases(db: Connection, cases: Iterable[CaseState]) -> None:
    """Write new cases. `IntegrityError` for a constraint of `TAKEN` where another recorder created one meanwhile."""
    _COPY_CASES.insert(db, map(_case_row, sorted(cases, key=attrgetter("reference"))))


_COPY_CASES: Final = Copy(tables.case, _CASE)


def update_cases(db: Connection, cases: Iterable[CaseState]) -> None:
    """Write changed cases over those that `lock_cases` gave."""
    _UPDATE_CASES.run(db, **_CASES.bound(map(_case_row, cases)))


_CASES: Final = arrays.Listed(tables.case, _CASE)
_UPDATE_CASES: Final = Statement(
    f"""
    update "case" set {arrays.assignments(_CASE[1:])}, modified_at = now()
    from {_CASES.new} where "case".reference = new.reference
    """  # noqa: S608 - column names of our own tables
)


def _case_row(case: CaseState) -> tuple[Any, ...]:
    return (*_case_plain(case), case.state, *(case.last_log or (None, None, None)), _Memory(*_memory(case)))


def insert_timers(db: Connection, timers: Iterable[TimerState]) -> None:
    """Write timers that were started; their actors are locked."""
    _COPY_TIMERS.insert(db, map(_timer_row, timers))


_COPY_TIMERS: Final = Copy(tables.timer, TIMER_COLUMNS)


def update_timers(db: Connection, timers: Iterable[TimerState]) -> None:
    """Write changed timers over those that `running_timers` gave."""
    _UPDATE_TIMERS.run(db, **_TIMERS.bound(map(_timer_row, timers)))


_TIMERS: Final = arrays.Listed(tables.timer, TIMER_COLUMNS)
_UPDATE_TIMERS: Final = Statement(
    f"update timer set {arrays.assignments(TIMER_COLUMNS[1:])} from {_TIMERS.new} where timer.id = new.id"  # noqa: S608 - our own columns
)


def _timer_row(timer: TimerState) -> tuple[Any, ...]:
    return (timer.id, timer.actor, timer.started_at, timer.stopped_at, timer.cancelled, timer.case)
