"""The facts of cases, as the reports keep them: written by the aggregator, read by reports and by `verify`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table

from caselog.events.folding.facts import Assignment, Callback, Complaint, Facts
from caselog.schema.sql import arrays, tables
from caselog.schema.sql.copy import Copy
from caselog.schema.sql.statement import Statement

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
    _LOCK_FACTS.run(db, locks=_LOCKS, cases=list(cases))


_LOCK_FACTS: Final = Statement(
    """
    select pg_advisory_xact_lock(%(locks)s, hash) from (
        select distinct hashtext(reference) as hash from unnest(%(cases)s::text[]) as reference order by hash
    ) as wanted
    """
)


def replace_facts(db: Connection, cases: Collection[str], facts: Iterable[Facts]) -> dict[str, int]:
    """Have these cases these facts and no others. Returns the rows written or deleted, by table.

    The cases are locked. Rows that stay as they are stay untouched.
    """
    facts = list(facts)
    written = {}
    for kind, (table, _) in KINDS.items():
        fresh = {row[0]: row for one in facts for row in rows_of(one, kind)}
        stored = {row[0]: row for row in _SELECT[kind].rows(db, cases=list(cases))}
        gone = [log_id for log_id, row in stored.items() if fresh.get(log_id) != row]
        new = [row for log_id, row in sorted(fresh.items()) if stored.get(log_id) != row]
        if gone:
            _DELETE[kind].run(db, ids=gone)
        if new:
            _COPY[kind].insert(db, new)
        written[table.name] = len({*gone, *(row[0] for row in new)})
    return written


_SELECT: Final = {
    kind: Statement(f"select {arrays.names(columns(kind))} from {table.name} where case_reference = any(%(cases)s)")  # noqa: S608
    for kind, (table, _) in KINDS.items()
}
_DELETE: Final = {
    kind: Statement(f"delete from {table.name} where log_id = any(%(ids)s)")  # noqa: S608
    for kind, (table, _) in KINDS.items()
}
_COPY: Final = {kind: Copy(table, columns(kind)) for kind, (table, _) in KINDS.items()}
