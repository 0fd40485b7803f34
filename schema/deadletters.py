"""Dead letters: what could not be recorded, with its bytes, a reason and a remedy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import Connection, text

from schema import rows, tables

REASONS: Final = (
    "malformed", "unknown_event", "unknown_code", "code_not_resolved", "role_not_allowed", "unknown_case",
    "time_in_future", "rejected", "failed",
)  # fmt: skip


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event set aside. `raw` is its bytes as sent; identity as far as it could be read."""

    reason: str
    message: str
    raw: bytes
    source: str | None = None
    event_id: str | None = None
    key: str | None = None
    case_reference: str | None = None
    attempts: int = 1
    received_at: datetime | None = None
    id: int | None = None


_COLUMNS: Final = (
    "reason", "message", "source", "event_id", "key", "case_reference", "attempts", "raw", "fingerprint",
)  # fmt: skip


def set_aside(db: Connection, letters: Sequence[DeadLetter]) -> None:
    """Write dead letters. The same bytes again, redelivered, add no row."""
    values = sorted(
        (
            (e.reason, e.message, e.source, e.event_id, e.key, e.case_reference, e.attempts, e.raw,
             hashlib.sha256(e.raw).digest())
            for e in letters
        ),
        key=lambda row: row[-1],
    )  # fmt: skip
    db.execute(_SET_ASIDE, rows.transposed(_COLUMNS, values))


_SET_ASIDE: Final = text(
    f"""
    insert into dead_letter ({rows.names(_COLUMNS)})
    select {rows.selected(tables.dead_letter, _COLUMNS)}
    from {rows.unnest(tables.dead_letter, _COLUMNS)}
    on conflict (fingerprint) do nothing
    """  # noqa: S608 - column names of our own tables
)

_SELECTED: Final = "id, reason, message, source, event_id, key, case_reference, received_at, attempts, raw"


def get_dead_letter(db: Connection, letter_id: int) -> DeadLetter | None:
    """One dead letter by its id."""
    row = db.execute(
        text(f"select {_SELECTED} from dead_letter where id = :id"),  # noqa: S608 - column names of our own tables
        {"id": letter_id},
    ).one_or_none()
    return None if row is None else DeadLetter(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name


def list_dead_letters(
    db: Connection,
    *,
    reason: str | None = None,
    key: str | None = None,
    case_reference: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> Iterator[DeadLetter]:
    """Dead letters that match every filter given, oldest first, streamed."""
    found = db.execute(
        text(
            f"""
            select {_SELECTED} from dead_letter
            where (cast(:reason as text) is null or reason = :reason)
              and (cast(:key as text) is null or key = :key)
              and (cast(:case as text) is null or case_reference = :case)
              and (cast(:since as timestamptz) is null or received_at >= :since)
            order by id limit :limit
            """  # noqa: S608 - column names of our own tables
        ).execution_options(stream_results=True, max_row_buffer=500),
        {"reason": reason, "key": key, "case": case_reference, "since": since, "limit": limit},
    )
    return (DeadLetter(**row) for row in found.mappings())


def newest_age_s(db: Connection) -> float | None:
    """Seconds since the newest dead letter was received, by the database's clock; None where there is none."""
    age_s: float | None = db.execute(
        text("select extract(epoch from clock_timestamp() - max(received_at))::float8 from dead_letter")
    ).scalar_one()
    return age_s


def count_by_reason(db: Connection) -> dict[str, int]:
    """How many dead letters there are now, by reason; reasons without any are left out."""
    found = db.execute(text("select reason, count(*) from dead_letter group by reason"))
    return {row.reason: row[1] for row in found}
