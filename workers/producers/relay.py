"""The relay: publishes what upstream apps wrote into their outbox, in order, and deletes what the broker confirmed.

Killed at any instruction it loses nothing: what it had not deleted is published again, with the same ids, and the
recorder finds it recorded.
"""

from __future__ import annotations

import random
import threading
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import DBAPIError

from caselog.events.errors import CaselogError, MalformedEvent, PublishError
from caselog.events.phrases import storable
from caselog.events.transport.publisher import Publisher
from caselog.events.transport.refusals import refusal
from caselog.schema.operations import relay
from caselog.schema.sessions.proof import prove_session
from caselog.workers.process.logs import get_logger

# An idle outbox is asked this often: one look into an index that is empty. (NOTIFY would make the upstream app's
# commits wait for each other.)
POLL_S: Final = 0.1
STAND_BY_S: Final = 1.0
BATCH_ROWS: Final = 500
# How long the Publisher itself tries: an outbox has all the time, but who stops the relay does not.
RETRY_FOR_S: Final = 2.0
FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 5.0


class Relayed(msgspec.Struct):
    """Rows published and deleted, and rows set aside because they are no valid events."""

    published: int = 0
    refused: int = 0


class ReadOnlyOutbox(CaselogError):
    """The outbox's session takes no writes: what it holds would be published again and again."""


class Relay:
    """Publishes one outbox. Several may run: one leads, the others stand by and take over when it is gone."""

    def __init__(self, engine: Engine, table: Table, broker_url: str) -> None:
        self._engine = engine
        self._table = table
        self._broker_url = broker_url
        self._stopping = threading.Event()
        self._trouble: str | None = None

    def stop(self, *_: object) -> None:
        """Finish the batch in hand and return from `run`; usable as a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Relay until `stop` is called, whatever comes and goes meanwhile.

        Raises `CaselogError` without a table or a session of its own.
        """
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            try:
                with self._connected() as db:
                    while not self._stopping.is_set() and not relay.take_lead(db, self._table):
                        self._tell("another relay leads this outbox; standing by")
                        self._stopping.wait(STAND_BY_S)
                    with self._publisher() as publisher:
                        while not self._stopping.is_set():
                            relayed = self._pass_on(db, publisher)
                            delay_s = FIRST_DELAY_S
                            self._tell(None)
                            if not relayed.published and not relayed.refused:
                                self._stopping.wait(POLL_S)
            except PublishError as error:
                self._tell(*_of_the_broker(error.__cause__ or error))
            except ReadOnlyOutbox as error:
                self._tell("the outbox takes no writes, and keeps its events", str(error))
            except DBAPIError as error:
                self._tell("the outbox's database is away", str(error.orig).strip())
            else:
                continue
            self._stopping.wait(delay_s * random.uniform(0.5, 1))  # noqa: S311 - spreads reconnections, no secret
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    def once(self) -> Relayed:
        """Relay what there is and return. Raises `PublishError`, and `CaselogError` as `run` or where another leads."""
        total = Relayed()
        with self._connected() as db:
            if not relay.take_lead(db, self._table):
                raise CaselogError(
                    f"another relay leads the outbox {self._table.fullname!r}, and publishes what it has"
                )
            with self._publisher() as publisher:
                while (relayed := self._pass_on(db, publisher)).published or relayed.refused:
                    total.published += relayed.published
                    total.refused += relayed.refused
        return total

    def status(self) -> relay.OutboxStatus:
        with self._connected() as db:
            return relay.status(db, self._table)

    def _connected(self) -> Connection:
        """A connection on which each statement is its own transaction; closing it ends the session and its lead.

        Raises `CaselogError` where it has no session of its own, or there is no such table.
        """
        prove_session(
            self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
            "relay",
            "Give --database, or CASELOG_DATABASE_DIRECT_URL, the PostgreSQL behind it",
        )
        db = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        db.detach()
        if relay.exists(db, self._table):
            return db
        db.close()
        raise CaselogError(
            f"the database has no table {self._table.fullname!r}. Make it with what `caselog relay --ddl` prints, or "
            f"name the outbox with --table"
        )

    def _publisher(self) -> Publisher:
        return Publisher(self._broker_url, linger_ms=0, retry_for_s=RETRY_FOR_S)

    def _pass_on(self, db: Connection, publisher: Publisher) -> Relayed:
        """One batch: publish, wait for the broker, delete. Raises `PublishError` for what the broker did not take.

        Raises `ReadOnlyOutbox` before anything is published.
        """
        rows = relay.waiting(db, self._table, BATCH_ROWS)
        if rows and relay.is_read_only(db):
            raise ReadOnlyOutbox(
                f"the session of the outbox {self._table.fullname!r} is read-only, as after a failover; it is left for "
                "another. Nothing was published, and nothing is lost"
            )
        faults: dict[int, str] = {}
        futures = []
        for row, event in rows:
            try:
                futures.append((row, publisher.publish(event)))
            except MalformedEvent as error:
                faults[row] = storable(str(error))
        if faults:
            relay.refuse(db, self._table, faults)
            get_logger().warning("the outbox holds what is no valid event", rows=sorted(faults)[:20], count=len(faults))
        failure = None
        try:
            publisher.flush()
        except PublishError as error:
            failure = error
        confirmed = [row for row, future in futures if future.exception() is None]
        if confirmed:
            relay.forget(db, self._table, confirmed)
        if failure is not None:
            raise failure
        return Relayed(len(confirmed), len(faults))

    def _tell(self, trouble: str | None, error: str | None = None) -> None:
        """One line when something begins to be in the way, and one when all is well again."""
        if trouble == self._trouble:
            return
        if trouble is not None:
            get_logger().warning(trouble, outbox=self._table.fullname, error=error)
        else:
            get_logger().info("relaying", outbox=self._table.fullname)
        self._trouble = trouble


def _of_the_broker(error: BaseException) -> tuple[str, str]:
    refused = refusal(error)
    if refused is None:
        return "the broker is away; the outbox keeps its events", str(error)
    return "the broker refuses events; the outbox keeps them", refused
