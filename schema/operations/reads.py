"""Reads in the audit: who looked at which case, list or report. Unlike what was done, they may be forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.operations import audit

ACTION: Final = "case.read"
FORGOTTEN_AT_ONCE: Final = 10_000


class Kept(msgspec.Struct, frozen=True):
    """A read. `id` tells it from any other; `detail` says what was read, with the filter and how many rows."""

    id: UUID
    at: datetime
    who: str
    detail: Mapping[str, Any]


def keep(db: Connection, reads: Sequence[Kept]) -> None:
    """Write these reads, in their order; those that are there already stay as they are."""
    if reads:
        db.execute(
            _KEEP,
            {
                "action": ACTION,
                "ids": [read.id for read in reads],
                "ats": [read.at for read in reads],
                "whos": [audit.storable(read.who) for read in reads],
                "details": [msgspec.json.encode(audit.storable(read.detail)).decode() for read in reads],
            },
        )


_KEEP: Final = text(
    """
    insert into audit (at, who, action, detail, read_id)
    select at, who, :action, detail, id from unnest(
        cast(:ids as uuid[]), cast(:ats as timestamptz[]), cast(:whos as text[]), cast(:details as jsonb[])
    ) with ordinality as read(id, at, who, detail, nth)
    order by nth
    on conflict (read_id) do nothing
    """
)


def count(db: Connection, rows: Mapping[UUID, int]) -> None:
    """Write how many rows reads had that were written before they were counted."""
    if rows:
        db.execute(
            text(
                """
                update audit set detail = detail || jsonb_build_object('rows', counted.n)
                from unnest(cast(:ids as uuid[]), cast(:rows as bigint[])) as counted(id, n)
                where audit.read_id = counted.id
                """
            ),
            {"ids": list(rows), "rows": list(rows.values())},
        )


def forget(db: Connection, days: int, *, who: str) -> int:
    """Delete reads older than so many days, the oldest first and not all at once; how many.

    What was done by hand stays for ever; that reads were forgotten, and how many, is done, too.
    """
    forgotten = db.execute(
        text(
            """
            delete from audit where id in (
                select id from audit where action = :action and at < now() - make_interval(days => :days)
                order by at limit :limit
            )
            """
        ),
        {"action": ACTION, "days": days, "limit": FORGOTTEN_AT_ONCE},
    ).rowcount
    if forgotten:
        detail = {"older_than_days": days, "forgotten": forgotten}
        audit.record(db, who=who, action="reads.expire", why=None, detail=detail)
    return forgotten
