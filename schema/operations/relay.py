"""What `caselog relay` reads and writes in an upstream app's outbox, which may lie in another database than caselog's.

One relay at a time holds the lead of an outbox, by a lock of its session. So no row is locked and no transaction is
open while the broker is waited for. What is published is deleted, never passed by: a row of a slow transaction may be
committed after rows with greater ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, bindparam, delete, func, select, text, update

LEAD: Final = "caselog relay of "


class OutboxStatus(msgspec.Struct, frozen=True):
    """Rows that wait, the age of the oldest, and rows that are no valid events with what is wrong, the first 20."""

    waiting: int
    oldest_age_s: float | None
    refused: int
    messages: list[tuple[int, str]]


def exists(db: Connection, table: Table) -> bool:
    return bool(db.execute(select(func.to_regclass(_name(table)).is_not(None))).scalar_one())


def take_lead(db: Connection, table: Table) -> bool:
    """True where this session now leads the outbox, until it ends; False where another does. Does not block.

    Not to be taken twice by one session.
    """
    lock = text(
        "select pg_try_advisory_lock(hashtextextended(cast(:lead as text) || cast(to_regclass(:name) as oid), 0))"
    )
    return bool(db.execute(lock, {"lead": LEAD, "name": _name(table)}).scalar_one())


def is_read_only(db: Connection) -> bool:
    """Whether this session could not delete what is published, as after a failover."""
    return bool(db.execute(text("select current_setting('transaction_read_only') = 'on'")).scalar_one())


def waiting(db: Connection, table: Table, limit: int) -> Sequence[tuple[int, str]]:
    """The first rows to publish, as (id, event), in order."""
    rows = select(table.c.id, table.c.event).where(table.c.refused.is_(None)).order_by(table.c.id).limit(limit)
    return [(row.id, row.event) for row in db.execute(rows)]


def forget(db: Connection, table: Table, ids: Collection[int]) -> None:
    """Delete what the broker has."""
    db.execute(delete(table).where(table.c.id == func.any(bindparam("ids", list(ids)))))


def refuse(db: Connection, table: Table, faults: Mapping[int, str]) -> None:
    """Set rows aside that are no valid events, by id, with what is wrong."""
    one = update(table).where(table.c.id == bindparam("row")).values(refused=bindparam("fault"))
    db.execute(one, [{"row": row, "fault": fault} for row, fault in faults.items()])


def status(db: Connection, table: Table) -> OutboxStatus:
    is_waiting = table.c.refused.is_(None)
    counts = db.execute(
        select(
            func.count().filter(is_waiting),
            func.extract("epoch", func.now() - func.min(table.c.added_at).filter(is_waiting)),
            func.count(table.c.refused),
        ).select_from(table)
    ).one()
    refused = select(table.c.id, table.c.refused).where(~is_waiting).order_by(table.c.id).limit(20)
    messages = [(row.id, row.refused) for row in db.execute(refused)]
    oldest_age_s: Any = counts[1]  # a Decimal
    return OutboxStatus(counts[0], None if oldest_age_s is None else float(oldest_age_s), counts[2], messages)


def _name(table: Table) -> str:
    """As PostgreSQL reads it, quoted where it must be."""
    parts = filter(None, (table.schema, table.name))
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
