"""The audit: who did what to the data or the workers by hand, when and why; and who read (`reads.py`).

No row of what was done is ever deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.events import phrases

# So that an entry stays small, however many cases its action is about: its numbers are written again and again.
CASES: Final = 250


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
            "who": storable(who),
            "action": action,
            "why": storable(why),
            "detail": msgspec.json.encode(storable(msgspec.to_builtins(detail))).decode(),
        },
    ).scalar_one()
    return entry


def record_naming(
    db: Connection, *, who: str, action: str, why: str | None, detail: Mapping[str, Any], cases: Iterable[str | None]
) -> int:
    """As `record`, with the cases that the action is about, so that it is found by each.

    What is more than `CASES` is in further entries of the action, which say of which one they are a part.
    """
    named = sorted({case for case in cases if case})
    first = {"cases": named[:CASES]} if named else {}
    entry = record(db, who=who, action=action, why=why, detail={**detail, **first})
    for start in range(CASES, len(named), CASES):
        part = {"part_of": entry, "cases": named[start : start + CASES]}
        record(db, who=who, action=action, why=why, detail=part)
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
    but: str | None = None,
    who: str | None = None,
    case: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Iterator[AuditEntry]:
    """Entries that match every filter given, newest first, streamed.

    `action` also finds the actions under it: "dead" finds "dead.requeue" and "dead.discard"; `but` leaves one out.
    `case` finds what names that case: that it was read or shown in a short list, asked for, or that an event or a dead
    letter of it was tried again, looked at or discarded. Both times are included.
    """
    named: list[dict[str, Any]] = [
        {"case": case},
        {"cases": [case]},
        {"filter": {"case": case}},
        {"filter": {"reference": case}},
        {"events": [{"case_reference": case}]},
        {"letters": [{"case_reference": case}]},
    ]
    names = None if case is None else [msgspec.json.encode(storable(one)).decode() for one in named]
    found = db.execute(
        text(
            """
            select id, at, who, action, why, detail from audit
            where (cast(:action as text) is null or action = :action or starts_with(action, :action || '.'))
              and (cast(:but as text) is null or action <> :but)
              and (cast(:who as text) is null or who = :who)
              and (cast(:names as jsonb[]) is null or detail @> any(cast(:names as jsonb[])))
              and (cast(:since as timestamptz) is null or at >= :since)
              and (cast(:until as timestamptz) is null or at <= :until)
            order by at desc, id desc limit :limit
            """
        ).execution_options(stream_results=True, max_row_buffer=500),
        {"action": action, "but": but, "who": who, "names": names, "since": since, "until": until, "limit": limit},
    )
    return (AuditEntry(**row) for row in found.mappings())


def storable(value: Any) -> Any:
    """The value without the characters that PostgreSQL refuses: a command line may hold any bytes."""
    if isinstance(value, str):
        return phrases.storable(value)
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value
