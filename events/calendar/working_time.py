"""Working time: minutes inside the opening hours, and days that are neither Sunday nor bank holiday (docs/rules.md §6).

The office is open at an instant when the clock on its wall shows a time within the opening hours of a day that is no
bank holiday. So where the clocks change inside the hours, an hour that is skipped is not worked and an hour that comes
twice is worked twice: minutes are those that really pass.

A year is laid out once as the spans of instants at which the office is open, with the running total of time worked;
then adding minutes is two binary searches, however many there are. Instants are microseconds since 1970 in UTC.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import isleap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Final

from caselog.events.calendar.bank_holidays import Holidays
from caselog.events.calendar.opening_hours import OpeningHours

CALLBACK_MINUTES: Final[Mapping[str, int]] = MappingProxyType(
    {"sla_15": 15, "sla_30": 30, "sla_120": 120, "sla_480": 480, "sla_72h": 4320}
)
"""The deadlines of a callback, in working minutes since its client began to wait (events/folding/facts.py)."""

HOLDING_LETTER_DAYS: Final = 1
CLOSING_DAYS: Final = 15
"""What a complaint is owed, in working days after its creation: a letter that holds the line, and to be closed."""

# Python's calendar has the years 1 to 9999. A local date may lie a day off the one in UTC, so that of its first year
# nothing is laid out, and of its last all but the last day: whatever an event may name (up to 9998) has its deadlines.
FIRST_YEAR: Final = 2
LAST_YEAR: Final = 9999

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_THURSDAY: Final = _EPOCH.weekday()
_SUNDAY: Final = 6
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = 60_000_000
_DAY: Final = 1440 * _MINUTE

# 128 years are 4 MB; a log's callbacks are of a few. A complaint's deadlines depend on its day: 2,048 are five years.
_YEARS_KEPT: Final = 128
_DAYS_KEPT: Final = 2048


@dataclass(frozen=True)
class _Year:
    """When the office is open in a year of UTC: span i is from starts[i] to ends[i]; worked[i] is all up to its end."""

    starts: list[int]
    ends: list[int]
    worked: list[int]


class WorkingTime:
    """The working time of an office: its opening hours, its bank holidays and its time zone.

    Moments are aware datetimes of any time zone; what is given back is in UTC. Raises ValueError for a naive moment or
    a negative count, and OverflowError where the answer would lie outside of the years 2 to 9999.
    """

    def __init__(self, hours: OpeningHours, holidays: Holidays, zone: tzinfo) -> None:
        self._hours = hours
        self._holidays = holidays
        self._zone = zone
        self._year = lru_cache(maxsize=_YEARS_KEPT)(self._laid_out)
        self._day_after = lru_cache(maxsize=_DAYS_KEPT)(self._counted_on)

    def add_minutes(self, moment: datetime, minutes: int) -> datetime:
        """The moment by which so many working minutes have passed, counted from `moment` or the next opening.

        It lies within the opening hours or at a closing, never at the opening that follows. No minutes are `moment`
        itself where the office is open or just closing, else the next opening: so adding in two steps is adding once,
        and more minutes are never earlier.
        """
        _check(moment, minutes)
        at = _instant(moment)
        # The year that has the microsecond before: midnight on New Year's Eve may be a closing of the old year.
        number = (moment.astimezone(UTC) - _MICROSECOND).year
        year = self._year(number)
        index = bisect_right(year.starts, at) - 1  # the last span that began
        if minutes == 0 and index >= 0 and at <= year.ends[index]:
            return _moment(at)
        before = year.worked[index] - max(year.ends[index] - at, 0) if index >= 0 else 0
        target = before + minutes * _MINUTE
        if minutes == 0:
            # The next opening is one microsecond before the first that is worked.
            return self._worked(number, target + 1) - _MICROSECOND
        return self._worked(number, target)

    def is_open(self, moment: datetime) -> bool:
        """Whether the office is open: from an opening on, until just before the closing."""
        _check(moment, 0)
        at = _instant(moment)
        year = self._year(moment.astimezone(UTC).year)
        index = bisect_right(year.starts, at) - 1
        return index >= 0 and at < year.ends[index]

    def callback_deadlines(self, at: datetime) -> dict[str, datetime]:
        """Each deadline of a callback whose client waits since a moment, by name: `sla_15` and so on."""
        return {name: self.add_minutes(at, minutes) for name, minutes in CALLBACK_MINUTES.items()}

    def add_days(self, moment: datetime, days: int) -> datetime:
        """The local time of day of `moment`, so many working days after its local day.

        A working day is neither a Sunday nor a bank holiday, whatever the opening hours. Days are counted after the
        day of `moment`, which need not be one itself; no days are `moment` itself. Where the clocks change on the day
        found, it is the first moment at which they show that time or a later one.
        """
        _check(moment, days)
        if days == 0:
            return moment.astimezone(UTC)
        local = moment.astimezone(self._zone)
        return self._first_at(self._day_after(local.date(), days), local.time())

    def _worked(self, number: int, target: int) -> datetime:
        """The first moment by which, since the beginning of that year, so much is worked (microseconds, not 0)."""
        while target > self._total(number):
            target -= self._total(number)
            number += 1
        year = self._year(number)
        index = bisect_left(year.worked, target)
        return _moment(year.ends[index] - (year.worked[index] - target))

    def _total(self, number: int) -> int:
        worked = self._year(number).worked
        return worked[-1] if worked else 0

    def _laid_out(self, number: int) -> _Year:
        if not FIRST_YEAR <= number <= LAST_YEAR:
            raise OverflowError(f"working time is known in the years {FIRST_YEAR} to {LAST_YEAR}, not in {number}")
        spans = list(self._open(number))
        worked = accumulate(end - start for start, end in spans)
        return _Year([start for start, _ in spans], [end for _, end in spans], list(worked))

    def _open(self, number: int) -> Iterator[tuple[int, int]]:
        """The spans of instants in a year of UTC at which the office is open, in order."""
        for begin, end in pairwise(self._changes(number)):
            offset = self._offset(begin)
            for day in range((begin + offset) // _DAY, (end + offset - 1) // _DAY + 1):
                spans = self._hours.week[(day + _THURSDAY) % 7]
                if not spans or self._is_holiday(day):
                    continue
                midnight = day * _DAY - offset
                for opening, closing in spans:
                    # Cut where the clocks change: beyond, the wall shows other times.
                    start = max(midnight + opening * _MINUTE, begin)
                    stop = min(midnight + closing * _MINUTE, end)
                    if start < stop:
                        yield start, stop

    def _changes(self, number: int) -> list[int]:
        """The instants that begin and end the year, and those between at which the zone's offset changes."""
        begin = _instant(datetime(number, 1, 1, tzinfo=UTC))
        end = begin + (365 + isleap(number) - (number == LAST_YEAR)) * _DAY
        # A look a day finds them all: no zone of the IANA database has two changes within three days.
        days = range(begin, end + 1, _DAY)
        offsets = [self._offset(day) for day in days]
        changed = [(a, b) for (a, x), (b, y) in pairwise(zip(days, offsets, strict=True)) if x != y]
        return [begin, *(self._change(a, b) for a, b in changed), end]

    def _change(self, before: int, after: int) -> int:
        """The first instant of the new offset, where it differs between the two."""
        old = self._offset(before)
        return before + bisect_left(range(before, after), x=True, key=lambda at: self._offset(at) != old)

    def _offset(self, at: int) -> int:
        """How far the clock on the wall is ahead of UTC, in microseconds."""
        offset = _moment(at).astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset // _MICROSECOND

    def _is_holiday(self, day: int) -> bool:
        there = date.fromordinal(_EPOCH_ORDINAL + day)
        return there in self._holidays(there.year)

    def _counted_on(self, day: date, days: int) -> date:
        """The date that is so many working days after one."""
        while days:
            day += timedelta(days=1)
            if day.weekday() != _SUNDAY and day not in self._holidays(day.year):
                days -= 1
        return day

    def _first_at(self, day: date, clock: time) -> datetime:
        """The first moment at which the clock on the wall shows that day and time, or a later one if it never does."""
        wall = datetime.combine(day, clock.replace(fold=0), self._zone)
        found = wall.astimezone(UTC)
        if found.astimezone(self._zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
            return found
        # Read with the offset after the change, a time that is skipped lies before it, and the other way about.
        return _moment(self._change(_instant(wall.replace(fold=1).astimezone(UTC)), _instant(found)))


def _check(moment: datetime, count: int) -> None:
    if moment.tzinfo is None:
        raise ValueError(f"the moment {moment!r} has no time zone: give it one, such as UTC")
    if count < 0:
        raise ValueError(f"{count!r} is negative: working time is only added")


def _instant(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(instant: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant)
