"""Events that wait for their case: parked, tried again with growing delay, given up in the end (docs/rules.md §1.4)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.sql import arrays, tables
from caselog.schema.sql.statement import Statement

FIRST_DELAY_S: Final = 1
LONGEST_DELAY_S: Final = 3600


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """An event whose case is not there yet. `raw` is its bytes as sent; `id` is what people call it by.

    `due_at` changes whenever it is tried or made due: who read another one than stands there read it too early.
    """

    source: str
    event_id: str
    key: str
    case_reference: str
    raw: bytes
    attempts: int = 0
    parked_at: datetime | None = None
    age_s: float = 0
    due_at: datetime | None = None
    id: int | None = None


_COLUMNS: Final = ("source", "event_id", "key", "case_reference", "raw")


def park(db: Connection, events: Sequence[Parked]) -> dict[tuple[str, str], bytes | None]:
    """Park events for the first time; one that is parked already stays as it is.

    Returns the bytes of those that were, by (source, event_id): whether the new one says the same is for others to
    say. None for one that somebody unparked meanwhile: roll back and look again.
    """
    values = sorted((e.source, e.event_id, e.key, e.case_reference, e.raw) for e in events)
    parked = _PARK.rows(db, **arrays.transposed(_COLUMNS, values), delay=FIRST_DELAY_S)
    if len(parked) == len(values):
        return {}
    names = {row[:2] for row in values} - {tuple(row) for row in parked}
    found = db.execute(_PARKED_ALREADY, _identities(names))
    return dict.fromkeys(names) | {(row.source, row.event_id): row.raw for row in found}


_PARK: Final = Statement(
    f"""
    insert into parked ({arrays.names(_COLUMNS)}, attempts, due_at)
    select {arrays.names(_COLUMNS)}, 1, now() + make_interval(secs => %(delay)s)
    from {arrays.unnest(tables.parked, _COLUMNS)}
    on conflict (source, event_id) do nothing returning source, event_id
    """  # noqa: S608 - column names of our own tables
)
_PARKED_ALREADY: Final = text(
    """
    select parked.source, parked.event_id, parked.raw
    from unnest(cast(:sources as text[]), cast(:ids as text[])) as other(source, event_id)
    join parked on parked.source = other.source and parked.event_id = other.event_id
    """
)


def put_off(db: Connection, events: Collection[tuple[str, str]]) -> None:
    """Try parked events, by (source, event_id), again later: the delay doubles with each attempt, up to an hour."""
    db.execute(
        text(
            """
            update parked set attempts = attempts + 1,
                   due_at = now() + make_interval(secs => least(:longest, :first * power(2, least(attempts, 30))))
            from unnest(cast(:sources as text[]), cast(:ids as text[])) as again(source, event_id)
            where parked.source = again.source and parked.event_id = again.event_id
            """
        ),
        {**_identities(events), "first": FIRST_DELAY_S, "longest": LONGEST_DELAY_S},
    )


def make_due(db: Connection, references: Collection[str]) -> int:
    """The events parked for these cases are due now, since the cases are there. Returns how many."""
    return _HASTEN.run(db, references=list(references))


_HASTEN: Final = Statement("update parked set due_at = now() where case_reference = any(%(references)s)")


def due(db: Connection, limit: int) -> list[Parked]:
    """Parked events that are due, longest due first. Not locked: `claim` tells later which nobody else took.

    An event that was being parked while its case was created missed `make_due`; its first delay is a second.
    """
    found = db.execute(
        text(
            """
            select source, event_id, key, case_reference, raw, attempts, parked_at,
                   extract(epoch from now() - parked_at)::float8 as age_s, due_at, arrival as id
            from parked where due_at <= now() order by due_at limit :limit
            """
        ),
        {"limit": limit},
    )
    return [Parked(**row) for row in found.mappings()]


def claim(db: Connection, events: Collection[Parked]) -> set[tuple[str, str]]:
    """Of these parked events, by (source, event_id), those that are as they were read and that nobody else has now.

    They are this transaction's until it ends. Does not block. To be called once the locks of cases and actors are
    held: who creates a case holds those when it makes due the events parked for it, and would wait for us as we for it.
    One that was made due since it was read is not ours, and is due: its case may have come after we looked for it.
    """
    found = db.execute(
        _CLAIM,
        {
            **_identities([(event.source, event.event_id) for event in events]),
            "dues": [event.due_at for event in events],
        },
    )
    return {(row.source, row.event_id) for row in found}


_CLAIM: Final = text(
    """
    select parked.source, parked.event_id from parked
    join unnest(cast(:sources as text[]), cast(:ids as text[]), cast(:dues as timestamptz[]))
         as tried(source, event_id, due_at)
      on tried.source = parked.source and tried.event_id = parked.event_id and tried.due_at = parked.due_at
    for update of parked skip locked
    """
)


def unpark(db: Connection, events: Collection[tuple[str, str]]) -> None:
    """Forget parked events by (source, event_id): they are recorded or dead letters now."""
    db.execute(
        text(
            """
            delete from parked using unnest(cast(:sources as text[]), cast(:ids as text[])) as done(source, event_id)
            where parked.source = done.source and parked.event_id = done.event_id
            """
        ),
        _identities(events),
    )


class ParkedCount(msgspec.Struct, frozen=True):
    """`waiting` for a case that does not exist; `ready`: the case is there, they are tried again within a second."""

    waiting: int
    ready: int
    oldest_age_s: float | None


def count_parked(db: Connection) -> ParkedCount:
    row = db.execute(
        text(
            """
            select count(*) filter (where "case".reference is null), count("case".reference),
                   extract(epoch from now() - min(parked_at))::float8
            from parked left join "case" on "case".reference = parked.case_reference
            """
        )
    ).one()
    return ParkedCount(*row)


def count_arrivals(db: Connection) -> int:
    """How many events were ever parked: two looks give the rate. Redeliveries and what was rolled back count, too."""
    last: int | None = db.execute(
        text("select pg_sequence_last_value(pg_get_serial_sequence('parked', 'arrival'))")
    ).scalar_one()
    return last or 0


def _identities(events: Collection[tuple[str, str]]) -> dict[str, list[str]]:
    return {"sources": [source for source, _ in events], "ids": [event_id for _, event_id in events]}
