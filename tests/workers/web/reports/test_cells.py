"""How a page writes values."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from caselog.workers.rows.text import label, visible
from caselog.workers.web.reports.cells import cell

LONDON = ZoneInfo("Europe/London")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1234567, "1,234,567"),
        (Decimal(1234), "1,234"),
        (0.126, "0.13"),
        (1234.5, "1,234.50"),
        (date(2026, 11, 23), "2026-11-23"),
        ("2026-11", "2026-11"),
        ("", ""),
        ("<b>é</b>", "<b>é</b>"),
    ],
)
def test_a_value_is_written_for_people(value: Any, shown: str) -> None:
    """Fractions have two decimals; to write `<` harmlessly is the template's business."""
    assert cell(value, LONDON).text == shown


def test_a_moment_is_local_with_its_offset_and_keeps_its_time_in_utc_for_programs() -> None:
    summer = cell(datetime(2026, 7, 1, 9, 30, tzinfo=UTC), LONDON)
    assert (summer.text, summer.moment) == ("2026-07-01 10:30:00 +01:00", "2026-07-01T09:30:00Z")
    winter = cell(datetime(2026, 1, 1, 9, 30, 0, 123456, tzinfo=UTC), LONDON)
    assert (winter.text, winter.moment) == ("2026-01-01 09:30:00 +00:00", "2026-01-01T09:30:00.123456Z")


def test_what_is_not_printed_is_shown_as_its_escape() -> None:
    assert visible("a\x1b\u202eb") == "a\\x1b\\u202eb"


def test_names_become_words() -> None:
    assert label("missed_sla_1") == "Missed SLA 1"
    assert label("outcomes") == "Outcomes"
