"""A chart: one bar for each period, as high as its number, within the drawing, and told in words."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caselog.schema.reports.reading import PERIODS, By
from caselog.workers.web.reports.bar_chart import MOST_BARS, Chart, draw, step

MONDAY = date(2026, 6, 1)
DAYS = st.dates(date(2000, 1, 1), date(2040, 12, 31))


def drawn(numbers: dict[date, float], first: date, last: date, by: By = "day") -> Chart:
    chart = draw(sorted(numbers.items()), first, last, by, what="Cases", unit="cases")
    assert chart is not None
    return chart


def test_every_day_has_a_bar_and_those_without_rows_a_flat_one() -> None:
    chart = drawn({MONDAY: 4, MONDAY + timedelta(days=2): 8}, MONDAY, MONDAY + timedelta(days=2))
    assert [bar.words for bar in chart.bars] == ["1 June 2026: 4 cases", "2 June 2026: 0 cases", "3 June 2026: 8 cases"]
    assert chart.bars[1].height == 0
    assert chart.bars[2].height == pytest.approx(2 * chart.bars[0].height)


def test_weeks_begin_on_their_monday_and_months_on_their_first() -> None:
    sunday = MONDAY + timedelta(days=6)
    weeks = drawn({MONDAY: 1, MONDAY + timedelta(days=7): 2}, sunday, sunday + timedelta(days=1), "week")
    assert [bar.words for bar in weeks.bars] == ["week of 1 June 2026: 1 case", "week of 8 June 2026: 2 cases"]
    months = drawn({date(2025, 12, 1): 1500.5}, date(2025, 12, 31), date(2026, 1, 1), "month")
    assert [bar.words for bar in months.bars] == ["December 2025: 1,500.50 cases", "January 2026: 0 cases"]


def test_its_words_tell_the_range_and_the_highest() -> None:
    chart = drawn({MONDAY: 4, MONDAY + timedelta(days=1): 5}, MONDAY, MONDAY + timedelta(days=1))
    assert chart.title == "Cases per day"
    assert chart.description == "Bars from 1 June 2026 to 2 June 2026. The highest is 5 cases, 2 June 2026."


def test_a_long_range_is_shown_in_longer_steps_and_never_in_shorter_ones_than_asked_for() -> None:
    assert step(MONDAY, MONDAY, None) == "day"
    assert step(MONDAY, MONDAY, "month") == "month"
    assert step(MONDAY, MONDAY + timedelta(days=91), "day") == "day"
    assert step(MONDAY, MONDAY + timedelta(days=92), "day") == "week"
    assert step(date(2020, 1, 1), date(2026, 1, 1), "week") == "month"


def test_a_range_that_is_too_long_is_cut_to_where_there_is_something() -> None:
    chart = drawn({date(2025, 1, 1): 1, date(2025, 3, 1): 1}, date(1, 1, 1), date(9999, 12, 31), "month")
    assert len(chart.bars) == 3
    ages = [(date(1900, 1, 1), 1.0), (date(2025, 1, 1), 1.0)]
    assert draw(ages, date(1, 1, 1), date(9999, 12, 31), "month", what="", unit="") is None
    assert draw([], MONDAY, MONDAY, "day", what="", unit="") is None


@given(
    first=DAYS,
    days=st.integers(0, 4000),
    asked=st.sampled_from([None, *PERIODS]),
    numbers=st.lists(st.floats(0, 1e12), min_size=1, max_size=200),
)
def test_whatever_there_is_lies_within_the_drawing_and_is_not_too_much(
    first: date, days: int, asked: By | None, numbers: list[float]
) -> None:
    """Bars stand side by side on the floor; the axis goes up in even steps to above the highest."""
    last = first + timedelta(days=days)
    by = step(first, last, asked)
    start = {"day": first, "week": first - timedelta(days=first.weekday()), "month": first.replace(day=1)}[by]
    series = {start: numbers[0]} | {
        first + timedelta(days=place): number for place, number in enumerate(numbers) if by == "day" and place <= days
    }
    chart = draw(sorted(series.items()), first, last, by, what="Cases", unit="cases")
    assert chart is not None
    assert 1 <= len(chart.bars) <= MOST_BARS
    end = float(chart.left)
    for bar in chart.bars:
        assert end - 0.02 <= bar.x
        end = bar.x + bar.width
        assert bar.height >= 0
        assert bar.y + bar.height == pytest.approx(chart.floor, abs=0.02)
        assert bar.y >= chart.upwards[-1].at - 0.02
    assert end <= chart.width + 0.02
    assert 1 < len(chart.upwards) <= 6
    heights = [mark.at for mark in chart.upwards]
    assert heights == sorted(heights, reverse=True)
    assert all(chart.left < mark.at < chart.width for mark in chart.across)
    # Half of a label that is centred there, in letters of 14 units' size: none is cut off at the right.
    assert all(mark.at + len(mark.label) * 14 * 0.6 / 2 <= chart.width + 0.01 for mark in chart.across)
    assert 1 <= len(chart.across) <= 4


def test_the_label_of_the_last_bar_is_whole() -> None:
    """Thirteen weeks: every fourth has a label, and the last begins at the end of the period."""
    first, last = date(2025, 1, 1), date(2025, 3, 31)
    chart = draw([(date(2025, 1, 6), 38)], first, last, "week", what="Callbacks", unit="callbacks")
    assert chart is not None
    mark = chart.across[-1]
    assert mark.label == "31 Mar 2025"
    assert mark.at + len(mark.label) * 14 * 0.6 / 2 <= chart.width + 0.01


def test_one_of_a_unit_is_said_as_one() -> None:
    tuesday = MONDAY + timedelta(days=1)
    chart = draw([(MONDAY, 1), (tuesday, 2)], MONDAY, tuesday, "day", what="", unit="seconds a timer")
    assert chart is not None
    assert [bar.words for bar in chart.bars] == ["1 June 2026: 1 second a timer", "2 June 2026: 2 seconds a timer"]
