"""A query's rows come while it still runs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from caselog.schema.sql.streaming import stream

FOUR_THOUSAND = "select n, n::text as said from generate_series(1, :most) as n"


@pytest.fixture
def db(engine: Engine) -> Generator[Connection]:
    with engine.connect() as connection:
        connection.begin()
        yield connection


def test_all_rows_come_in_order_and_then_the_connection_goes_on(db: Connection) -> None:
    assert list(stream(db, FOUR_THOUSAND, {"most": 4000})) == [(n, str(n)) for n in range(1, 4001)]
    assert list(stream(db, FOUR_THOUSAND, {"most": 0})) == []
    assert db.execute(text("select 1")).scalar_one() == 1


def test_what_is_wrong_is_said_before_the_first_row_is_asked_for(db: Connection) -> None:
    with pytest.raises(ProgrammingError, match="no_such_table"):
        stream(db, "select * from no_such_table where name = :name", {"name": "a secret"})


def test_what_goes_wrong_on_the_way_is_sqlalchemys_error_without_values(db: Connection) -> None:
    rows = stream(db, "select 1 / (n - 2500) from generate_series(1, :most) as n", {"most": 4000})
    assert next(rows) == (0,)
    with pytest.raises(DBAPIError, match="division by zero") as raised:
        list(rows)
    assert "4000" not in str(raised.value)


def test_who_stops_early_cancels_the_query_and_rolls_back(db: Connection) -> None:
    rows = stream(db, FOUR_THOUSAND, {"most": 100_000_000})
    assert next(rows) == (1, "1")
    rows.close()
    db.rollback()
    assert db.execute(text("select 1")).scalar_one() == 1


def test_a_connection_that_is_cut_on_the_way_is_given_up(engine: Engine) -> None:
    with engine.connect() as db, engine.connect() as other:
        pid = db.execute(text("select pg_backend_pid()")).scalar_one()
        rows: Any = stream(db, FOUR_THOUSAND, {"most": 100_000_000})
        next(rows)
        other.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(OperationalError):
            list(rows)
        assert db.invalidated
    with engine.connect() as db:
        assert db.execute(text("select pg_backend_pid()")).scalar_one() != pid


def test_who_fails_while_reading_holds_nothing_up(engine: Engine) -> None:
    """Its traceback keeps the rows from being forgotten, while the connection is given back."""

    def consume(rows: Generator[tuple[Any, ...]]) -> None:
        for _ in rows:
            raise BrokenPipeError

    def fail() -> None:
        with engine.connect() as db, db.begin():
            consume(stream(db, FOUR_THOUSAND, {"most": 100_000_000}))

    with pytest.raises(BrokenPipeError):
        fail()
    with engine.connect() as db:
        assert db.execute(text("select 1")).scalar_one() == 1
