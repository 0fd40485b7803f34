"""New rows by COPY, in its binary format: a third of the cost of an INSERT from arrays.

docs/decisions/0092-new-rows-by-copy.md has the figures, and why the format is binary.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import psycopg
from psycopg import pq
from psycopg.adapt import Dumper
from psycopg.copy import LibpqWriter
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many
from psycopg.postgres import types
from psycopg.pq import ExecStatus, Format
from psycopg.waiting import Ready, Wait
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from caselog.schema.sessions.connection import driver_error, driver_of
from caselog.schema.sql.arrays import names

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


# A log has one or more of each of these, so the driver calls what is written in C without a function of ours between.
class _Int2(Dumper):
    """The driver's own would drop the bits of a number that is too large."""

    format, oid = Format.BINARY, types["int2"].oid
    dump = staticmethod(struct.Struct("!h").pack)  # type: ignore[assignment]


class _Int4(Dumper):
    format, oid = Format.BINARY, types["int4"].oid
    dump = staticmethod(struct.Struct("!i").pack)  # type: ignore[assignment]


class _Bool(Dumper):
    """The driver's own would take anything for true or false."""

    format, oid = Format.BINARY, types["bool"].oid
    dump = staticmethod({False: b"\0", True: b"\1"}.__getitem__)  # type: ignore[assignment]


class _Jsonb(Dumper):
    """The driver's own is several functions in Python a value."""

    format, oid = Format.BINARY, types["jsonb"].oid

    def dump(self, obj: Any) -> bytes:
        return b"\1" + msgspec.json.encode(obj)


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
        with self.inserting(db, rows):
            pass

    @contextmanager
    def inserting(self, db: Connection, rows: Iterable[Sequence[Any]]) -> Iterator[None]:
        """As `insert`; within, PostgreSQL is at work on the rows, and the connection is not to be used.

        All of them are sent by then: whatever becomes of this process, PostgreSQL does not wait for it.
        """
        driver = driver_of(db)
        try:
            with driver.cursor() as cursor:
                for dumper in (_Int2, _Int4, _Bool, _Jsonb):
                    cursor.adapters.register_dumper(None, dumper)
                with cursor.copy(self._statement.encode(), writer=_Sender(cursor)) as copy:
                    copy.set_types(self._types)
                    for row in rows:
                        copy.write_row(row)
            try:
                yield
            finally:
                _await_end(driver)
        except psycopg.Error as error:
            raise driver_error(db, self._statement, error) from error


class _Sender(LibpqWriter):
    """The driver's own, but that it does not wait for what PostgreSQL says in the end."""

    def finish(self, exc: BaseException | None = None) -> None:
        if exc is None:
            self.connection.wait(_sent(self.connection.pgconn))
        else:
            super().finish(exc)


def _sent(connection: pq.abc.PGconn) -> Generator[Wait, Ready | int, None]:
    while connection.put_copy_end() == 0:
        yield Wait.W
    while connection.flush() != 0:
        yield Wait.W


def _await_end(driver: psycopg.Connection[Any]) -> None:
    for result in driver.wait(fetch_many(driver.pgconn)):
        if result.status != ExecStatus.COMMAND_OK:
            raise error_from_result(result, encoding=driver.info.encoding)


def broke(error: DBAPIError) -> str | None:
    """The constraint that a row broke; None for another error."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None


def _type_name(table: Table, name: str) -> str:
    kind = table.c[name].type.compile(_DIALECT).split(" COLLATE ")[0].lower()
    return {"bigint": "int8", "integer": "int4", "smallint": "int2", "boolean": "bool"}.get(kind, kind)
