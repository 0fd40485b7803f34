"""Batches of rows as arrays: one bound array a column, spread out by `unnest` in the statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


def unnest(table: Table, columns: Sequence[str]) -> str:
    """`unnest(...) as new(column, …)` with a bound array `:column` for each of the table's columns.

    A JSON column travels as text, and comes out of `selected` as JSON.
    """
    arrays = ", ".join(f"cast(:{name} as {_travels_as(table, name)}[])" for name in columns)
    return f"unnest({arrays}) as new({', '.join(_quoted(name) for name in columns)})"


def selected(table: Table, columns: Sequence[str]) -> str:
    """The columns of `new` with their types, in order."""
    return ", ".join(_value(table, name) for name in columns)


def assignments(table: Table, columns: Sequence[str]) -> str:
    """`column = new.column, …` for an update."""
    return ", ".join(f"{_quoted(name)} = {_value(table, name)}" for name in columns)


def names(columns: Sequence[str]) -> str:
    return ", ".join(_quoted(name) for name in columns)


def transposed(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Mapping[str, list[Any]]:
    """The rows as one list a column, ready to be bound."""
    lists = list(map(list, zip(*rows, strict=True)))
    return dict(zip(columns, lists or [[] for _ in columns], strict=True))


def _travels_as(table: Table, name: str) -> str:
    kind = table.c[name].type
    if isinstance(kind, JSONB):
        return "text"
    return kind.compile(_DIALECT).split(" COLLATE ")[0]


def _value(table: Table, name: str) -> str:
    kind = table.c[name].type
    plain = f"new.{_quoted(name)}"
    return f"cast({plain} as {kind.compile(_DIALECT)})" if isinstance(kind, JSONB) else plain


def _quoted(name: str) -> str:
    return _DIALECT.identifier_preparer.quote(name)
