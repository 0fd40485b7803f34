"""The one way in which caselog connects to PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import psycopg
from psycopg.adapt import Loader
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from caselog.schema.sessions.database_url import driver_url, has_several_hosts
from caselog.schema.sessions.fencing import Fence, OlderTimeline, Server
from caselog.schema.sessions.leaving import DRIVER, ENCODING, SessionDialect, first_words, why_left

CONNECT_TIMEOUT_S: Final = 5
# Of several hosts, each: who waits for a session waits for all that are silent before the one that answers.
CONNECT_TIMEOUT_OF_SEVERAL_S: Final = 3
# A session keeps what it started with, whatever is set or reset for its database or role since: `synchronous_commit`
# off would lose what is confirmed long after somebody has seen to it. After so long it is exchanged at its next use.
SESSION_S: Final = 600
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
    statement_s: float | None = None,
    fence: Fence | None = None,
) -> Engine:
    """An engine for a `postgresql://` URL; nothing is connected yet. Raises `BadUrl`.

    Who finds all its connections taken waits `turn_s` seconds for one, and then gets SQLAlchemy's `TimeoutError`.
    PostgreSQL ends a session that does nothing for `idle_s` seconds within a transaction (0: never); a reader that
    streams to a person may well pause for longer, a worker that holds locks may not.

    `by_index`: who looks up a batch's cases, actors and events never reads a whole table for it, nor all that an actor
    ever did, even while PostgreSQL has no statistics and takes the batch for half of it.
    `statement_s`: PostgreSQL cancels a statement that takes longer; None: as the database says.
    `fence`: the timelines that are known; a server on a lower one gets no transaction. None: those that it meets.

    Sessions of the pool that died (after a restart of the server), or that cannot write (after a failover), are found
    and replaced before use; one that turns out to be of no use is left (`leaving.py`). A transaction needs nothing of
    its session but what it says itself when it begins, so that a pooler may lend another one for each.
    """
    url = driver_url(database_url)
    ours = {
        "connect_timeout": CONNECT_TIMEOUT_OF_SEVERAL_S if has_several_hosts(url) else CONNECT_TIMEOUT_S,
        **_LOST_PEER,
    }
    engine = create_engine(
        url.set(drivername=f"postgresql+{DRIVER}"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=turn_s,
        pool_recycle=SESSION_S,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text, and so a log line, never holds case data; see also `hush`
        json_serializer=msgspec.json.encode,
        json_deserializer=msgspec.json.decode,  # of a log's columns, decoding its context costs most
        connect_args={
            # What the URL says of them stands.
            **{name: value for name, value in ours.items() if name not in url.query},
            "application_name": application,
            # What it or the environment says of that does not; what is in no transaction goes by it, too.
            "client_encoding": ENCODING,
            # A prepared statement lies in a session, which is another's in the next transaction where a pooler stands
            # between. And PostgreSQL may keep a plan for it that it made while the tables were empty: look-ups by
            # array would stay sequential scans while the log grows.
            "prepare_threshold": None,
        },
    )
    settings = {"idle_in_transaction_session_timeout": f"{idle_s}s"}
    if by_index:
        settings |= {"enable_seqscan": "off", "enable_bitmapscan": "off"}
    # To compile the plan of a report costs half a second, and its first row is due before.
    settings["jit"] = "off"
    if statement_s is not None:
        settings["statement_timeout"] = f"{max(1, round(statement_s * 1000))}ms"
    assert isinstance(engine.dialect, SessionDialect)
    engine.dialect.first_words = first_words(settings)
    if fence is not None:
        engine.dialect.fence = fence

    @event.listens_for(engine, "connect")
    def _load(connection, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the driver's own
        connection.adapters.register_loader("jsonb", _Json)

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
    said = str(error) if isinstance(error, OlderTimeline) else error.diag.message_primary or type(error).__name__
    if error.sqlstate.startswith(_DATA_EXCEPTION):
        said = said.partition(': "')[0]
    if (why := why_left(error)) is not None:
        said = f"{said} ({why}; it is left for another)"
    error.args = (said,)
    return said


def limit_statements(db: Connection, limit_ms: int) -> None:
    """A statement of this transaction that takes longer is cancelled, with an error."""
    db.execute(text("select set_config('statement_timeout', :limit_ms, true)"), {"limit_ms": str(limit_ms)})


def limit_idle(db: Connection, limit_s: float) -> None:
    """PostgreSQL ends this session where this transaction, and no other, does nothing for so many seconds."""
    name = "idle_in_transaction_session_timeout"
    db.execute(text("select set_config(:name, :limit_ms, true)"), {"name": name, "limit_ms": str(int(limit_s * 1000))})


def server_of(db: Connection) -> Server | None:
    """Which server has this transaction: it said so when the transaction began. None where it does not tell."""
    driver = driver_of(db)
    assert isinstance(db.dialect, SessionDialect)
    return db.dialect.server(driver)


def fence_of(engine: Engine) -> Fence:
    """The timelines that this engine knows."""
    assert isinstance(engine.dialect, SessionDialect)
    return engine.dialect.fence


def driver_of(db: Connection) -> psycopg.Connection[Any]:
    """The driver's own connection, in a transaction that SQLAlchemy knows of, and so commits or rolls back."""
    if not db.in_transaction():
        db.begin()
    driver = db.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def driver_error(db: Connection, statement: str, error: psycopg.Error) -> Exception:
    """SQLAlchemy's error for one of the driver's own, without values; a session that is dead or of no use is left."""
    driver = db.connection.driver_connection
    is_dead = driver is None or driver.closed or why_left(error) is not None
    if is_dead:
        db.invalidate(error)
    hush(error)
    return DBAPIError.instance(
        statement, None, error, psycopg.Error, connection_invalidated=is_dead, dialect=db.dialect
    )
