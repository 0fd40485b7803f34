"""Tables of reports: every value is in them, readable, and no line is wider than the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.reports.terms.columns import Column, Measure
from caselog.workers.terminal.report_table import shown, table

LONDON = ZoneInfo("Europe/London")
NAME = Column(name="category_of_law", description="")
MANY = Measure(name="cases", description="")
SHARE = Measure(name="share", whole=False, description="")
AT = Column(name="window_start", kind="moment", description="")
LATE = Column(name="late", kind="flag", description="")
NOON = datetime(2026, 7, 1, 12, 0, 0, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "value", "seen"),
    [
        (MANY, 1234567, "1,234,567"),
        (MANY, -1234, "-1,234"),
        (SHARE, 1234.5678, "1,234.57"),
        (SHARE, 3.0, "3.00"),
        (AT, NOON, "2026-07-01 13:00:00+01:00"),
        (AT, datetime(2026, 1, 1, 12, tzinfo=UTC), "2026-01-01 12:00:00+00:00"),
        (LATE, True, "yes"),
        (LATE, False, "no"),
        (LATE, None, ""),
        (MANY, 0, "0"),
        (Column(name="day", kind="day", description=""), date(2026, 7, 1), "2026-07-01"),
        (NAME, "1234567", "1234567"),
        (NAME, "\x1b[31m\nred", "\\x1b[31m\\nred"),
    ],
)
def test_values_are_shown_as_people_read_them(column: Column, value: Any, seen: str) -> None:
    assert shown(column, value, LONDON) == seen


def test_numbers_end_below_each_other_and_the_total_has_a_line_of_its_own() -> None:
    lines = list(table((NAME, MANY), [("debt", 5), ("housing", 1234)], zone=LONDON, totals=("total", 1239)))
    assert lines == [
        "┏━━━━━━━━━━━━━━━━━┳━━━━━━━┓",
        "┃ category_of_law ┃ cases ┃",
        "┡━━━━━━━━━━━━━━━━━╇━━━━━━━┩",
        "│ debt            │     5 │",
        "│ housing         │ 1,234 │",
        "├─────────────────┼───────┤",
        "│ total           │ 1,239 │",
        "└─────────────────┴───────┘",
    ]


def test_a_narrow_terminal_wraps_heads_first_and_then_text() -> None:
    rows = [("abcdefghijklmnopqrstuvwxyz", 7)]
    assert list(table((NAME, MANY), rows, zone=LONDON, width=28)) == [
        "┏━━━━━━━━━━━━━━━━━━┳━━━━━━━┓",
        "┃ category_of_law  ┃ cases ┃",
        "┡━━━━━━━━━━━━━━━━━━╇━━━━━━━┩",
        "│ abcdefghijklmnop │     7 │",
        "│ qrstuvwxyz       │       │",
        "└──────────────────┴───────┘",
    ]
    assert list(table((NAME, MANY), [("debt", 7)], zone=LONDON, width=22))[:3] == [
        "┏━━━━━━━━━━━━┳━━━━━━━┓",
        "┃ category_  ┃ cases ┃",
        "┃ of_law     ┃       ┃",
    ]


def test_where_columns_do_not_fit_beside_each_other_they_are_listed() -> None:
    rows = [("debt", NOON, True), ("housing", None, None)]
    assert list(table((NAME, AT, LATE), rows, zone=LONDON, width=44)) == [
        "category_of_law  debt",
        "window_start     2026-07-01 13:00:00+01:00",
        "late             yes",
        "",
        "category_of_law  housing",
        "window_start",
        "late",
    ]


def test_no_rows_are_a_head_alone() -> None:
    assert len(list(table((NAME, MANY), [], zone=LONDON))) == 4


BOX = "┏━┳┓┃┡╇┩│├─┼┤└┴┘"
moments = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis wants bounds without a zone
values: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(st.characters(codec="utf-8", exclude_characters=BOX), max_size=60),
    "number": st.integers(-(2**63), 2**63),
    "moment": moments,
    "flag": st.booleans(),
}
kinds: st.SearchStrategy[Any] = st.sampled_from(sorted(values))


# Hypothesis makes its table of characters at the first draw, for seconds where the machine is busy.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(60, 200))
def test_no_line_is_wider_than_the_terminal_and_no_value_is_lost(data: st.DataObject, width: int) -> None:
    """Told by their characters, however they are wrapped; the heads stand there once, or beside each value."""
    drawn = data.draw(st.lists(kinds, min_size=1, max_size=8))
    columns = [Column(name=f"column_{at}", kind=kind, description="") for at, kind in enumerate(drawn)]
    rows = data.draw(st.lists(st.tuples(*(st.none() | values[kind] for kind in drawn)), max_size=4))
    lines = list(table(columns, rows, zone=LONDON, width=width))
    assert all(cell_len(line) <= width for line in lines)
    assert all(char.isprintable() for line in lines for char in line)
    heads = _characters(column.name for column in columns)
    cells = _characters(shown(c, v, LONDON) for row in rows for c, v in zip(columns, row, strict=True))
    listed = Counter({char: count * len(rows) for char, count in heads.items()})
    assert _characters(lines) in (heads + cells, listed + cells)


def _characters(texts: Iterable[str]) -> Counter[str]:
    return Counter(char for text in texts for char in text if char not in BOX and not char.isspace())


@pytest.mark.parametrize("name", list(REPORTS))
def test_every_report_fits_a_common_terminal(name: str) -> None:
    columns = REPORTS[name].columns
    assert all(cell_len(line) <= 80 for line in table(columns, [(None,) * len(columns)], zone=LONDON, width=80))
