"""The facts of cases, as the reports keep them: written by the aggregator, read by reports and by `verify`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, text

from events.facts import Assignment, Callback, Complaint, Facts
from schema import rows, tables
from schema.copying import Copy

# Any number that nothing else locks.
_LOCKS: Final = 0x6661_6374
KINDS: Final[Mapping[str, tuple[Table, type[msgspec.Struct]]]] = {
    "callback": (tables.callback, Callback),
    "complaint": (tables.complaint, Complaint),
    "assignment": (tables.assignment, Assignment),
}
_KIND_FIELD: Final = {"callback": "callbacks", "complaint": "complaints", "assignment": "assignments"}
_row: Final = {name: attrgetter(*kind.__struct_fields__) for name, (_, kind) in KINDS.items()}


def columns(kind: str) -> tuple[str, ...]:
    """The columns of a kind of fact; the first is the id of its log."""
    fields: tuple[str, ...] = KINDS[kind][1].__struct_fields__
    return fields


def rows_of(facts: Facts, kind: str) -> list[tuple[Any, ...]]:
    """The facts of this kind as rows of its `columns`."""
    return [_row[kind](fact) for fact in getattr(facts, _KIND_FIELD[kind])]


def lock_facts(db: Connection, cases: Collection[str]) -> None:
    """Nobody else computes the facts of these cases until the transaction ends. Blocks.

    The log is to be read after this: then what is written is never older than what another wrote.
    """
    db.execute(
        text(
            """
            select pg_advisory_xact_lock(:locks, hash) from (
                select distinct hashtext(reference) as hash
                from unnest(cast(:cases as text[])) as reference order by hash
            ) as wanted
            """
        ),
        {"locks": _LOCKS, "cases": list(cases)},
    )


def replace_facts(db: Connection, cases: Collection[str], facts: Iterable[Facts]) -> dict[str, int]:
    """Have these cases these facts and no others. Returns the rows written or deleted, by table.

    The cases are locked. Rows that stay as they are stay untouched.
    """
    facts = list(facts)
    written = {}
    for kind, (table, _) in KINDS.items():
        names = columns(kind)
        fresh = {row[0]: row for one in facts for row in rows_of(one, kind)}
        select = text(f"select {rows.names(names)} from {table.name} where case_reference = any(:cases)")  # noqa: S608
        stored = {row[0]: tuple(row) for row in db.execute(select, {"cases": list(cases)})}
        gone = [log_id for log_id, row in stored.items() if fresh.get(log_id) != row]
        new = [row for log_id, row in sorted(fresh.items()) if stored.get(log_id) != row]
        if gone:
            db.execute(text(f"delete from {table.name} where log_id = any(:ids)"), {"ids": gone})  # noqa: S608
        if new:
            Copy(table, names).insert(db, new)
        written[table.name] = len({*gone, *(row[0] for row in new)})
    return written
