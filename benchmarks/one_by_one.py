"""The usual way: an event is a job, and a job is a transaction. What the contenders' actor and task do.

Written as one would without batches: Core statements, prepared by the driver as they repeat; the case's row locked,
its rules applied, the log appended, the timer stopped, one report row upserted, commit. It leaves out what caselog does
besides (late events folded anew, parked events, twelve more reports), so it has less to do.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, func, insert, make_url, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from caselog.events.errors import EventError
from caselog.events.folding.fold import TimerFold, fold_case, make_log
from caselog.events.folding.resolve import Rules, Screened, resolve, screen
from caselog.events.model.message import Event, decode
from caselog.events.model.registry import event_registry
from caselog.events.model.state import CaseState, Log, TimerState
from caselog.schema.recording import store
from caselog.schema.sql.tables import case as cases
from caselog.schema.sql.tables import dead_letter, report_sum
from caselog.schema.sql.tables import log as logs
from caselog.schema.sql.tables import timer as timers

_CASE = select(*(cases.c[name] for name in store._CASE)).with_for_update()  # noqa: SLF001 - the row as the fold reads it


class NotYet(Exception):
    """The case of an event is not there: a job that overtook the one that creates it."""


class OneByOne:
    """Records one event a call, in one transaction; thread-safe."""

    def __init__(self, database_url: str, rules: Rules, *, connections: int) -> None:
        url = make_url(database_url).set(drivername="postgresql+psycopg")
        # Plain: what the driver prepares may keep its plan, which suits look-ups by one key.
        self._engine: Engine = create_engine(
            url, pool_size=connections, max_overflow=0, json_serializer=msgspec.json.encode
        )
        self._rules = rules

    def record(self, raw: bytes) -> None:
        """Raises `NotYet`, for the job queue's own retries."""
        event = decode(raw).events[0]
        assert isinstance(event, Event)
        try:
            screened = screen(0, event, event_registry, datetime.now(UTC) + self._rules.future_tolerance)
            with self._engine.begin() as db:
                self._record(db, screened)
        except EventError as error:
            with self._engine.begin() as db:
                db.execute(insert(dead_letter).values(_dead(event, raw, error)))

    def close(self) -> None:
        self._engine.dispose()

    def _record(self, db: Connection, screened: Screened) -> None:
        case, is_new = None, False
        if screened.case is not None:
            stored = db.execute(_CASE.where(cases.c.reference == screened.case)).one_or_none()
            is_new = stored is None
            if is_new and not screened.creates_case:
                raise NotYet(screened.case)
            case = CaseState(reference=screened.case) if stored is None else store._case(stored)  # noqa: SLF001
        code = screened.code or resolve(screened.event, screened.registered, event_registry, case)
        actor = screened.event.data.actor
        log_id, *found = db.execute(_ID_AND_TIMER, {"actor": None if actor is None else actor.id}).one()
        running = None if found[0] is None else TimerState(**dict(zip(_TIMER, found, strict=True)))
        log = make_log(screened, code, log_id)
        fold = TimerFold({} if running is None else {running.actor: running})
        log.timer_id = fold.covering(log, code)
        if case is not None:
            fold_case(case, log, code, screened.registered, self._rules)
        ended = fold.fold(log, code)
        if db.execute(_INSERT_LOG, _log_row(log)).rowcount == 0:
            return  # it is recorded already
        for timer in fold.changed.values():
            is_started = timer.id in fold.started
            row = dict(zip(store.TIMER_COLUMNS, store._timer_row(timer), strict=True))  # noqa: SLF001
            db.execute(_START_TIMER if is_started else update(timers).where(timers.c.id == timer.id), row)
        if case is not None:
            if ended is not None and not ended.cancelled:
                case.billable_time += ended.seconds or 0
            values = dict(zip(store._CASE, store._case_row(case), strict=True))  # noqa: SLF001
            if is_new:
                db.execute(insert(cases), values)
            else:
                db.execute(update(cases).where(cases.c.reference == case.reference), values)
            if log.type == "outcome" and not log.suppressed:
                db.execute(_REPORT, self._report_row(log))  # the hot row last, so that it is held the shortest

    def _report_row(self, log: Log) -> dict[str, Any]:
        day = log.occurred_at.astimezone(self._rules.zone).date()
        return {
            "report": "outcomes", "day": day, "key": log.key, "code": log.code, "category": log.category,
            "provider": log.provider, "organisation": log.organisation, "source": log.case_source,
            "n1": 1, "n2": 0, "n3": 0,
        }  # fmt: skip


_TIMER = ("id", "actor", "started_at", "case")
_ID_AND_TIMER = text(
    """
    select nextval('log_id_2_seq'), running.* from (select) as one left join (
        select id, actor, started_at, case_reference from timer where actor = :actor and stopped_at is null for update
    ) as running on true
    """
)
# An operator has one timer that runs. A start that comes after a later one, or beside one, finds it taken: else the job
# would be retried for as long as that timer runs.
_START_TIMER = upsert(timers).on_conflict_do_nothing()
_INSERT_LOG = upsert(logs).on_conflict_do_nothing(index_elements=["source", "event_id"])
_REPORT = upsert(report_sum)
_REPORT = _REPORT.on_conflict_do_update(
    constraint="report_sum_row_key", set_={"n1": report_sum.c.n1 + _REPORT.excluded.n1}
)


def _log_row(log: Log) -> dict[str, Any]:
    return dict(zip(store.LOG_COLUMNS, store._log_values(log), strict=True))  # noqa: SLF001


def _dead(event: Event, raw: bytes, error: EventError) -> dict[str, Any]:
    return {
        "reason": error.reason, "message": str(error), "source": event.source, "event_id": event.id,
        "key": event.type, "case_reference": event.subject, "attempts": 1, "raw": raw,
        "fingerprint": func.sha256(raw),
    }  # fmt: skip
