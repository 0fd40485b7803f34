"""Reports exported in the background: what was asked, how far it is, and whose turn it is to work on it.

The rows are the truth, and a message to a worker is only a wake-up. What runs belongs to a *holder*, who renews
its hold every second or so; where the hold has run out its worker has died, and the next one begins it anew. Whoever
publishes a file does so while it holds the row's lock (`finishing`), so that a worker that was only slow, and was taken
for dead, publishes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, text

from caselog.events.errors import CaselogError
from caselog.schema.operations import audit
from caselog.schema.reports.catalogue import get_report
from caselog.schema.reports.reading import By, Reading

Status: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "deleted", "expired"]
# Renewed every second: ten missed renewals are a dead worker, not a busy one.
HELD_S: Final = 10
# An export that kills its worker (memory, say) must not do so for ever.
ATTEMPTS: Final = 5
# A file that cannot be removed now is tried again after so long.
REMOVED_AGAIN_S: Final = 600
TIDIED: Final = 100
UPKEEP: Final = "upkeep"


class NoExport(CaselogError):
    """There is no such export, or nothing of it to delete."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of a report, as it is kept: a retry at another moment gives the same answer."""

    first: date
    last: date
    by: By | None = None
    where: dict[str, str | None] = msgspec.field(default_factory=dict)
    now: datetime
    zone: str


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One export. Times by the database's clock; `rows` are those written so far, `bytes` is known once it is done."""

    id: int
    report: str
    parameters: Parameters
    format: str
    target: str
    who: str
    status: Status
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    rows: int
    bytes: int | None
    failure: str | None
    attempts: int
    holder: str | None

    @property
    def file_name(self) -> str:
        """`<report>_<from>_<to>_<id>.<ext>`: letters, digits, `_`, `-` and `.` only."""
        asked = self.parameters
        return f"{self.report}_{asked.first}_{asked.last}_{self.id}.{self.format}"

    @property
    def is_over(self) -> bool:
        return self.status not in ("queued", "running")

    @property
    def reading(self) -> Reading:
        """What to read. Raises `UnknownReport` or `BadRequest` where this version of caselog has no such report."""
        asked = self.parameters
        return Reading(
            report=get_report(self.report),
            first=asked.first,
            last=asked.last,
            by=asked.by,
            where=asked.where,
            now=asked.now,
            zone=ZoneInfo(asked.zone),
        )


_COLUMNS: Final = ", ".join(Export.__struct_fields__)


def request(db: Connection, reading: Reading, *, form: str, target: str, who: str) -> Export:
    """Queue an export in the caller's transaction. `target` is a directory or URL without credentials."""
    asked = Parameters(
        first=reading.first,
        last=reading.last,
        by=reading.by,
        where=dict(reading.where),
        now=reading.now,
        zone=reading.zone.key,
    )
    return _one(
        db,
        f"""
        insert into report_export (report, parameters, format, target, who, status)
        values (:report, cast(:parameters as jsonb), :form, :target, :who, 'queued') returning {_COLUMNS}
        """,  # noqa: S608 - column names
        report=reading.report.name,
        parameters=msgspec.json.encode(asked).decode(),
        form=form,
        target=target,
        who=who,
    )


def list_exports(db: Connection, *, limit: int) -> list[Export]:
    """The newest exports, newest first."""
    return _many(db, f"select {_COLUMNS} from report_export order by id desc limit :limit", limit=limit)  # noqa: S608


def get_export(db: Connection, export_id: int) -> Export:
    """Raises `NoExport`."""
    found = _many(db, f"select {_COLUMNS} from report_export where id = :id", id=export_id)  # noqa: S608
    if not found:
        raise NoExport(f"there is no export {export_id}. See: caselog exports list")
    return found[0]


def claim(db: Connection) -> Export | None:
    """Begin the oldest export that waits, or whose worker has died; None where there is none. Does not block.

    It is the holder's until `held_until`; `holder` is a name that was never used before.
    """
    found = _many(
        db,
        f"""
        update report_export
        set status = 'running', holder = :holder, held_until = clock_timestamp() + make_interval(secs => :held_s),
            attempts = attempts + 1, started_at = coalesce(started_at, clock_timestamp()), rows = 0
        where id = (
            select id from report_export
            where removed_at is null and (status = 'queued' or (status = 'running' and held_until < clock_timestamp()))
            order by id limit 1 for update skip locked
        )
        returning {_COLUMNS}
        """,  # noqa: S608 - column names
        holder=secrets.token_hex(8),
        held_s=HELD_S,
    )
    return found[0] if found else None


def renew(db: Connection, export: Export, rows: int) -> bool:
    """Say how many rows are done, and hold it on. False where it is the holder's no more: cancelled, or taken over."""
    return _held(
        db,
        "rows = :rows, held_until = clock_timestamp() + make_interval(secs => :held_s)",
        export,
        rows=rows,
        held_s=HELD_S,
    )


def finishing(db: Connection, export: Export) -> bool:
    """Lock the row until the transaction ends; False where it is the holder's no more. Then publish, and `finish`."""
    found = db.execute(
        text("select 1 from report_export where id = :id and holder = :holder and status = 'running' for update"),
        {"id": export.id, "holder": export.holder},
    )
    return found.first() is not None


def finish(db: Connection, export: Export, *, rows: int, size: int) -> None:
    """Its file is published, of so many bytes."""
    _held(
        db,
        "status = 'done', rows = :rows, bytes = :size, finished_at = clock_timestamp(), holder = null, "
        "held_until = null",
        export,
        rows=rows,
        size=size,
    )


def fail(db: Connection, export: Export, failure: str, *, rows: int) -> None:
    """It cannot be done; `failure` is one line that names the remedy."""
    _held(
        db,
        "status = 'failed', rows = :rows, failure = :failure, finished_at = clock_timestamp(), holder = null, "
        "held_until = null",
        export,
        rows=rows,
        failure=failure,
    )


def release(db: Connection, export: Export) -> None:
    """Queue it again for another worker, as if this one had not begun it."""
    _held(db, "status = 'queued', rows = 0, attempts = attempts - 1, holder = null, held_until = null", export)


def delete(db: Connection, export_id: int, *, who: str, why: str | None) -> Export:
    """Cancel an export, or delete one that is over; the audit says so in the same transaction.

    What there is of its file is removed by a tasks worker: see `claim_removals`. One that failed or was cancelled may
    have left nothing; it is marked all the same, and keeps the reason. Raises `NoExport` where there is none, and for
    one that is deleted or expired already.
    """
    found = _many(
        db,
        f"""
        update report_export
        set status = case when status in ('queued', 'running') then 'cancelled' else 'deleted' end, holder = null,
            finished_at = coalesce(finished_at, clock_timestamp())
        where id = :id and status not in ('deleted', 'expired') returning {_COLUMNS}
        """,  # noqa: S608 - column names
        id=export_id,
    )
    if not found:
        raise NoExport(
            f"export {export_id} is {get_export(db, export_id).status} already: nothing of it is left to delete"
        )
    action = "export.delete" if found[0].status == "deleted" else "export.cancel"
    audit.record(db, who=who, action=action, why=why, detail=_said(found[0]))
    return found[0]


def expire(db: Connection, retention_days: int) -> int:
    """Mark what was done longer ago as expired, each with an entry in the audit. Returns how many. 0 days: none."""
    if not retention_days:
        return 0
    found = _many(
        db,
        f"""
        update report_export set status = 'expired'
        where id in (
            select id from report_export
            where removed_at is null and status = 'done'
              and finished_at < clock_timestamp() - make_interval(days => :days)
            order by id limit :limit for update skip locked
        )
        returning {_COLUMNS}
        """,  # noqa: S608 - column names
        days=retention_days,
        limit=TIDIED,
    )
    for export in found:
        why = f"older than CASELOG_EXPORT_RETENTION_DAYS={retention_days}"
        audit.record(db, who=UPKEEP, action="export.expire", why=why, detail=_said(export))
    return len(found)


def give_up(db: Connection) -> list[Export]:
    """Fail what has ended its worker too often. Returns them."""
    return _many(
        db,
        f"""
        update report_export
        set status = 'failed', holder = null, finished_at = clock_timestamp(),
            failure = 'its worker ended without a word ' || attempts || ' times: give the tasks worker more memory, '
                      'or ask for fewer days'
        where id in (
            select id from report_export
            where removed_at is null and status = 'running' and held_until < clock_timestamp()
              and attempts >= :attempts
            for update skip locked
        )
        returning {_COLUMNS}
        """,  # noqa: S608 - column names
        attempts=ATTEMPTS,
    )


def claim_removals(db: Connection) -> list[Export]:
    """Exports whose file is to be removed, if they have one: for `REMOVED_AGAIN_S` nobody else is given them."""
    return _many(
        db,
        f"""
        update report_export set held_until = clock_timestamp() + make_interval(secs => :again_s)
        where id in (
            select id from report_export
            where removed_at is null and status in ('failed', 'cancelled', 'deleted', 'expired')
              and (held_until is null or held_until < clock_timestamp())
            order by id limit :limit for update skip locked
        )
        returning {_COLUMNS}
        """,  # noqa: S608 - column names
        again_s=REMOVED_AGAIN_S,
        limit=TIDIED,
    )


def removed(db: Connection, export_id: int) -> None:
    """Nothing of it is left at its target."""
    db.execute(
        text("update report_export set removed_at = clock_timestamp(), held_until = null where id = :id"),
        {"id": export_id},
    )


def not_removed(db: Connection, export_id: int, failure: str) -> None:
    """Its file could not be removed; that is tried again. A reason for its own failure stands."""
    db.execute(
        text("update report_export set failure = :failure where id = :id and status <> 'failed'"),
        {"id": export_id, "failure": failure},
    )


def _held(db: Connection, change: str, export: Export, **values: Any) -> bool:
    """Change the row if it is still the holder's. Returns whether it was."""
    done = db.execute(
        text(f"update report_export set {change} where id = :id and holder = :holder and status = 'running'"),  # noqa: S608 - texts above
        {"id": export.id, "holder": export.holder, **values},
    )
    return done.rowcount == 1


def _said(export: Export) -> dict[str, Any]:
    return {"export": export.id, "report": export.report, "file": export.file_name, "target": export.target}


def _one(db: Connection, statement: str, **values: Any) -> Export:
    [found] = _many(db, statement, **values)
    return found


def _many(db: Connection, statement: str, **values: Any) -> list[Export]:
    rows: Sequence[Any] = db.execute(text(statement), values).mappings().all()
    return [
        Export(**{**row, "parameters": msgspec.convert(row["parameters"], Parameters)})  # the moments are text in JSON
        for row in rows
    ]
