"""New rows are copied in, and what PostgreSQL says of those that it refuses."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from support.oracle.stored import insert_logs
from support.processes.patience import DEADLINE_S

from caselog.events.model.state import Log
from caselog.schema.recording import store
from caselog.schema.sessions.connection import make_engine

SECRET = "told in confidence"
_ids = itertools.count(1)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def a_log(event_id: str, **fields: Any) -> Log:
    defaults: dict[str, Any] = {"id": next(_ids), "key": "case", "code": "CASE_VIEWED", "type": "system", "level": 11}
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    return Log(source="/test", event_id=event_id, occurred_at=at, **(defaults | fields))


def test_the_notes_of_a_refused_log_are_in_no_message(engine: Engine) -> None:
    """They are personal data: an error names the line and the column, and does not quote it."""
    with pytest.raises(DataError) as raised, engine.begin() as db:
        insert_logs(db, [a_log("first"), a_log("refused", notes=f"{SECRET}\x00")])
    assert isinstance(raised.value.orig, psycopg.Error)
    assert "line 2" in (raised.value.orig.diag.context or "")
    for told in (str(raised.value), raised.value.orig.diag.context):
        assert SECRET not in (told or "")
    with engine.begin() as db:
        assert db.execute(text("select count(*) from log")).scalar_one() == 0


def test_only_an_event_that_is_recorded_already_counts_as_one(engine: Engine) -> None:
    """An id that stands in the log under another event is a fault of ours, and is not taken for a redelivery."""
    with pytest.raises(IntegrityError, match="log_pkey"), engine.begin() as db:
        insert_logs(db, [a_log("1", id=7), a_log("2", id=7)])


@pytest.mark.parametrize(
    "wrong",
    [{"level": 2**15}, {"level": "high"}, {"suppressed": "no"}, {"timer_id": 2**63}, {"timer_id": 1.5}, {"notes": 1},
     {"notes": b"raw"}, {"occurred_at": datetime.fromisoformat("2026-03-02")}, {"occurred_at": "2026-03-02"},
     {"case": ["AB-1"]}],
    ids=str,
)  # fmt: skip
def test_a_value_that_is_not_of_its_columns_type_is_refused(engine: Engine, wrong: dict[str, Any]) -> None:
    """The binary format is taken at its word by the server, so no value may be cut or bent to fit it."""
    log = a_log("1")
    for name, value in wrong.items():
        setattr(log, name, value)
    with pytest.raises(Exception) as raised, engine.begin() as db:  # noqa: PT011 - each value is refused in its way
        insert_logs(db, [log])
    assert not isinstance(raised.value, AssertionError)
    with engine.begin() as db:
        assert db.execute(text("select count(*) from log")).scalar_one() == 0


def test_postgres_does_not_wait_for_who_copied(engine: Engine) -> None:
    """A recorder that is stopped while its logs are copied must not hold its locks: all of them are sent by then."""
    with engine.begin() as db, engine.connect() as other:
        pid = db.execute(text("select pg_backend_pid()")).scalar_one()
        state = text("select state from pg_stat_activity where pid = :pid")
        with store.inserting_logs(db, [a_log(str(number), notes="x" * 1000) for number in range(2000)]):
            deadline_s = time.monotonic() + DEADLINE_S
            while other.execute(state, {"pid": pid}).scalar_one() != "idle in transaction":
                other.rollback()
                assert time.monotonic() < deadline_s
                time.sleep(0.01)  # PostgreSQL tells nobody when it is done
    with engine.connect() as db:
        assert db.execute(text("select count(*) from log")).scalar_one() == 2000


def test_what_fails_while_postgres_is_at_work_fails_as_itself(engine: Engine) -> None:
    """And the connection can be used again."""
    with engine.connect() as db:
        with pytest.raises(ZeroDivisionError), store.inserting_logs(db, [a_log("1")]):
            _ = 1 / 0
        assert db.execute(text("select count(*) from log")).scalar_one() == 1


def test_a_connection_that_is_cut_while_rows_are_copied_is_replaced(engine: Engine) -> None:
    """The error says that the connection is lost, so that the batch waits for the database and is tried again."""
    with engine.connect() as db:
        pid = db.execute(text("select pg_backend_pid()")).scalar_one()
        with engine.begin() as other:
            other.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(OperationalError) as raised:
            insert_logs(db, [a_log("1")])
    assert raised.value.connection_invalidated
    with engine.connect() as db:
        insert_logs(db, [a_log("1")])
