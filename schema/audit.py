"""The audit: who did what to the data or the workers by hand, when and why. No row is ever deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One action. `why` is None where no reason was given; `detail` is what the action says of itself."""

    id: int
    at: datetime
    who: str
    action: str
    why: str | None
    detail: dict[str, Any]


def record(db: Connection, *, who: str, action: str, why: str | None, detail: Mapping[str, Any]) -> int:
    """Write down an action in the caller's transaction, so that effect and audit stand or fall together.

    `action` is words with dots, the noun first ("dead.discard", "pause"). `detail` is a JSON object: ids, filters,
    how many, the outcome; never an event's contents. Returns the entry's id.
    """
    entry: int = db.execute(
        text(
            """
            insert into audit (who, action, why, detail)
            values (:who, :action, :why, cast(:detail as jsonb)) returning id
            """
        ),
        {
            "who": _storable(who),
            "action": action,
            "why": _storable(why),
            "detail": msgspec.json.encode(_storable(msgspec.to_builtins(detail))).decode(),
        },
    ).scalar_one()
    return entry


def count(db: Connection, entry: int, numbers: Mapping[str, int]) -> None:
    """Add numbers to those in an entry's detail, for an action of many transactions: what is committed is counted."""
    db.execute(
        text(
            """
            update audit set detail = detail || (
                select jsonb_object_agg(name, coalesce((detail ->> name)::bigint, 0) + number)
                from unnest(cast(:names as text[]), cast(:numbers as bigint[])) as added(name, number)
            ) where id = :entry
            """
        ),
        {"entry": entry, "names": list(numbers), "numbers": list(numbers.values())},
    )


def list_audit(
    db: Connection,
    *,
    action: str | None = None,
    who: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Iterator[AuditEntry]:
    """Entries that match every filter given, newest first, streamed.

    `action` also finds the actions under it: "dead" finds "dead.requeue" and "dead.discard". Both times are included.
    """
    found = db.execute(
        text(
            """
            select id, at, who, action, why, detail from audit
            where (cast(:action as text) is null or action = :action or starts_with(action, :action || '.'))
              and (cast(:who as text) is null or who = :who)
              and (cast(:since as timestamptz) is null or at >= :since)
              and (cast(:until as timestamptz) is null or at <= :until)
            order by id desc limit :limit
            """
        ).execution_options(stream_results=True, max_row_buffer=500),
        {"action": action, "who": who, "since": since, "until": until, "limit": limit},
    )
    return (AuditEntry(**row) for row in found.mappings())


def _storable(value: Any) -> Any:
    """Without the characters that PostgreSQL refuses: a command line may hold any bytes."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value
