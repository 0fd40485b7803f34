"""The definitions of the codes that the log has used, kept so that its logs fold when a code is unregistered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, text

from caselog.events.folding.retired_codes import Used, kept, restored
from caselog.events.model.codes import Code
from caselog.events.model.registry import EventRegistry
from caselog.schema.sql import arrays, tables
from caselog.schema.sql.statement import Statement

Name = tuple[str, str]
"""A key and a code under it."""

_FACTS: Final = tuple(c.name for c in tables.code_definition.columns if c.name not in ("version", "first_seen"))
_COLUMNS: Final = (*_FACTS, "version")


def keep(db: Connection, codes: Collection[Code]) -> set[Name]:
    """Keep the definitions of codes that logs of this transaction use. Returns those that stood there already.

    Only these may be remembered as kept: what this transaction adds is not there if it does not commit. A definition
    that another transaction changes at the same time is kept when it is used next. To be the last that a transaction
    does, so that nobody waits for its rows and holds what it waits for.
    """
    current = _current(db, {(code.key, code.code) for code in codes})
    facts = {(code.key, code.code): kept(code) for code in codes}
    stand = {name for name, fact in facts.items() if name in current and _facts(current[name]) == fact}
    new = [
        {**fact, "version": current[name]["version"] + 1 if name in current else 1}
        for name, fact in sorted(facts.items())
        if name not in stand
    ]
    if new:
        _INSERT.run(db, **_NEW.bound([fact[name] for name in _COLUMNS] for fact in new))
    return stand


_NEW: Final = arrays.Listed(tables.code_definition, _COLUMNS)
_INSERT: Final = Statement(
    f"""
    insert into code_definition ({arrays.names(_COLUMNS)}) select {arrays.names(_COLUMNS)} from {_NEW.new}
    on conflict (key, code, version) do nothing
    """  # noqa: S608 - column names of our own tables
)


def retire_unregistered(db: Connection, registry: EventRegistry) -> None:
    """Tell the registry of codes that the log has used and that it does not have, so that their logs fold."""
    registered = {(code.key, code.code) for code in registry.codes()}
    for name, row in _current(db, None).items():
        if name not in registered:
            registry.retire(restored(row))


def used_codes(db: Connection) -> list[Used]:
    """Every code that the log holds, with its current definition. Reads the whole log."""
    current = _current(db, None)
    # Type and level are copied into the logs: the latest log speaks for a code whose definition was never kept.
    found = db.execute(
        text(
            """
            select key, code, sum(logs)::bigint as logs,
                   (array_agg(type order by latest desc))[1] as type,
                   (array_agg(level order by latest desc))[1] as level
            from (
                select key, code, type, level, count(*) as logs, max(id) as latest from log
                group by key, code, type, level
            ) as used
            group by key, code order by key, code
            """
        )
    )
    return [
        Used(
            key=row.key,
            code=row.code,
            logs=row.logs,
            kept=current.get((row.key, row.code), {"type": row.type, "level": row.level}),
        )
        for row in found
    ]


def _current(db: Connection, names: Collection[Name] | None) -> dict[Name, dict[str, Any]]:
    """The highest version of these definitions, or of all."""
    found = _CURRENT.rows(
        db, all=names is None, keys=[key for key, _ in names or ()], codes=[code for _, code in names or ()]
    )
    facts = (dict(zip(_COLUMNS, row, strict=True)) for row in found)
    return {(fact["key"], fact["code"]): fact for fact in facts}


_CURRENT: Final = Statement(
    f"""
    select distinct on (key, code) {arrays.names(_COLUMNS)} from code_definition
    where %(all)s or (key, code) in (select * from unnest(%(keys)s::text[], %(codes)s::text[]))
    order by key, code, version desc
    """  # noqa: S608 - column names of our own tables
)


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _FACTS}
