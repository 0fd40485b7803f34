"""Rows while PostgreSQL goes on finding more: it and its reader work at the same time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

import psycopg
from psycopg import capabilities
from sqlalchemy import Connection, Engine, event, text

from caselog.schema.sessions.connection import driver_error, driver_of

# A libpq before 17 gives them one by one.
_CHUNK_ROWS: Final = 1000 if capabilities.has_stream_chunked() else 1
_STREAMED: Final = "caselog_streamed"


def stream(db: Connection, query: str, parameters: Mapping[str, Any]) -> Generator[tuple[Any, ...]]:
    """The rows of a query with SQLAlchemy's `:name` parameters, asked for at once.

    Until the last is read the connection takes no other statement. Who stops before rolls back, or gives the connection
    back: that cancels the query. A server-side cursor instead would find rows only while the reader waits for them, in
    half the time at best. Raises SQLAlchemy's errors, as a statement would.
    """
    compiled = text(query).bindparams(**parameters).compile(dialect=db.dialect)
    rows = driver_of(db).cursor(binary=True).stream(str(compiled).encode(), compiled.params, size=_CHUNK_ROWS)
    db.info[_STREAMED] = rows
    try:
        first = next(rows, None)
    except psycopg.Error as error:
        raise driver_error(db, query, error) from error
    return _told(db, query, first, rows)


def _told(
    db: Connection, query: str, first: tuple[Any, ...] | None, rows: Iterator[tuple[Any, ...]]
) -> Generator[tuple[Any, ...]]:
    if first is None:
        return
    try:
        yield first
        yield from rows
    except psycopg.Error as error:
        raise driver_error(db, query, error) from error


@event.listens_for(Engine, "rollback")
@event.listens_for(Engine, "commit")
def _end(db: Connection) -> None:
    """Whoever failed while reading still holds the rows in its traceback, and they the driver's lock."""
    rows = None if db.invalidated else db.info.pop(_STREAMED, None)
    if rows is not None:
        rows.close()
