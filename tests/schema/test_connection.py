"""The connection: what an error says of it may be logged."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from schema.connection import make_engine


def test_an_error_says_the_statement_and_never_its_values(empty_database_url: str) -> None:
    """They hold notes and context: personal data."""
    engine = make_engine(empty_database_url)
    try:
        with engine.connect() as db, pytest.raises(DBAPIError) as failed:
            db.execute(text("select * from no_such_table where notes = :notes"), {"notes": "Anna's secret"})
        assert "no_such_table" in str(failed.value)
        assert "Anna" not in str(failed.value)
    finally:
        engine.dispose()


REFUSED = {
    "a row of another event": "insert into t values (2, 'Anna', 'x')",
    "a row that breaks a constraint": "insert into t values (3, 'Anna', null)",
    "a value of another type": "select cast(name as integer) from t",
    "JSON that is none": "select cast(name || '}' as jsonb) from t",
    "what a trigger says": "do $$ begin raise exception 'no' using detail = 'Anna', hint = 'Anna'; end $$",
}


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_an_error_quotes_no_row_and_no_value(empty_database_url: str, statement: str) -> None:
    """Not where it is caught, nor in a traceback, which has what led to it."""
    engine = make_engine(empty_database_url)
    try:
        with engine.connect() as db:
            db.execute(text("create table t (id int, name text unique, needed text not null)"))
            db.execute(text("insert into t values (1, 'Anna', 'x')"))
            with pytest.raises(DBAPIError) as failed:
                db.execute(text(statement))
        said = "".join(traceback.format_exception(failed.value)) + str(failed.value.orig) + str(failed.value)
        assert "Anna" not in said.replace(statement, "")
        assert str(failed.value.orig)
    finally:
        engine.dispose()
