"""New rows by COPY, in its binary format: a third of the cost of an INSERT from arrays.

docs/decisions/0092-new-rows-by-copy.md has the figures, and why the format is binary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError

from schema.connection import driver_error
from schema.rows import names

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


class _Int2(Dumper):
    """The driver's own would drop the bits of a number that is too large."""

    format, oid, _pack = Format.BINARY, types["int2"].oid, struct.Struct("!h").pack

    def dump(self, obj: int) -> bytes:
        return self._pack(obj)


class _Int4(_Int2):
    oid, _pack = types["int4"].oid, struct.Struct("!i").pack


class _Bool(Dumper):
    """The driver's own would take anything for true or false."""

    format, oid = Format.BINARY, types["bool"].oid
    _bytes: ClassVar = {False: b"\0", True: b"\1"}

    def dump(self, obj: bool) -> bytes:  # noqa: FBT001 - as the driver calls it
        return self._bytes[obj]


class Copy:
    """Appends rows of some columns to a table."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self._statement = (
            f"copy {_DIALECT.identifier_preparer.format_table(table)} ({names(columns)}) from stdin (format binary)"
        )
        self._types = [_type_name(table, name) for name in columns]

    def insert(self, db: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Insert the rows, in their order. JSON columns take any value, and None for null.

        Raises SQLAlchemy's errors, as a statement would, and TypeError, ValueError and the like for a value that is
        not of its column's type. The transaction is to be rolled back then.
        """
        driver = db.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        try:
            with driver.cursor() as cursor:
                for dumper in (_Int2, _Int4, _Bool):
                    cursor.adapters.register_dumper(None, dumper)
                with cursor.copy(self._statement.encode()) as copy:
                    copy.set_types(self._types)
                    for row in rows:
                        copy.write_row(row)
        except psycopg.Error as error:
            raise driver_error(db, self._statement, error) from error


def broke(error: IntegrityError, constraint: str) -> bool:
    """Whether it was this constraint that a row broke."""
    return isinstance(error.orig, psycopg.Error) and error.orig.diag.constraint_name == constraint


def _type_name(table: Table, name: str) -> str:
    kind = table.c[name].type.compile(_DIALECT).split(" COLLATE ")[0].lower()
    return {"bigint": "int8", "integer": "int4", "smallint": "int2", "boolean": "bool"}.get(kind, kind)
