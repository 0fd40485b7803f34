"""Opening hours and bank holidays are settings that people write: what is meant is read, and nonsense is named."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caselog.events.calendar.bank_holidays import bank_holidays
from caselog.events.calendar.opening_hours import DEFAULT_HOURS, OpeningHours

CLOSED: tuple[tuple[int, int], ...] = ()


def test_the_hours_of_the_rules_are_read_as_minutes_of_each_day() -> None:
    weekday = ((9 * 60, 20 * 60),)
    assert OpeningHours.parse(DEFAULT_HOURS).week == (*[weekday] * 5, ((9 * 60, 12 * 60 + 30),), CLOSED)


def test_a_day_has_several_spans_in_any_order_and_in_several_parts() -> None:
    shifts = OpeningHours.parse(" Mon-Tue 13:00-17:00 9:00-12:00 ,tue 17:00-24:00")
    two = ((540, 720), (780, 1020))
    assert shifts.week == (two, (*two, (1020, 1440)), *[CLOSED] * 5)


def test_a_range_of_days_may_go_over_the_weekend() -> None:
    hours = OpeningHours.parse("sat-mon 00:00-01:00")
    assert [bool(spans) for spans in hours.week] == [True, False, False, False, False, True, True]


@st.composite
def weeks(draw: st.DrawFn) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Of each day the cuts of the day, taken in pairs."""
    cuts = [sorted(draw(st.sets(st.integers(0, 1440), max_size=6))) for _ in range(7)]
    return tuple(tuple(zip(day[::2], day[1::2], strict=False)) for day in cuts)


@given(week=weeks().filter(any))
def test_hours_are_read_as_they_are_written(week: tuple[tuple[tuple[int, int], ...], ...]) -> None:
    hours = OpeningHours(week)
    assert OpeningHours.parse(str(hours)) == hours


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "''"),
        ("mon", "'mon' is not a day with its hours"),
        ("mon, tue 09:00-12:00", "'mon' is not a day with its hours"),
        ("mon-fri 09:00-17:00,", "'' is not a day with its hours"),
        ("mom 09:00-17:00", "'mom' is not one of mon, tue"),
        ("mom 09:00-17:00", "Did you mean 'mon'?"),
        ("mon- 09:00-17:00", "'' is not one of mon, tue"),
        ("monday 09:00-17:00", "Did you mean 'mon'?"),
        ("mon 9-17", "'9-17' is not a span of hours"),
        ("mon 09:00-17:00; tue 09:00-17:00", "'09:00-17:00;' is not a span of hours"),
        ("mon ٠٩:00-17:00", "is not a span of hours"),
        ("mon 09:00-16:60", "an hour has 60 minutes"),
        ("mon 09:00-25:00", "'09:00-25:00' lies outside of the day"),
        ("mon 24:00-25:00", "lies outside of the day"),
        ("mon 22:00-06:00", "two spans, '22:00-24:00' and '00:00-06:00' of the next day"),
        ("mon 09:00-09:00", "does not close after it opens"),
        ("mon 09:00-12:00 11:59-17:00", "on mon '09:00-12:00' and '11:59-17:00' overlap"),
        ("mon-fri 09:00-17:00, wed 10:00-11:00", "on wed '09:00-17:00' and '10:00-11:00' overlap"),
    ],
)
def test_nonsense_is_one_line_that_says_what_was_expected(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match="expected days and hours such as") as caught:
        OpeningHours.parse(text)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("week", [(CLOSED,) * 7, (((540, 1020),),) * 5, (((540, 540),),) * 7, (((-1, 9),),) * 7])
def test_hours_that_never_open_or_are_of_no_week_are_refused(week: tuple[tuple[tuple[int, int], ...], ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        OpeningHours(week)


def test_the_bank_holidays_of_a_year_include_substitute_days() -> None:
    """As published for England and Wales in 2026; and 26 December itself, which is a Saturday."""
    published = ["01-01", "04-03", "04-06", "05-04", "05-25", "08-31", "12-25", "12-28"]
    expected = {date.fromisoformat(f"2026-{day}") for day in published} | {date(2026, 12, 26)}
    assert bank_holidays("GB-ENG")(2026) == bank_holidays("gb-wls")(2026) == expected


def test_no_bank_holidays_may_be_asked_for() -> None:
    assert bank_holidays("none")(2026) == frozenset()


def test_a_country_has_its_own() -> None:
    assert date(2026, 7, 14) in bank_holidays("FR")(2026)


@pytest.mark.parametrize(
    ("region", "near"),
    [("", ""), ("England", ""), ("XX", ""), ("GB-EN", "Did you mean 'GB-ENG'?"), ("GB-", ""), ("GB-UK", "")],
)
def test_a_region_of_which_nothing_is_known_is_named_with_what_was_expected(region: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"{region!r}; expected a country .* or none") as caught:
        bank_holidays(region)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)
