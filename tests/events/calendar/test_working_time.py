"""Working time is counted by the clock on the wall, on the days on which the office is open (docs/rules.md §6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caselog.events.calendar.bank_holidays import DEFAULT_REGION, Holidays, bank_holidays, no_holidays
from caselog.events.calendar.opening_hours import DEFAULT_HOURS, OpeningHours
from caselog.events.calendar.working_time import CALLBACK_MINUTES, WorkingTime

LONDON = ZoneInfo("Europe/London")
MINUTE = timedelta(minutes=1)
Office = tuple[OpeningHours, Holidays, ZoneInfo]
ENGLAND = bank_holidays(DEFAULT_REGION)
OFFICE = WorkingTime(OpeningHours.parse(DEFAULT_HOURS), ENGLAND, LONDON)
# Night shifts meet the change of the clocks; 01:15 and 01:45 lie in the hour that is skipped or comes twice.
HOURS = [
    DEFAULT_HOURS,
    "mon-fri 09:00-12:00 13:00-17:00",
    "mon-sun 00:00-24:00",
    "fri-mon 22:00-24:00, sat-mon 00:00-06:00",
    "sun 00:30-01:15 01:45-04:00",
    "sun 01:15-01:45, mon 23:59-24:00",
]
# Summer time of an hour and of half an hour, at midnight, far from UTC on both sides; none at all.
ZONES = ["Europe/London", "Australia/Lord_Howe", "Asia/Beirut", "Pacific/Auckland", "America/St_Johns", "UTC"]
# Each is followed within days by a change of the clocks in one of the zones, or by bank holidays.
WEEKS = [
    datetime(2026, 3, 24, tzinfo=UTC),
    datetime(2026, 4, 1, tzinfo=UTC),
    datetime(2026, 9, 23, tzinfo=UTC),
    datetime(2026, 10, 21, tzinfo=UTC),
    datetime(2010, 11, 4, tzinfo=UTC),  # St John's changed at one minute past midnight then
    datetime(2026, 12, 23, tzinfo=UTC),
    datetime(2021, 12, 23, tzinfo=UTC),
    datetime(1969, 12, 30, tzinfo=UTC),
]


def london(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=LONDON)


offices = st.builds(
    lambda hours, holidays, zone: (OpeningHours.parse(hours), holidays, ZoneInfo(zone)),
    st.sampled_from(HOURS),
    st.sampled_from([ENGLAND, no_holidays]),
    st.sampled_from(ZONES),
)
moments = st.builds(
    lambda week, minutes, rest: week + timedelta(minutes=minutes, microseconds=rest),
    st.sampled_from(WEEKS),
    st.integers(0, 6 * 1440),
    st.sampled_from([0, 0, 1, 30_000_000, 59_999_999]),
)
counts = st.one_of(st.integers(0, 5), st.integers(0, 600), st.sampled_from(sorted(CALLBACK_MINUTES.values())))


# --- the oracle: the clock on the wall, looked at every minute ---


def is_open(office: Office, moment: datetime) -> bool:
    hours, holidays, zone = office
    wall = moment.astimezone(zone)
    minutes = wall.hour * 60 + wall.minute
    return wall.date() not in holidays(wall.year) and any(a <= minutes < b for a, b in hours.week[wall.weekday()])


def stepped(office: Office, moment: datetime, minutes: int) -> datetime:
    """Every opening, closing and change of the clocks is at a full minute, so each part of a minute is open or not."""
    if minutes == 0 and is_open(office, moment - timedelta(microseconds=1)):
        return moment  # just closing
    left = minutes * MINUTE
    step = MINUTE - timedelta(seconds=moment.second, microseconds=moment.microsecond)
    for _ in range(60 * 1440):
        if is_open(office, moment):
            if left <= step:
                return moment + left
            left -= step
        moment += step
        step = MINUTE
    raise AssertionError("the office never opens")


@settings(max_examples=200, deadline=None)
@given(office=offices, moment=moments, minutes=counts)
def test_adding_minutes_is_looking_at_the_clock_every_minute(office: Office, moment: datetime, minutes: int) -> None:
    """Also in the nights in which the clocks change, from within a minute, and for hours with several spans."""
    a_week = sum(closing - opening for spans in office[0].week for opening, closing in spans)
    minutes = min(minutes, 600, 2 * a_week)  # whoever looks every minute has no patience for months
    assert WorkingTime(*office).add_minutes(moment, minutes) == stepped(office, moment, minutes)


@pytest.mark.parametrize("zone", [*ZONES, "Pacific/Kiritimati"])
@pytest.mark.parametrize("minutes", [0, 1, 480])
@pytest.mark.parametrize("year", [1994, 2026])
def test_a_year_ends_like_any_other_day(zone: str, minutes: int, year: int) -> None:
    """In any zone, whose year ends before or after UTC's; Kiritimati had no 31st of December 1994."""
    for hours in ("mon-sun 00:00-24:00", "mon-sun 18:00-24:00", "mon-thu 02:00-13:00, sun 03:00-12:00"):
        office = (OpeningHours.parse(hours), no_holidays, ZoneInfo(zone))
        working_time = WorkingTime(*office)
        for hour in range(-36, 36, 4):
            moment = (datetime(year + 1, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).astimezone(office[2])
            assert working_time.add_minutes(moment, minutes) == stepped(office, moment.astimezone(UTC), minutes)


@settings(max_examples=200, deadline=None)
@given(office=offices, moment=moments)
def test_the_office_is_open_when_the_clock_on_the_wall_says_so(office: Office, moment: datetime) -> None:
    """From the opening on, and until just before the closing."""
    assert WorkingTime(*office).is_open(moment) == is_open(office, moment)


@pytest.mark.parametrize("zone", [*ZONES, "Pacific/Kiritimati"])
def test_whether_the_office_is_open_is_known_when_a_year_begins(zone: str) -> None:
    for hours in ("mon-sun 00:00-24:00", "mon-sun 18:00-24:00", "mon-thu 02:00-13:00, sun 03:00-12:00"):
        office = (OpeningHours.parse(hours), no_holidays, ZoneInfo(zone))
        for hour in range(-36, 36):
            moment = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
            assert WorkingTime(*office).is_open(moment) == is_open(office, moment)


# --- laws ---


@given(office=offices, moment=moments, first=counts, second=counts)
def test_adding_in_two_steps_is_adding_once(office: Office, moment: datetime, first: int, second: int) -> None:
    working_time = WorkingTime(*office)
    assert working_time.add_minutes(working_time.add_minutes(moment, first), second) == working_time.add_minutes(
        moment, first + second
    )


@given(office=offices, one=moments, other=moments, fewer=counts, more=counts)
def test_a_later_moment_and_more_minutes_are_never_earlier(
    office: Office, one: datetime, other: datetime, fewer: int, more: int
) -> None:
    working_time = WorkingTime(*office)
    deadline = working_time.add_minutes(min(one, other), min(fewer, more))
    assert deadline >= min(one, other)
    assert working_time.add_minutes(max(one, other), min(fewer, more)) >= deadline
    assert working_time.add_minutes(min(one, other), max(fewer, more)) >= deadline


@given(office=offices, moment=moments, minutes=counts)
def test_a_deadline_lies_within_the_opening_hours_or_at_a_closing(
    office: Office, moment: datetime, minutes: int
) -> None:
    """After some minutes it is never at the opening that follows: a moment before, the office was open."""
    deadline = WorkingTime(*office).add_minutes(moment, minutes)
    just_before = is_open(office, deadline - timedelta(microseconds=1))
    assert just_before or (minutes == 0 and is_open(office, deadline))


@given(moment=moments, minutes=counts, zone=st.sampled_from(ZONES))
def test_a_moment_is_the_same_in_every_time_zone(moment: datetime, minutes: int, zone: str) -> None:
    there = moment.astimezone(ZoneInfo(zone))
    assert OFFICE.add_minutes(there, minutes) == OFFICE.add_minutes(moment, minutes)
    assert OFFICE.add_days(there, minutes % 20) == OFFICE.add_days(moment, minutes % 20)
    assert OFFICE.add_minutes(there, minutes).tzinfo is OFFICE.add_days(there, minutes % 20).tzinfo is UTC


# --- docs/rules.md §6, its examples and its calendar ---


@pytest.mark.parametrize(
    ("start", "minutes", "deadline"),
    [
        ("2026-11-23T10:30", 120, "2026-11-23T12:30"),
        ("2026-11-23T10:30", 480, "2026-11-23T18:30"),
        ("2026-11-27T18:00", 120, "2026-11-27T20:00"),
        ("2026-11-27T18:00", 480, "2026-11-30T11:30"),
    ],
)
def test_the_examples_of_the_rules_hold(start: str, minutes: int, deadline: str) -> None:
    """Monday the 23rd and Friday the 27th of November 2026."""
    assert OFFICE.add_minutes(london(start), minutes) == london(deadline)


@pytest.mark.parametrize(
    ("start", "minutes", "deadline"),
    [
        ("2026-12-24T19:00", 120, "2026-12-29T10:00"),  # Fri Christmas, Sat Boxing Day, Mon its substitute
        ("2021-12-24T19:00", 120, "2021-12-29T10:00"),  # Sat and Sun, with Mon and Tue as substitutes
        ("2026-04-02T19:30", 60, "2026-04-04T09:30"),  # Good Friday; the Saturday is worked
        ("2026-04-02T19:30", 30 + 210 + 1, "2026-04-07T09:01"),  # Easter Monday is not
        ("2022-09-16T20:00", 210 + 1, "2022-09-20T09:01"),  # the State Funeral on Monday
        ("2026-12-31T19:30", 60, "2027-01-02T09:30"),  # New Year's Day is a Friday
    ],
)
def test_nobody_works_on_a_bank_holiday_of_england(start: str, minutes: int, deadline: str) -> None:
    assert OFFICE.add_minutes(london(start), minutes) == london(deadline)


@pytest.mark.parametrize(
    ("start", "same"),
    [
        ("2026-11-27T08:59:59.999999", "2026-11-27T09:00"),
        ("2026-11-27T09:00", "2026-11-27T09:00"),
        ("2026-11-27T15:01:02.000003", "2026-11-27T15:01:02.000003"),
        ("2026-11-27T20:00", "2026-11-27T20:00"),
        ("2026-11-27T20:00:00.000001", "2026-11-28T09:00"),
        ("2026-11-29T12:00", "2026-11-30T09:00"),
    ],
)
def test_no_minutes_are_the_moment_itself_until_closing_and_else_the_next_opening(start: str, same: str) -> None:
    assert OFFICE.add_minutes(london(start), 0) == london(same)


def test_a_callback_has_the_deadlines_of_the_rules() -> None:
    """From Monday 10:00: 600 minutes are left of it, then 660 on Tuesday to Friday, 210 on Saturday, 660 on Monday."""
    monday = london("2026-11-23T10:00")
    assert OFFICE.callback_deadlines(monday) == {
        "sla_15": london("2026-11-23T10:15"),
        "sla_30": london("2026-11-23T10:30"),
        "sla_120": london("2026-11-23T12:00"),
        "sla_480": london("2026-11-23T18:00"),
        "sla_72h": london("2026-12-01T09:00") + (4320 - 600 - 4 * 660 - 210 - 660) * MINUTE,
    }


@pytest.mark.parametrize("weeks", [0, 400])
@pytest.mark.parametrize("year", [2, 1066, 1847, 9000])
def test_the_distant_past_and_future_are_counted_too(year: int, weeks: int) -> None:
    """Without bank holidays and clocks that change, whole weeks repeat."""
    office = WorkingTime(OpeningHours.parse(DEFAULT_HOURS), no_holidays, UTC)
    week = 5 * 660 + 210
    monday = datetime(year, 6, 1, 9, tzinfo=UTC)
    monday -= timedelta(days=monday.weekday())
    assert office.add_minutes(monday, weeks * week + 60) == monday + timedelta(weeks=weeks) + 60 * MINUTE


def test_beyond_the_calendar_it_overflows() -> None:
    assert OFFICE.add_minutes(datetime(9998, 12, 31, 19, tzinfo=UTC), 120) == datetime(9999, 1, 1, 10, tzinfo=UTC)
    with pytest.raises(OverflowError, match="2 to 9999"):
        OFFICE.add_minutes(datetime(9999, 12, 30, 19, tzinfo=UTC), 120)
    with pytest.raises(OverflowError, match="2 to 9999"):
        OFFICE.add_minutes(datetime(1, 6, 1, tzinfo=UTC), 0)
    with pytest.raises(OverflowError):
        OFFICE.add_minutes(datetime(1, 1, 1, tzinfo=UTC), 0)
    with pytest.raises(OverflowError):
        OFFICE.add_days(datetime(9999, 12, 31, tzinfo=UTC), 2)


@pytest.mark.parametrize(
    ("moment", "there"),
    [
        ("2026-11-23T08:59:59.999999", False),
        ("2026-11-23T09:00", True),
        ("2026-11-23T19:59:59.999999", True),
        ("2026-11-23T20:00", False),
        ("2026-11-28T12:29", True),
        ("2026-11-28T12:30", False),
        ("2026-11-29T12:00", False),
        ("2026-12-25T12:00", False),
        ("2026-12-28T12:00", False),  # in place of Boxing Day, a Saturday
        ("2026-12-29T12:00", True),
    ],
)
def test_operators_are_there_from_opening_until_closing(moment: str, there: bool) -> None:  # noqa: FBT001 - expected
    assert OFFICE.is_open(london(moment)) is there


def test_a_moment_without_a_time_zone_and_a_negative_count_are_refused() -> None:
    monday = london("2026-11-23T10:30")
    with pytest.raises(ValueError, match="has no time zone"):
        OFFICE.is_open(monday.replace(tzinfo=None))
    for add in (OFFICE.add_minutes, OFFICE.add_days):
        with pytest.raises(ValueError, match="has no time zone"):
            add(monday.replace(tzinfo=None), 1)
        with pytest.raises(ValueError, match="-1 is negative"):
            add(monday, -1)


# --- working days ---


@given(moment=moments, days=st.integers(0, 40), zone=st.sampled_from(ZONES))
def test_days_are_counted_one_by_one_after_the_day_of_the_moment(moment: datetime, days: int, zone: str) -> None:
    """With the time of day kept, where the day found has it once."""
    wall = moment.astimezone(ZoneInfo(zone))
    expected = wall.replace(fold=0)
    for _ in range(days):
        expected += timedelta(days=1)
        while expected.weekday() == 6 or expected.date() in ENGLAND(expected.year):
            expected += timedelta(days=1)
    assume(expected.utcoffset() == expected.replace(fold=1).utcoffset())
    found = WorkingTime(OpeningHours.parse("sun 10:00-11:00"), ENGLAND, ZoneInfo(zone)).add_days(moment, days)
    assert found == (expected if days else moment)


@pytest.mark.parametrize(
    ("start", "days", "due"),
    [
        ("2026-11-27T16:12:03.5", 1, "2026-11-28T16:12:03.5"),  # a Saturday is a working day
        ("2026-11-28T16:12", 1, "2026-11-30T16:12"),
        ("2026-11-29T16:12", 1, "2026-11-30T16:12"),  # received on a Sunday
        ("2026-12-25T23:30", 1, "2026-12-29T23:30"),  # received on a bank holiday
        ("2026-12-10T09:00", 15, "2026-12-31T09:00"),  # 10 days to the 22nd; 23, 24, 29, 30, 31
        ("2026-10-24T10:00", 1, "2026-10-26T10:00"),  # 10:00 summer time, 10:00 winter time
    ],
)
def test_a_working_day_is_neither_a_sunday_nor_a_bank_holiday(start: str, days: int, due: str) -> None:
    assert OFFICE.add_days(london(start), days) == london(due)


def test_a_time_that_the_clocks_skip_is_due_when_they_have_changed() -> None:
    """Cairo's clocks went from Friday the 25th of April 2025, 00:00 to 01:00."""
    cairo = ZoneInfo("Africa/Cairo")
    office = WorkingTime(OpeningHours.parse(DEFAULT_HOURS), no_holidays, cairo)
    for minute in (0, 20, 59):
        due = office.add_days(datetime(2025, 4, 24, 0, minute, tzinfo=cairo), 1)
        assert due == datetime(2025, 4, 24, 22, 0, tzinfo=UTC)
    assert office.add_days(datetime(2025, 4, 24, 1, tzinfo=cairo), 1) == datetime(2025, 4, 24, 22, 0, tzinfo=UTC)


def test_a_time_that_comes_twice_is_due_the_first_time() -> None:
    """Cairo's clocks went from Friday the 31st of October 2025, 00:00 back to Thursday 23:00."""
    cairo = ZoneInfo("Africa/Cairo")
    office = WorkingTime(OpeningHours.parse(DEFAULT_HOURS), no_holidays, cairo)
    due = office.add_days(datetime(2025, 10, 29, 23, 30, tzinfo=cairo), 1)
    assert due == datetime(2025, 10, 30, 20, 30, tzinfo=UTC)
    second = datetime(2025, 10, 30, 21, 30, tzinfo=UTC)
    assert office.add_days(second, 0) == second
    assert office.add_days(second, 1) == datetime(2025, 10, 31, 21, 30, tzinfo=UTC)
    # 52 weeks later, on the next day that has 23:30 twice.
    assert office.add_days(second, 52 * 6) == datetime(2026, 10, 29, 20, 30, tzinfo=UTC)
