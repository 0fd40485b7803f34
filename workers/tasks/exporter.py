"""The work of an export in the background: a report is read and written to its target, once in the end.

What is to be done stands in `report_export` (schema/operations/background_exports.py). Killed anywhere, an export is
taken up by another worker once its hold has run out, and begun anew; what the dead one left is removed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from caselog.events.credentials import hide
from caselog.events.errors import CaselogError
from caselog.schema.operations import background_exports
from caselog.schema.operations.background_exports import HELD_S, Export
from caselog.schema.reports.reading import read_rows
from caselog.workers.process.logs import get_logger
from caselog.workers.rows.formats import write
from caselog.workers.rows.targets import Unpublished, location, open_target, refuse_outside
from caselog.workers.servers.database_errors import is_other_schema, which_schema

RENEWED_S: Final = 1.0
CONNECTIONS: Final = 3


class _Interrupted(Exception):
    """The export goes on no further here; why is the hold's to say."""


class Exporter:
    """Works on the exports of one database, one at a time; several may work beside each other.

    `engine` has `CONNECTIONS` for it alone: one reads, perhaps for long, one says how far it is, one tidies up.
    `exports` is where files may be written: below that directory, or on a store.
    """

    def __init__(self, engine: Engine, *, exports: str, retention_days: int, renewed_s: float = RENEWED_S) -> None:
        self._engine = engine
        self._exports = exports
        self._retention_days = retention_days
        self._renewed_s = renewed_s
        self._tidying, self._exporting = threading.Lock(), threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begin nothing more; what runs is given up at its next row, and left to another worker."""
        self._stopping.set()

    def sweep(self) -> int:
        """Do all that there is to do: remove what is not kept, then export. Returns how many exports it worked on.

        What another thread is at is left to that. A database that is away is no error: the next sweep goes on.
        """
        worked_on = 0
        try:
            with _if_free(self._tidying) as is_mine:
                if is_mine:
                    self._tidy()
            with _if_free(self._exporting) as is_mine:
                while is_mine and not self._stopping.is_set() and (export := self._claim()) is not None:
                    self._run(export)
                    worked_on += 1
        except DBAPIError as error:
            if not _is_away(error):
                raise
            get_logger().warning("exports wait for the database", error=_line(error))
        return worked_on

    def _claim(self) -> Export | None:
        with self._engine.begin() as db:
            return background_exports.claim(db)

    def _tidy(self) -> None:
        with self._engine.begin() as db:
            background_exports.expire(db, self._retention_days)
            for lost in background_exports.give_up(db):
                get_logger().warning("an export failed", export=lost.id, failure=lost.failure)
        with self._engine.begin() as db:
            unwanted = background_exports.claim_removals(db)
        for export in unwanted:
            if self._stopping.is_set():
                return
            self._remove(export)

    def _remove(self, export: Export) -> None:
        failure = None
        try:
            open_target(export.target).remove(export.file_name)
        except (OSError, CaselogError) as error:
            failure = f"its file cannot be removed, which is tried again: {_reason(error, export)}"
            get_logger().warning("the file of an export cannot be removed", export=export.id, failure=failure)
        with self._engine.begin() as db:
            if failure is None:
                background_exports.removed(db, export.id)
            else:
                background_exports.not_removed(db, export.id, failure)

    def _run(self, export: Export) -> None:
        hold = _Hold(self._engine, export, self._stopping, self._renewed_s)
        try:
            self._export(export, hold)
        except Exception as error:
            if self._stopping.is_set():
                with self._engine.begin() as db:
                    background_exports.release(db, export)
                get_logger().info("an export is left to another worker", export=export.id)
            elif hold.is_lost:
                get_logger().info("an export was cancelled, or taken over by another worker", export=export.id)
            elif isinstance(error, DBAPIError) and _is_away(error):
                raise  # its hold runs out, and it is begun anew
            elif is_other_schema(error) and which_schema(self._engine) is not None:
                with self._engine.begin() as db:  # for a worker of the schema's version, or until it is migrated
                    background_exports.release(db, export)
                raise
            else:
                self._fail(export, error, hold.rows)

    def _fail(self, export: Export, error: Exception, rows: int) -> None:
        failure = _reason(error, export)
        with self._engine.begin() as db:
            background_exports.fail(db, export, failure, rows=rows)
        get_logger().warning("an export failed", export=export.id, failure=failure)

    def _export(self, export: Export, hold: _Hold) -> None:
        reading = export.reading
        refuse_outside(export.target, self._exports)
        target = open_target(export.target)
        if export.attempts > 1:
            target.remove_leftovers(export.file_name)
        assert export.holder is not None
        file = target.create(export.file_name, export.holder)
        try:
            # One snapshot, read through cursors: memory is level however long the report is.
            with self._snapshot() as db, hold.renewed(db), closing(read_rows(db, reading)) as found:
                rows = write(file.out, reading.columns, hold.counted(found), export.format)
                size = file.complete()
            self._publish(export, file, hold, rows=rows, size=size)
        except BaseException:
            file.discard()
            raise
        get_logger().info(
            "exported", export=export.id, rows=rows, bytes=size, file=location(export.target, export.file_name)
        )

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with self._engine.connect() as db:
            yield db.execution_options(isolation_level="REPEATABLE READ")

    def _publish(self, export: Export, file: Unpublished, hold: _Hold, *, rows: int, size: int) -> None:
        """Under the row's lock: nobody can take it over or cancel it between the file and the word that it is done."""
        with self._engine.begin() as db:
            if not background_exports.finishing(db, export):
                hold.is_lost = True
                raise _Interrupted
            file.publish()
            background_exports.finish(db, export, rows=rows, size=size)


class _Hold:
    """The hold of a running export, renewed by a thread about once a second with the rows done so far."""

    def __init__(self, engine: Engine, export: Export, stopping: threading.Event, renewed_s: float) -> None:
        self._engine, self._export, self._stopping, self._renewed_s = engine, export, stopping, renewed_s
        self._over = threading.Event()
        self.is_lost = False
        self.rows = 0

    def counted(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """The rows, counted as they pass; raises once the export is not to go on."""
        for row in rows:
            if self.is_lost or self._stopping.is_set():
                raise _Interrupted
            yield row
            self.rows += 1

    @contextmanager
    def renewed(self, reader: Connection) -> Iterator[None]:
        """Within, the hold is renewed; where the export is not to go on, what `reader` waits for is cancelled."""
        driver: Any = reader.connection.driver_connection
        renewing = threading.Thread(target=self._renew, args=(driver,), name=f"export {self._export.id}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._over.set()
            renewing.join()

    def _renew(self, reader: psycopg.Connection[Any]) -> None:
        held_until_s = time.monotonic() + HELD_S
        while not self._over.wait(self._renewed_s):
            try:
                with self._engine.begin() as db:
                    is_held = background_exports.renew(db, self._export, self.rows)
                held_until_s = time.monotonic() + HELD_S
            except DBAPIError:
                is_held = time.monotonic() < held_until_s  # afterwards another worker may have it
            self.is_lost = self.is_lost or not is_held
            if self.is_lost or self._stopping.is_set():
                with suppress(psycopg.Error):
                    reader.cancel_safe(timeout=self._renewed_s)


@contextmanager
def _if_free(lock: threading.Lock) -> Iterator[bool]:
    is_mine = lock.acquire(blocking=False)
    try:
        yield is_mine
    finally:
        if is_mine:
            lock.release()


def _is_away(error: DBAPIError) -> bool:
    """The database cannot be reached, or the connection broke: not the export's fault."""
    return error.connection_invalidated or (
        isinstance(error.orig, psycopg.OperationalError) and error.orig.sqlstate is None
    )


def _reason(error: Exception, export: Export) -> str:
    """Why an export failed, in one line with the remedy where one is known; nothing of a report's rows."""
    if isinstance(error, CaselogError):
        return _line(error)
    if isinstance(error, OSError) and error.strerror is not None:
        where = export.target if error.filename is None else str(error.filename)
        return f"{where!r}: {error.strerror}. Make room or mend the permissions there, then ask again"
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "sqlstate", None)
        return f"PostgreSQL refused to read it ({type(error.orig).__name__}, {code}): see its log"
    get_logger().exception("an export failed unexpectedly")
    return f"unexpected {type(error).__name__}: the log of the tasks worker says more"


def _line(error: object) -> str:
    return " ".join(hide(str(getattr(error, "orig", error))).split())
