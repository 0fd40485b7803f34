"""Simulated events: a call centre's days, for the demo and the benchmarks; the same for the same seed, anywhere.

`workers/producers/journeys.py` says what happens to a case. Here is who does it and when: operators with one call at a
time, opening hours, and one stream of events in the order of their times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from caselog.workers.producers.journeys import Journey
from caselog.workers.producers.simulated_case import Act, Actor, Pace, Steps, Visit, rfc3339

Event = dict[str, Any]

FIRST_DAY: Final = date(2025, 1, 6)
FEWEST_DAYS: Final = 5
MOST_DAYS: Final = 200  # the last of them is in August 2025, and its journeys end long in the past
CASES_A_DAY: Final = 25
CALLS_A_DAY: Final = 20
"""What one operator does in a day of eleven hours, with time to spare."""
ZONE: Final = ZoneInfo("Europe/London")
WEEKDAY: Final = (time(9), time(20))
SATURDAY: Final = (time(9), time(12, 30))


def simulate(cases: int, seed: int) -> Iterator[Event]:
    """The events of so many cases' journeys, as CloudEvents, sorted by (time, source, id): about eleven a case.

    The cases begin on working days from January 2025 on, spread over a week to eight months by their number. Bounded
    memory: only the journeys under way are held. Published in this order, no event is refused.
    """
    days = min(max(cases // CASES_A_DAY, FEWEST_DAYS), MOST_DAYS)
    operators = 2 + 3 * cases // (days * CALLS_A_DAY)
    run = f"{cases}-{seed}"
    arrivals = _office_arrivals(_random(run, "arrivals"), cases, days)
    names = [f"op-{number:02d}" for number in range(1, operators + 1)]
    return _play(run, arrivals, OfficeHours(), names)


def live(run: str, now: Callable[[], datetime], cases_a_minute: float = 20.0) -> Iterator[list[Event]]:
    """For ever: at each `next`, the events that have happened since the one before, oldest first, perhaps none.

    No event is ahead of `now()`, the caller's clock, and the caller decides how often to ask. Time runs faster than
    in an office: calls take seconds, and what takes days takes minutes. `run` must be new at each start: ids, case
    references and operators are made from it, so nothing meets what an earlier run left behind.
    """
    rng, start, every = _random(run, "arrivals"), now().astimezone(UTC), 60 / cases_a_minute

    def arrivals() -> Iterator[datetime]:
        at = start
        while True:
            at += timedelta(seconds=every * (0.5 + rng.random()))
            yield at

    names = [f"op-{number:02d}.{run}" for number in range(1, 3 + int(2 * cases_a_minute))]
    events = _play(run, arrivals(), FastHours(), names)
    held = next(events)
    while True:
        moment, group = rfc3339(now().astimezone(UTC)), []
        while held["time"] <= moment:
            group.append(held)
            held = next(events)
        yield group


class OfficeHours:
    """Time as it is: Monday to Friday 09:00 to 20:00, Saturday 09:00 to 12:30, in London."""

    def gap(self, hours: float) -> timedelta:
        return timedelta(milliseconds=int(hours * 3_600_000))

    def visit(self, seconds: float) -> timedelta:
        return timedelta(milliseconds=int(seconds * 1000))

    def open_at(self, moment: datetime, needed: timedelta) -> datetime:
        day = moment.astimezone(ZONE).date()
        while True:
            opening, closing = _hours(day)
            start = max(moment, opening)
            if start + needed <= closing:
                return start
            day += timedelta(days=1)


class FastHours:
    """Time for a demonstration: an hour between visits takes two seconds, and somebody is always there."""

    def gap(self, hours: float) -> timedelta:
        return timedelta(milliseconds=500 + int(hours * 2000))

    def visit(self, seconds: float) -> timedelta:
        return timedelta(milliseconds=int(seconds * 20) + 1)

    def open_at(self, moment: datetime, needed: timedelta) -> datetime:  # noqa: ARG002 - always open
        return moment


@cache
def _hours(day: date) -> tuple[datetime, datetime]:
    """Opening and closing of a day in UTC, equal where it stays closed."""
    opens, closes = WEEKDAY if day.weekday() < 5 else SATURDAY  # noqa: PLR2004 - Saturday
    if day.weekday() == 6:  # noqa: PLR2004 - Sunday
        closes = opens
    return (
        datetime.combine(day, opens, ZONE).astimezone(UTC),
        datetime.combine(day, closes, ZONE).astimezone(UTC),
    )


def _office_arrivals(rng: Random, cases: int, days: int) -> Iterator[datetime]:
    """When each case begins, in order: each open day has its share by the length of its hours."""
    open_days = [FIRST_DAY + timedelta(days=number) for number in range(days * 7 // 6 + 1)]
    lengths = [_hours(day)[1] - _hours(day)[0] for day in open_days]
    total, begun, passed = sum(lengths, timedelta()), 0, timedelta()
    for day, length in zip(open_days, lengths, strict=True):
        passed += length
        share = round(cases * (passed / total)) - begun
        begun += share
        opening = _hours(day)[0]
        # The last half hour takes no new client: a call that begins in it might not end in time.
        span_ms = int((length - timedelta(minutes=30)) / timedelta(milliseconds=1))
        for offset_ms in sorted(rng.randrange(span_ms) for _ in range(share)):
            yield opening + timedelta(milliseconds=offset_ms)


def _play(run: str, arrivals: Iterator[datetime], pace: Pace, operators: list[str]) -> Iterator[Event]:
    """Let journeys begin as they arrive, give each visit to whoever is free, and yield the events in order.

    Visits are taken up in the order of their times, so whatever is older than the next visit can be let go.
    """
    references, numbers = _references(run), count(1)
    waiting: list[tuple[datetime, int, Visit, Steps, _Scribe]] = []
    done: list[tuple[str, str, str, Event]] = []
    free: list[tuple[datetime, str]] = [(datetime(1970, 1, 1, tzinfo=UTC), name) for name in operators]
    heapify(free)
    arriving = next(arrivals, None)
    while waiting or arriving is not None:
        if arriving is not None and (not waiting or arriving <= waiting[0][0]):
            number = next(numbers)
            journey = Journey(_random(run, f"case {number}"), lambda: next(references), pace)
            steps = journey.steps(arriving)
            heappush(waiting, (arriving, number, next(steps), steps, _Scribe(f"{run}-{number:06d}")))
            arriving = next(arrivals, None)
            continue
        at, number, visit, steps, scribe = heappop(waiting)
        horizon = rfc3339(at)
        while done and done[0][0] < horizon:
            yield heappop(done)[3]
        lasts = pace.visit(sum(act.after_s for act in visit.acts) + 60)
        start = pace.open_at(at, lasts)
        if visit.by is None:
            start = max(start, free[0][0])
        if start > at:
            heappush(waiting, (start, number, visit, steps, scribe))
            continue
        if visit.by is None:
            name = heappop(free)[1]
            ended, events = scribe.call(visit, Actor("/call-centre", name, "operator"), at, pace)
            heappush(free, (ended + pace.visit(30), name))
        else:
            ended, events = scribe.visit(visit.acts, visit.by, at, pace)
        for event in events:
            heappush(done, (event["time"], event["source"], event["id"], event))
        try:
            following = steps.send(ended)
        except StopIteration:
            continue
        heappush(waiting, (max(following.at, ended + pace.visit(1)), number, following, steps, scribe))
    while done:
        yield heappop(done)[3]


class _Scribe:
    """Writes down the events of one journey, each with an id of its own: the journey's name and a running number."""

    def __init__(self, journey: str) -> None:
        self.journey = journey
        self.written = 0

    def call(self, visit: Visit, by: Actor, at: datetime, pace: Pace) -> tuple[datetime, list[Event]]:
        """An operator's call under a timer, which the last act stops, or which is cancelled."""
        started = self.event(by, at, "timer", None, {"code": "TIMER_STARTED"})
        at, events = self.visit(visit.acts, by, at, pace, first_s=1)
        if visit.cancelled:
            at += pace.visit(20)
            events.append(self.event(by, at, "timer", None, {"code": "TIMER_CANCELLED"}))
        return at, [started, *events]

    def visit(
        self, acts: list[Act], by: Actor, at: datetime, pace: Pace, first_s: int = 0
    ) -> tuple[datetime, list[Event]]:
        """The acts of a visit one after the other, and when the last one was; the first comes `first_s` after `at`."""
        events = []
        for position, act in enumerate(acts):
            at += pace.visit(act.after_s if position else first_s)
            events.append(self.event(by, at, act.key, act.case, act.data))
        return at, events

    def event(self, by: Actor, at: datetime, key: str, case: str | None, data: dict[str, Any]) -> Event:
        self.written += 1
        actor = {"id": by.id, "role": by.role} | ({"provider": by.provider} if by.provider else {})
        return {
            "specversion": "1.0",
            "id": f"{self.journey}-{self.written:03d}",
            "source": by.source,
            "type": key,
            **({"subject": case} if case is not None else {}),
            "time": rfc3339(at),
            "data": {**data, "actor": actor},
        }


def _random(run: str, purpose: str) -> Random:
    """Chance of its own for each purpose, so that one journey does not change another."""
    return Random(f"{run}/{purpose}")  # noqa: S311 - a simulation must be repeatable, not secret


def _references(run: str) -> Iterator[str]:
    """Case references such as AB-1234-5678, none of them twice."""
    numbers = 26 * 26 * 10**8
    number = _random(run, "references").randrange(numbers)
    while True:
        letters, digits = divmod(number, 10**8)
        first, second = divmod(letters, 26)
        yield f"{chr(65 + first)}{chr(65 + second)}-{digits // 10**4:04d}-{digits % 10**4:04d}"
        number = (number + 15_485_863) % numbers  # a prime that does not divide `numbers`: all come before any repeats
