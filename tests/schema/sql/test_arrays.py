"""Rows listed in one JSON array arrive as they were, and what is not of its column's type is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from caselog.schema.sessions.connection import make_engine
from caselog.schema.sql import arrays, tables
from caselog.schema.sql.statement import Statement

COLUMNS = ("reference", "category", "callback_attempt", "provider_viewed", "complaint_flag", "memory")
LISTED = arrays.Listed(tables.case, COLUMNS)
MOMENT = datetime(2026, 3, 2, 9, 30, 0, 1, tzinfo=UTC)
ROW: tuple[Any, ...] = ("AB-1", None, 0, MOMENT, False, {})
SECRET = "told in confidence"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=1)
    yield engine
    engine.dispose()


def through(engine: Engine, *given: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    with engine.connect() as db:
        return list(Statement(f"select {arrays.names(COLUMNS)} from {LISTED.new}").rows(db, **LISTED.bound(given)))


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        ("", "", 2**31 - 1, None, True, {"viewed_timers": [2**63 - 1]}),
        ("q\"u\\o'te", "{NULL}", -(2**31), datetime.min.replace(tzinfo=UTC), False, {"a": None}),
        ("\u00e9\u2028\U0001f600\x7f", "null", 1, datetime.max.replace(tzinfo=UTC), False, {"": '"'}),
        # London's clocks were a minute and a quarter behind, and an offset in JSON has no seconds.
        ("old", "1", 1, datetime(1840, 5, 1, 12, tzinfo=ZoneInfo("Europe/London")), False, {}),
        ("x" * 1_000_000, None, 1, None, False, {}),
    ],
    ids=["plain", "empty", "quoted", "unicode", "old", "long"],
)
def test_rows_arrive_as_they_were(engine: Engine, row: tuple[Any, ...]) -> None:
    assert through(engine, ROW, row) == [ROW, row]


def test_no_rows_are_none(engine: Engine) -> None:
    assert through(engine) == []


def test_a_nul_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(ValueError, match="NUL"):
        LISTED.bound([ROW, ("AB\0", None, 0, None, False, {})])
    written: tuple[Any, ...] = (r"a \u0000 that is written out", None, 0, None, False, {})
    assert through(engine, written) == [written]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("reference", None), ("reference", 5), ("category", {"no": SECRET}), ("category", [SECRET]),
        ("category", SECRET.encode()), ("callback_attempt", True), ("callback_attempt", 1.0), ("callback_attempt", "1"),
        ("callback_attempt", None), ("provider_viewed", MOMENT.replace(tzinfo=None)),
        ("provider_viewed", "2026-03-02T09:30:00Z"), ("provider_viewed", SECRET), ("provider_viewed", 0),
        ("complaint_flag", 1), ("complaint_flag", "yes"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_of_its_columns_type_is_refused_and_not_quoted(column: str, value: Any) -> None:
    wrong = dict(zip(COLUMNS, ROW, strict=True)) | {column: value}
    with pytest.raises(ValueError, match="Expected") as raised:
        LISTED.bound([ROW, tuple(wrong.values())])
    assert SECRET not in str(raised.value)


def test_a_number_that_is_too_large_is_refused_by_the_server(engine: Engine) -> None:
    with pytest.raises(Exception, match="out of range"):
        through(engine, ("AB-1", None, 2**31, None, False, {}))
