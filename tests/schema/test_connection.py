"""The connection: what an error says of it may be logged."""

from __future__ import annotations

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
