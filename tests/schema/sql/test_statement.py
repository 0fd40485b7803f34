"""A statement that goes to the driver as it is: its rows, its errors, and a connection that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from caselog.schema.sessions.connection import make_engine
from caselog.schema.sql.statement import Statement

SECRET = "told in confidence"
ECHO = Statement("select %(words)s::text, %(moment)s::timestamptz, %(json)s::jsonb, '100 %%', %(words)s like 'a%%'")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=1)
    yield engine
    engine.dispose()


def test_rows_are_tuples_of_pythons_own(engine: Engine) -> None:
    moment = datetime(2026, 3, 2, 9, 30, 0, 1, tzinfo=UTC)
    with engine.begin() as db:
        assert ECHO.rows(db, words="a:b", moment=moment, json='{"k": [1]}') == [
            ("a:b", moment, {"k": [1]}, "100 %", True)
        ]
        assert Statement("select 1 where false").rows(db) == []


def test_it_is_part_of_the_transaction_that_it_is_executed_in(engine: Engine) -> None:
    insert = Statement("insert into pause (who, why) values ('anna', %(why)s)")
    with engine.connect() as db:
        assert insert.run(db, why="a test") == 1
        assert db.execute(text("select why from pause")).scalars().all() == ["a test"]
        db.rollback()
        assert Statement("select why from pause").rows(db) == []
        assert insert.run(db, why="another") == 1
        db.commit()
    with engine.connect() as db:
        assert Statement("select why from pause").rows(db) == [("another",)]


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("insert into pause (one, who, why) values (false, %(secret)s, '')", IntegrityError),
        ("select %(secret)s::int", DataError),
    ],
)
def test_its_errors_are_sqlalchemys_and_hold_no_value(engine: Engine, statement: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, engine.begin() as db:
        Statement(statement).run(db, secret=SECRET)
    assert SECRET not in str(raised.value)
    assert SECRET not in str(raised.value.__cause__)
    with engine.begin() as db:  # the connection is as good as before
        assert Statement("select 1").rows(db) == [(1,)]


def test_a_connection_that_is_gone_is_given_up_and_the_next_one_is_another(engine: Engine, database_url: str) -> None:
    backend = Statement("select pg_backend_pid()")
    with engine.connect() as db:
        [(gone,)] = backend.rows(db)
        with psycopg.connect(database_url) as other:
            other.execute("select pg_terminate_backend(%s)", (gone,))
        with pytest.raises(OperationalError) as raised:
            backend.rows(db)
        assert raised.value.connection_invalidated
    with engine.begin() as db:
        [(idle,)] = backend.rows(db)
        assert idle != gone
    with psycopg.connect(database_url) as other:
        other.execute("select pg_terminate_backend(%s)", (idle,))
    with engine.begin() as db:
        assert backend.rows(db) not in ([(gone,)], [(idle,)])
