"""The logs of cases whose category changes: in reports by the present category, all that they added moves with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection

from caselog.events.model.state import Log
from caselog.schema.sql import arrays
from caselog.schema.sql.statement import Statement

# What decides whether a log counts and where, but for the category, which is the case's. The rest stays empty.
_COLUMNS: Final = (
    "id", "source", "event_id", "key", "code", "type", "level", "occurred_at", "case_reference", "role", "context",
    "organisation", "case_source", "case_created_at",
)  # fmt: skip
_FIELDS: Final = tuple("case" if name == "case_reference" else name for name in _COLUMNS)
# Neither a key nor a code holds a control character.
_BETWEEN: Final = "\x1f"


def counted_logs(db: Connection, cases: Collection[str], idle: Collection[tuple[str, str]]) -> list[Log]:
    """The unsuppressed logs of these cases, those of the (key, code) that are `idle` aside; in no order.

    Of a code that nobody knows here they are among them. The cases are locked.
    """
    names = [f"{key}{_BETWEEN}{code}" for key, code in idle]
    found = _COUNTED.rows(db, cases=list(cases), idle=names)
    return [Log(**dict(zip(_FIELDS, row, strict=True))) for row in found]


_COUNTED: Final = Statement(
    f"""
    select {arrays.names(_COLUMNS)} from log
    where case_reference = any(%(cases)s) and not suppressed and key || '{_BETWEEN}' || code <> all(%(idle)s::text[])
    """  # noqa: S608 - our own columns
)
