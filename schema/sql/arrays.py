"""Batches of rows in a statement, as its table `new`: listed in one JSON array, or spread out of one array a column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
_AWARE: Final = Annotated[datetime, msgspec.Meta(tz=True)]


class Listed:
    """Rows of some of a table's columns that travel as one JSON array, a fifth of the cost of an array a column.

    PostgreSQL would turn nearly anything in it into the text of a text column, so values are checked here.
    """

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        listed = ", ".join(f"{_element(table, name, at)} as {_quoted(name)}" for at, name in enumerate(columns))
        given = "jsonb_array_elements(%(rows)s::jsonb) as listed(row)"
        self.new: Final = f"(select {listed} from {given}) as new"  # noqa: S608 - column names of our own tables
        """What a `Statement` selects or updates from; `bound` gives it its rows."""
        # A tuple whose length and types are known only here.
        self._rows: Any = list[tuple[tuple(_python_type(table, name) for name in columns)]]  # type: ignore[misc]

    def bound(self, rows: Iterable[Sequence[Any]]) -> Mapping[str, str]:
        """The statement's parameter. Raises ValueError, without the value, for one that is not of its column's type."""
        checked = msgspec.convert([tuple(row) for row in rows], self._rows, builtin_types=(datetime,))
        # In UTC: an offset of minutes and seconds, as it was long ago, would lose its seconds.
        values = [[v.astimezone(UTC) if isinstance(v, datetime) else v for v in row] for row in checked]
        listed = msgspec.json.encode(values).decode()
        if "\\u0000" in listed and any("\0" in v for row in values for v in row if isinstance(v, str)):
            raise ValueError("PostgreSQL text cannot contain NUL (0x00) characters")
        return {"rows": listed}


def unnest(table: Table, columns: Sequence[str]) -> str:
    """`unnest(...) as new(column, …)` with an array `%(column)` for each of the table's columns; none of JSON.

    For what carries whole messages: bytes as they are, and more of them than a JSON array may hold. Texts and bytes
    travel in binary: written as text, each quote in them costs more than all else.
    """
    kinds = {name: _type_name(table, name) for name in columns}
    arrays = ", ".join(
        f"cast(%({name}){'b' if kind in ('TEXT', 'BYTEA') else 's'} as {kind}[])" for name, kind in kinds.items()
    )
    return f"unnest({arrays}) as new({names(columns)})"


def assignments(columns: Sequence[str]) -> str:
    """`column = new.column, …` for an update."""
    return ", ".join(f"{_quoted(name)} = new.{_quoted(name)}" for name in columns)


def names(columns: Sequence[str]) -> str:
    return ", ".join(_quoted(name) for name in columns)


def transposed(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Mapping[str, list[Any]]:
    """The rows as one list a column, ready to be bound to an `unnest`."""
    lists = list(map(list, zip(*rows, strict=True)))
    return dict(zip(columns, lists or [[] for _ in columns], strict=True))


def _element(table: Table, name: str, at: int) -> str:
    if isinstance(table.c[name].type, JSONB):
        return f"nullif(row->{at}, 'null')"
    return f"(row->>{at})::{_type_name(table, name)}"


def _python_type(table: Table, name: str) -> Any:
    column = table.c[name]
    if isinstance(column.type, JSONB):
        return Any
    kind = _AWARE if column.type.python_type is datetime else column.type.python_type
    return kind | None if column.nullable else kind


def _type_name(table: Table, name: str) -> str:
    return table.c[name].type.compile(_DIALECT).split(" COLLATE ")[0]


def _quoted(name: str) -> str:
    return _DIALECT.identifier_preparer.quote(name)
