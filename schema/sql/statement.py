"""A statement that each batch executes: SQL that goes to the driver as it is, for a quarter of what SQLAlchemy takes.

docs/decisions/0003-text-statements.md has the figures. Everything else is SQLAlchemy's: the connection and its pool,
the transaction, and the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from sqlalchemy import Connection

from caselog.schema.sessions.connection import driver_error, driver_of

# Kept with the driver's connection: with a new one each time, a statement would take half as long again.
_CURSOR: Final = "caselog cursor"


class Statement:
    """SQL with its parameters as `%(name)s`; a per cent sign is written `%%`."""

    def __init__(self, sql: str) -> None:
        self.sql: Final = sql
        self._sent = sql.encode()

    def rows(self, db: Connection, **parameters: Any) -> Sequence[tuple[Any, ...]]:
        """Execute it and return all its rows. Raises SQLAlchemy's errors."""
        return self._executed(db, parameters).fetchall()

    def run(self, db: Connection, **parameters: Any) -> int:
        """Execute it and return how many rows it wrote or found. Raises SQLAlchemy's errors."""
        return self._executed(db, parameters).rowcount

    def _executed(self, db: Connection, parameters: dict[str, Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        driver = driver_of(db)
        cursor: psycopg.Cursor[tuple[Any, ...]] | None = db.info.get(_CURSOR)
        if cursor is None:
            cursor = db.info[_CURSOR] = driver.cursor()
        try:
            return cursor.execute(self._sent, parameters)
        except psycopg.Error as error:
            raise driver_error(db, self.sql, error) from error
