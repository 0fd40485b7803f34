"""Sessions of PostgreSQL that may be anybody's: what each transaction says first, and when a session is left.

Behind a pooler in transaction mode a session is lent for one transaction, and has what others left in it. So nothing of
ours lies in a session: no prepared statement, no lock, no setting. And whichever server answers, a session may be alive
and of no use, as one that turned read-only after a failover: it is left, and the next one is taken. A pooler would lend
it again, so it is ended.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from caselog.schema.sessions.fencing import (
    NOT_TOLD,
    OLDER_TIMELINE,
    WHICH_SERVER,
    Fence,
    OlderTimeline,
    Server,
    server_of,
)
from caselog.schema.sessions.hosts import begin_with_the_good, in_a_line, pass_over, remember, without

DRIVER: Final = "caselog"
# A session that cannot write is exchanged at its next use, and not more often than this: a replica that is only read
# from may well be meant.
READ_ONLY_KEPT_S: Final = 2.0
_LEFT: Final = {
    "25006": "this session is read-only, as after a failover or where default_transaction_read_only is on",
    "25P02": "this session's transaction had failed before",
    "25P03": "the server ended this session, which did nothing within a transaction for too long",
    "57P01": "the server ended this session: it is being stopped, or somebody did it by hand",
    "57P02": "the server ended this session: another of its processes crashed",
    "57P03": "the server takes no session now: it is starting, stopping or recovering",
    "57P04": "the database of this session was dropped",
    "57P05": "the server ended this session, which did nothing for too long",
    OLDER_TIMELINE: "as when an old primary returns",
}
_RECOVERY: Final = "this server is a standby, and what it replays was in the way of this session's snapshot"
# A standby calls it a serialization failure or a deadlock when what it replays is in the way. It is told from a batch's
# own by the place in the server's source, because its words are in the language of the server.
_AGAIN: Final = ("40001", "40P01")
_IN_RECOVERY: Final = ("ProcessInterrupts", "ProcessRecoveryConflictInterrupt", "CheckRecoveryConflictDeadlock")
# Asked in place of the pool's own empty statement, for as much: whether what answers could take a batch.
_PING: Final = b"select current_setting('transaction_read_only')"
# What a session started with stays in it, also when it was undone: a pooler would lend such a session for hours. Any
# role may end its own. One of a standby is not ended: it writes as soon as that is promoted.
_END: Final = b"select pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())"
_END_READ_ONLY: Final = (
    _END + b" where pg_catalog.current_setting('transaction_read_only') = 'on' and not pg_catalog.pg_is_in_recovery()"
)
# The server has just answered; should it have fallen silent since, its session is of no use to anybody either.
_END_WITHIN_MS: Final = 1000
# What others may have left in a pooler's session, and what would then befall a batch: back to what a new session has.
_AS_IN_A_NEW_SESSION: Final = ("role", "search_path", "statement_timeout", "lock_timeout", "synchronous_commit")
# What the driver's loaders and dumpers and our SQL rely on, whatever the URL, the environment, the role or the database
# say: else an event is refused for a letter that Latin 1 has not, or a moment cannot be read.
ENCODING: Final = "UTF8"
_AS_WE_READ: Final = {
    "timezone": "UTC",
    "client_encoding": ENCODING,
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
}


# For what takes as long as the log is long. What this server does not know of them, it does not limit.
_LIMITS: Final = ("statement_timeout", "lock_timeout", "transaction_timeout", "idle_session_timeout")


def why_left(error: BaseException) -> str | None:
    """Why the session that gave this error is of no use any more, in words; None where it may be used again."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return None
    if error.sqlstate in _AGAIN and error.diag.source_function in _IN_RECOVERY:
        return _RECOVERY
    return _LEFT.get(error.sqlstate)


def first_words(settings: dict[str, str]) -> bytes:
    """What follows BEGIN in each transaction, of these settings: for this transaction alone, whoever has it next."""
    defaults = (f"set local {name} to default" for name in _AS_IN_A_NEW_SESSION if name not in settings)
    return "; ".join((*defaults, *_said("set local", settings))).encode()


def session_words(settings: dict[str, str]) -> bytes:
    """The same for a session of one's own, as long as it lasts: nobody else has left anything in it."""
    return "; ".join(_said("set", settings)).encode()


def without_limits(*, here: bool) -> str:
    """SQL that lifts the limits of statements: of this transaction (`here`), or of a session of one's own."""
    names = ", ".join(f"'{name}'" for name in _LIMITS)
    return f"select set_config(name, '0', {str(here).lower()}) from pg_settings where name in ({names})"  # noqa: S608 - ours


def _said(how: str, settings: dict[str, str]) -> Iterator[str]:
    return (f"{how} {name} to '{value}'" for name, value in (_AS_WE_READ | settings).items())


class SessionDialect(PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg, for sessions that may be anybody's."""

    supports_statement_cache = True
    first_words: bytes = b""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.fence = Fence()
        self.asks = True
        self._servers: WeakKeyDictionary[psycopg.Connection[Any], Server] = WeakKeyDictionary()
        self._parameters: WeakKeyDictionary[psycopg.Connection[Any], dict[str, Any]] = WeakKeyDictionary()
        self._connected_s: WeakKeyDictionary[psycopg.Connection[Any], float] = WeakKeyDictionary()

    def on_connect(self) -> Any:
        """As inherited; and when the session was connected is noted."""
        inherited = super().on_connect()  # type: ignore[no-untyped-call]

        def on_connect(driver: psycopg.Connection[Any]) -> None:
            inherited(driver)
            self._connected_s[driver] = time.monotonic()

        return on_connect

    def connect(self, *arguments: Any, **parameters: Any) -> Any:
        """As inherited; of several servers it begins with the one that was good the last time.

        What each of several said is in the first line of the error: no more of it gets into a log line or a check.
        Each of several is asked at once which it is, and one that is fenced off is passed over. Raises `OlderTimeline`
        where no other gives a session.
        """
        left, fenced = begin_with_the_good(parameters), None
        while True:
            try:
                connection = super().connect(*arguments, **left)
            except psycopg.OperationalError as error:
                error.args = (in_a_line(str(error)),)
                if fenced is not None:
                    fenced.args = (f"{fenced}. Of the others: {error}",)
                    raise fenced from error
                raise
            driver = cast("psycopg.Connection[Any]", getattr(connection, "driver_connection", connection))
            self._parameters[driver] = parameters
            others = without(left, driver.info)
            if others is None and fenced is None:
                break
            try:
                self.do_begin(driver)
                driver.rollback()
            except OlderTimeline as error:
                driver.close()
                fenced = fenced or error
                if others is None:
                    raise fenced from None
                left = others
            except psycopg.Error:
                driver.close()
                raise
            else:
                break
        remember(parameters, driver.info)
        return connection

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin, and say what this transaction needs, in the round trip that BEGIN takes by itself.

        The driver would send BEGIN alone, with its first statement; it sees that a transaction is open, and does not.
        """
        # The pool's own name of it is gone from a connection that was taken out of it.
        driver = cast("psycopg.Connection[Any]", getattr(dbapi_connection, "dbapi_connection", dbapi_connection))
        if driver.autocommit or driver.info.transaction_status != TransactionStatus.IDLE:
            return
        try:
            self._begin(driver)
        except psycopg.Error as error:
            if not (self.asks and error.sqlstate in NOT_TOLD):
                raise
            self.asks = False
            driver.pgconn.exec_(b"rollback")
            self._begin(driver)

    def server(self, driver: psycopg.Connection[Any]) -> Server | None:
        """Which server has this connection's transaction; None where it does not tell."""
        return self._servers.get(driver)

    def _begin(self, driver: psycopg.Connection[Any]) -> None:
        """Raises `OlderTimeline`, with no transaction begun, where the server is fenced off."""
        question = WHICH_SERVER if self.asks else b""
        driver.pgconn.send_query(_begin(driver) + b"; " + self.first_words + question)
        results: list[pq.abc.PGresult] = driver.wait(execute(driver.pgconn))
        for result in results:
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                raise error_from_result(result, encoding=driver.info.encoding)
        if not self.asks:
            self._servers.pop(driver, None)
            return
        server = self._servers[driver] = server_of(results[-1].get_value(0, 0), results[-1].get_value(0, 1))
        try:
            self.fence.admit(server, driver.info.host, driver.info.port)
        except OlderTimeline:
            _end(driver, b"rollback; " + _END)
            pass_over(self._parameters.get(driver, {}), driver.info)
            raise

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Whether a pooled session may be used: it answers, and it could write, or has only just been connected."""
        driver = cast("psycopg.Connection[Any]", dbapi_connection)
        before = driver.autocommit
        driver.autocommit = True
        try:
            row = driver.execute(_PING).fetchone()
        except psycopg.errors.QueryCanceled:  # a limit that somebody left in a pooler's session
            return False
        finally:
            if not driver.closed:
                driver.autocommit = before
        if row is None or row[0] == "off":
            return True
        if time.monotonic() - self._connected_s.get(driver, 0.0) < READ_ONLY_KEPT_S:
            return True
        _end(driver, _END_READ_ONLY)  # a pooler may lend another one for it, which is ended if it is no better
        return False

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Whether the session is to be left: it is gone, or of no use. SQLAlchemy closes it, and connects anew."""
        gone: bool = super().is_disconnect(e, connection, cursor)  # type: ignore[no-untyped-call]
        return gone or why_left(e) is not None

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Leave a session, and end it where it would be of no use to whoever a pooler lends it next."""
        driver = cast("psycopg.Connection[Any]", dbapi_connection)
        if driver.info.transaction_status == TransactionStatus.INERROR:
            _end(driver, b"rollback; " + _END_READ_ONLY)
        driver.close()


def _end(driver: psycopg.Connection[Any], words: bytes) -> None:
    """Say so to the server, and wait until it has done it, though not for long; then the connection is to be closed.

    Whatever comes of it, nothing is raised.
    """
    with suppress(psycopg.Error):
        driver.pgconn.send_query(words)
        driver.pgconn.flush()
        answer = select.poll()
        answer.register(driver.pgconn.socket, select.POLLIN)
        answer.poll(_END_WITHIN_MS)


def _begin(driver: psycopg.Connection[Any]) -> bytes:
    """Whatever the default of the database is, or was left in this session: a batch reads what is committed."""
    level = "read committed" if driver.isolation_level is None else driver.isolation_level.name.replace("_", " ")
    access = "" if driver.read_only is None else " read only" if driver.read_only else " read write"
    return f"begin isolation level {level}{access}".encode()


registry.register(f"postgresql.{DRIVER}", __name__, SessionDialect.__name__)
