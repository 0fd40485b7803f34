"""The one way in which caselog connects to PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import psycopg
from psycopg.adapt import Loader
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

CONNECT_TIMEOUT_S: Final = 5
APPLICATION_NAME: Final = "caselog"
# A worker that was stopped (or its machine cut off) in the middle of a batch holds locks for which others wait; within
# a batch, no two statements are seconds apart. Its session ends, and what it had written is rolled back.
IDLE_IN_BATCH_S: Final = 30
_DATA_EXCEPTION: Final = "22"
# A server that vanished without a word (a cut network, a machine that died) is noticed within half a minute, not
# after the kernel's default of two hours. Without effect on Unix sockets.
_LOST_PEER: Final = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class _Json(Loader):
    """The driver's own copies the bytes, and calls two functions in Python for each value."""

    load = staticmethod(msgspec.json.decode)  # type: ignore[assignment]


def make_engine(
    database_url: str,
    *,
    application: str = APPLICATION_NAME,
    connections: int = 2,
    turn_s: float = 30.0,
    idle_s: int = 0,
    by_index: bool = False,
) -> Engine:
    """An engine for a `postgresql://` URL; nothing is connected yet.

    Who finds all its connections taken waits `turn_s` seconds for one, and then gets SQLAlchemy's `TimeoutError`.
    PostgreSQL ends a session that does nothing for `idle_s` seconds within a transaction (0: never); a reader that
    streams to a person may well pause for longer, a worker that holds locks may not.
    `by_index`: who looks up a batch's cases, actors and events never reads a whole table for it, nor all that an actor
    ever did, even while PostgreSQL has no statistics and takes the batch for half of it.
    Dead connections of the pool (after a restart of the server) are found and replaced before use.
    """
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=turn_s,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text, and so a log line, never holds case data; see also `hush`
        json_serializer=msgspec.json.encode,
        json_deserializer=msgspec.json.decode,  # of a log's columns, decoding its context costs most
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": application, **_LOST_PEER},
    )

    @event.listens_for(engine, "connect")
    def _settle(connection, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the driver's own
        connection.adapters.register_loader("jsonb", _Json)
        # psycopg prepares a statement after five executions, and PostgreSQL may then keep a plan that it made while
        # the tables were empty: look-ups by array would stay sequential scans while the log grows.
        connection.autocommit = True
        connection.execute("set plan_cache_mode = force_custom_plan")
        connection.execute("set timezone = 'UTC'")
        connection.execute(f"set idle_in_transaction_session_timeout = {idle_s * 1000}")
        if by_index:
            connection.execute("set enable_seqscan = off")
            connection.execute("set enable_bitmapscan = off")
        # To compile the plan of a report costs half a second, and its first row is due before.
        connection.execute("set jit = off")
        connection.autocommit = False

    @event.listens_for(engine, "handle_error")
    def _hush(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, psycopg.Error):
            said = hush(context.original_exception)
            if said is not None and context.sqlalchemy_exception is not None:
                context.sqlalchemy_exception.args = (f"({type(context.original_exception).__name__}) {said}",)

    return engine


def hush(error: psycopg.Error) -> str | None:
    """Leave PostgreSQL's message in this error, and nothing that it quotes; the message. None where it said nothing.

    Its DETAIL shows the row that was refused and its CONTEXT the text that it could not read: what others said of the
    case, or even of another one, where the row is that of a timer. Such a text becomes a dead letter's message, a log
    line or a page. Of a value that cannot be read (a data exception), the message itself ends with it.
    """
    if error.sqlstate is None:  # the driver refused a value, or lost the server
        return None
    said = error.diag.message_primary or type(error).__name__
    if error.sqlstate.startswith(_DATA_EXCEPTION):
        said = said.partition(': "')[0]
    error.args = (said,)
    return said


def limit_statements(db: Connection, limit_ms: int) -> None:
    """A statement of this transaction that takes longer is cancelled, with an error."""
    db.execute(text("select set_config('statement_timeout', :limit_ms, true)"), {"limit_ms": str(limit_ms)})


def driver_of(db: Connection) -> psycopg.Connection[Any]:
    """The driver's own connection, in a transaction that SQLAlchemy knows of, and so commits or rolls back."""
    if not db.in_transaction():
        db.begin()
    driver = db.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def driver_error(db: Connection, statement: str, error: psycopg.Error) -> Exception:
    """SQLAlchemy's error for one of the driver's own, without values; of a dead connection, which is given up."""
    driver = db.connection.driver_connection
    is_dead = driver is None or driver.closed
    if is_dead:
        db.invalidate(error)
    hush(error)
    return DBAPIError.instance(
        statement, None, error, psycopg.Error, connection_invalidated=is_dead, dialect=db.dialect
    )
