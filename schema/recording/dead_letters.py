"""Dead letters: what could not be recorded, with its bytes, a reason and a remedy.

What recording does with them; what people do with them is in `schema/operations/dead_letter_queries.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.sql import arrays, tables
from caselog.schema.sql.statement import Statement


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event set aside. `raw` is its bytes as sent; identity and code given as far as they could be read.

    `fault` is told by the database: dead letters with the same fault have the same.
    """

    reason: str
    message: str
    raw: bytes
    source: str | None = None
    event_id: str | None = None
    key: str | None = None
    code: str | None = None
    case_reference: str | None = None
    attempts: int = 1
    received_at: datetime | None = None
    fault: str | None = None
    id: int | None = None


_TOLD: Final = ("reason", "message", "source", "event_id", "key", "code", "case_reference", "attempts")
_COLUMNS: Final = (*_TOLD, "raw", "fingerprint")
_AGAIN: Final = ("id", *_TOLD)


def fingerprint(raw: bytes) -> bytes:
    """What a dead letter is known by: one row a fingerprint."""
    return hashlib.sha256(raw).digest()


def set_aside(db: Connection, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Write dead letters. The same bytes again, redelivered, add no row. Gives back those that were added."""
    values = sorted(
        ((*(getattr(e, name) for name in _TOLD), e.raw, fingerprint(e.raw)) for e in letters),
        key=lambda row: row[-1],
    )
    added = {print_ for (print_,) in _SET_ASIDE.rows(db, **arrays.transposed(_COLUMNS, values))}
    # Of the same bytes twice in one batch, one was added.
    return list({print_: e for e in letters if (print_ := fingerprint(e.raw)) in added}.values())


_SET_ASIDE: Final = Statement(
    f"""
    insert into dead_letter ({arrays.names(_COLUMNS)})
    select {arrays.names(_COLUMNS)}
    from {arrays.unnest(tables.dead_letter, _COLUMNS)}
    on conflict (fingerprint) do nothing returning fingerprint
    """  # noqa: S608 - column names of our own tables
)


def claim(db: Connection, letters: Iterable[DeadLetter]) -> set[int]:
    """Of these dead letters, by id, those that are as they were read and that nobody else claims now.

    They are this transaction's until it ends. Does not block.
    """
    tried = {letter.id: letter.attempts for letter in letters}
    found = db.execute(
        text(
            """
            select dead_letter.id from dead_letter
            join unnest(cast(:ids as bigint[]), cast(:attempts as int[])) as tried(id, attempts)
              on tried.id = dead_letter.id and tried.attempts = dead_letter.attempts
            for update of dead_letter skip locked
            """
        ),
        {"ids": list(tried), "attempts": list(tried.values())},
    )
    return set(found.scalars())


def remove(db: Connection, ids: Collection[int]) -> None:
    """Delete dead letters that are recorded or parked in this transaction; they are claimed before."""
    db.execute(text("delete from dead_letter where id = any(:ids)"), {"ids": list(ids)})


def fail_again(db: Connection, letters: Iterable[DeadLetter]) -> None:
    """Write what is wrong with dead letters now, and how often they were tried; they are claimed before."""
    values = [tuple(getattr(letter, name) for name in _AGAIN) for letter in letters]
    _FAIL_AGAIN.run(db, **arrays.transposed(_AGAIN, values))


_FAIL_AGAIN: Final = Statement(
    f"""
    update dead_letter set {arrays.assignments(_TOLD)}
    from {arrays.unnest(tables.dead_letter, _AGAIN)} where dead_letter.id = new.id
    """  # noqa: S608 - column names of our own tables
)


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
