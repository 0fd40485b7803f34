"""A second, slow and simple reading of docs/rules.md §6 and §7: what each of the thirteen reports must say.

Written from the rules alone, on the plain dicts of `tests/support/oracle/reference.py`; it imports nothing of caselog,
so it shares no mistake with it. Every report is computed from all logs, each time that it is asked for.

Where the rules leave room, it takes them so:

* The day of a callback is the day that it is booked for (`requires_action_at`), not the day on which it was booked.
* A report of months has the month of `first`, the month of `last` and those between, whole.
* By week (from Monday) or by month, a report of days adds up those of the days asked for that lie in it. How many
  cases is counted over the whole week or month, and a mean is that of all its facts.
* A group of which there is nothing to count has no row.
* A cancelled timer did not stop: `handling_time` leaves it out. The cases are the different ones that its timers are
  linked to. A timer counts also where the log that stopped it is suppressed.
* The operator of `operator_volume` is the actor of a log in the role of operator or operator manager. That of
  `handling_time` is the timer's actor, whoever it is.
* A case's present category is the one that it has when everything is folded, whatever `now` and the days asked for.
* `web_callback_only`: all three, the source WEB, no eligibility state in the context, and created by the role `web`.
* Out of hours is before opening and from closing on: at 20:00 sharp nobody is there any more.
* `provider_performance`: an assignment is one of the four codes; a split case keeps its provider and assigns nobody.
  It lasts until the next one of its case, COI or MIS, and what became of it is what the case's columns said last in
  that time. It is rejected or closed by what last closed it: an event `reject_case` (COI and MIS are) or another one.
* `attempt` is the case's `callback_attempt` after the log, for PCB too.
* A callback whose time is not up has missed nothing, and a complaint whose time is not up is within it.
* A complaint is known by its case and its name, and begins with the log that first opens it (§5); logs before that are
  none of its. The owner is `context.owner`, whatever the complaint's event. The letters are the first ones; nothing
  stands for a letter that was not sent, neither the closing nor the voiding. What ends a complaint (§5) sets
  `closed_at`; to be opened again, by COMPLAINT_REOPENED or a second COMPLAINT_CREATED of its name, empties it and
  `voided` and nothing else: neither the letters nor the days begin anew.
* A void complaint is in no SLA: neither within nor outside of either.
* `billable_time` so far: Σ `timer_seconds` of the case's rows up to and with this one, so that it ends at the case's.
  A suppressed log repeats the case's latest unsuppressed outcome at level HIGH or above.
* A context value that is null, or no time with an offset, is no deadline.
* Reports with the same rows in another order are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import holidays

from support.oracle.reference import ASSIGNMENTS, CALLBACKS, FACTS, Identity, Outcome

Row = dict[str, Any]
ALTERNATIVE_HELP = ("IRKB", "COSPF", "SPFN", "SPFM", "EDFF")
_RESOLVED = """
    TERM ABND PCB COPE DUPL INSUF IRCB DESP DECL IRKB MRCC NRES SAME COSPF SPFM EDFF SPFN CBSP MANALC MANREF RDSP REFSP
    SPOR WROF REFDPA RELBD RSTR NOLA
"""
RESOLVED = frozenset(_RESOLVED.split())
RESETS_CALLBACK = (*ASSIGNMENTS, *ALTERNATIVE_HELP, "CBC", "CALLBACK_COMPLETE")
OPERATORS = ("operator", "operator_manager")
DEADLINES = {"sla_15": 15, "sla_30": 30, "sla_120": 120, "sla_480": 480, "sla_72h": 4320}
_BANK_HOLIDAYS = holidays.country_holidays("GB", subdiv="ENG")  # Wales has the same


# --- §6: working time ---


def _hours(day: date, zone: ZoneInfo) -> tuple[datetime, datetime] | None:
    """When the operators begin on a day, and when they go; None: nobody comes."""
    if day.weekday() == 6 or day in _BANK_HOLIDAYS:
        return None
    closes = time(20) if day.weekday() < 5 else time(12, 30)
    return datetime.combine(day, time(9), zone).astimezone(UTC), datetime.combine(day, closes, zone).astimezone(UTC)


def is_open(moment: datetime, zone: ZoneInfo) -> bool:
    """Whether operators are there at a moment."""
    hours = _hours(moment.astimezone(zone).date(), zone)
    return hours is not None and hours[0] <= moment < hours[1]


def after_working_minutes(moment: datetime, minutes: int, zone: ZoneInfo) -> datetime:
    """So many minutes of the operators' hours after a moment."""
    left, day = timedelta(minutes=minutes), moment.astimezone(zone).date()
    while True:
        hours = _hours(day, zone)
        if hours is not None:
            opens, closes = hours
            start = max(moment.astimezone(UTC), opens)
            open_for = max(closes - start, timedelta())
            if left <= open_for:
                return start + left
            left -= open_for
        day += timedelta(days=1)


def after_working_days(moment: datetime, days: int, zone: ZoneInfo) -> datetime:
    """So many days that are neither Sundays nor bank holidays after a moment, at the same time of day."""
    local = moment.astimezone(zone)
    day = local.date()
    while days > 0:
        day += timedelta(days=1)
        if day.weekday() != 6 and day not in _BANK_HOLIDAYS:
            days -= 1
    return datetime.combine(day, local.time(), zone)


# --- the logs, as reports see them ---


@dataclass(frozen=True)
class _World:
    """All that stands, and what is asked of it."""

    outcome: Outcome
    first: date
    last: date
    now: datetime
    zone: ZoneInfo
    by: str

    def day(self, moment: datetime) -> date:
        return moment.astimezone(self.zone).date()

    def covers(self, moment: datetime) -> bool:
        return self.first <= self.day(moment) <= self.last

    def period(self, moment: datetime) -> date:
        """The first day of the day, week or month."""
        day = self.day(moment)
        if self.by == "week":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self.by == "month" else day

    @cached_property
    def whole_lives(self) -> list[list[Row]]:
        """The logs of each case, suppressed or not, in order: its creation before all others."""
        lives: dict[str, list[Row]] = {}
        for identity, log in self.outcome.logs.items():
            if log["case"] is not None:
                lives.setdefault(log["case"], []).append(log | {"identity": identity})
        return [sorted(life, key=_place) for _, life in sorted(lives.items())]

    @cached_property
    def lives(self) -> list[list[Row]]:
        """The unsuppressed logs of each case, in order."""
        return [[log for log in life if not log["suppressed"]] for life in self.whole_lives]

    def category(self, log: Row) -> Any:
        """The present category of a log's case."""
        return self.outcome.cases[log["case"]]["category"]

    @property
    def logs(self) -> Iterator[Row]:
        for life in self.lives:
            yield from life

    @cached_property
    def seconds_by_log(self) -> dict[Identity, int]:
        """The seconds of timers, by the unsuppressed log that stopped them or that the one that did repeats."""
        last: dict[Identity, Identity] = {}
        for identity, log in sorted(self.outcome.logs.items(), key=lambda one: (one[1]["occurred_at"], *one[0])):
            if log["timer"] is not None:
                last[log["timer"]] = identity
        found: dict[Identity, int] = {}
        for life in self.whole_lives:
            repeated: Identity | None = None
            for log in life:
                if not log["suppressed"] and _is_outcome(log) and log["level"] >= 29:
                    repeated = log["identity"]
                if log["timer"] is None or last[log["timer"]] != log["identity"]:
                    continue
                timer = self.outcome.timers[log["timer"]]
                if timer["stopped_at"] is not None and not timer["cancelled"]:
                    owner = repeated if log["suppressed"] else log["identity"]
                    assert owner is not None
                    found[owner] = found.get(owner, 0) + timer["seconds"]
        return found


def _place(log: Row) -> tuple[Any, ...]:
    """Where a log comes in its case's order."""
    created = log["code"] == "CASE_CREATED" and not log["suppressed"]
    return (not created, log["occurred_at"], *log["identity"])


def _is_outcome(log: Row) -> bool:
    return bool(log["type"] == "outcome")


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


Group = dict[tuple[Any, ...], list[Any]]


def _groups(facts: Iterable[tuple[tuple[Any, ...], Any]]) -> Group:
    groups: Group = {}
    for key, fact in facts:
        groups.setdefault(key, []).append(fact)
    return groups


def _mean(values: Iterable[timedelta | None]) -> float | None:
    known = [value.total_seconds() for value in values if value is not None]
    return sum(known) / len(known) if known else None


# --- §7: counts ---


def _outcomes(world: _World) -> list[Row]:
    groups = _groups(
        (
            (world.period(log["occurred_at"]), log["key"], log["code"], *_dimensions(log)),
            log,
        )
        for log in world.logs
        if _is_outcome(log) and world.covers(log["occurred_at"])
    )
    names = ("day", "key", "code", "category", "provider", "organisation", "source")
    return [dict(zip(names, key, strict=True)) | {"outcomes": len(logs)} for key, logs in groups.items()]


def _dimensions(log: Row) -> tuple[Any, ...]:
    return (log["category"], log["provider"], log["organisation"], log["case_source"])


def _contacts_per_case(world: _World) -> list[Row]:
    groups = _groups(
        ((month, world.category(life[0])), sum(map(_is_contact, life)))
        for life in world.lives
        for month in [world.day(life[0]["occurred_at"]).replace(day=1)]
        if world.first.replace(day=1) <= month <= world.last
    )
    return [
        {
            "month": month,
            "category": category,
            "cases": len(contacts),
            "contacts": sum(contacts),
            "contacts_per_case": sum(contacts) / len(contacts),
        }
        for (month, category), contacts in groups.items()
    ]


def _is_contact(log: Row) -> bool:
    return _is_outcome(log) and FACTS[log["key"], log["code"]].stops_timer


def _case_volume(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(log["occurred_at"]), log["case_source"], log["organisation"], world.category(log)), log)
        for log in world.logs
        if log["code"] == "CASE_CREATED" and world.covers(log["occurred_at"])
    )
    return [
        {
            "day": day,
            "source": source,
            "organisation": organisation,
            "category": category,
            "cases": len(logs),
            "web_callback_only": sum(
                source == "WEB" and log["role"] == "web" and log["context"].get("eligibility_state") is None
                for log in logs
            ),
        }
        for (day, source, organisation, category), logs in groups.items()
    ]


def _handling_time(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(timer["stopped_at"]), timer["actor"]), timer)
        for timer in world.outcome.timers.values()
        if timer["stopped_at"] is not None and not timer["cancelled"] and world.covers(timer["stopped_at"])
    )
    rows = []
    for (day, operator), timers in groups.items():
        seconds = sum(timer["seconds"] for timer in timers)
        row = {"day": day, "operator": operator, "timers": len(timers), "seconds": seconds}
        rows.append(row | {"mean_seconds": seconds / len(timers), "cases": len({timer["case"] for timer in timers})})
    return rows


def _operator_volume(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(log["occurred_at"]), log["actor"]), log)
        for log in world.logs
        if log["role"] in OPERATORS and world.covers(log["occurred_at"])
        if log["code"] == "CASE_CREATED" or _is_outcome(log)
    )
    return [
        {
            "day": day,
            "operator": operator,
            "cases_created": sum(log["code"] == "CASE_CREATED" for log in logs),
            "outcomes": sum(map(_is_outcome, logs)),
            "assignments": sum(log["code"] in ASSIGNMENTS for log in logs),
        }
        for (day, operator), logs in groups.items()
    ]


def _provider_allocation(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(log["occurred_at"]), log["category"], log["provider"]), log)
        for log in world.logs
        if log["code"] in ("REFSP", "MANALC", "SPOR") and world.covers(log["occurred_at"])
    )
    return [
        {
            "day": day,
            "category": category,
            "provider": provider,
            "assigned": len(logs),
            "assigned_out_of_hours": sum(not is_open(log["occurred_at"], world.zone) for log in logs),
        }
        for (day, category, provider), logs in groups.items()
    ]


def _alternative_help(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(log["occurred_at"]), log["code"], log["category"]), log)
        for log in world.logs
        if log["code"] in ALTERNATIVE_HELP and world.covers(log["occurred_at"])
    )
    return [
        {"day": day, "code": code, "category": category, "referrals": len(logs)}
        for (day, code, category), logs in groups.items()
    ]


# --- §7: providers ---


def _provider_performance(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(one["assigned"]), one["provider"]), one)
        for life in world.lives
        for one in _assignments(life)
        if world.covers(one["assigned"])
    )
    rows = []
    for (day, provider), ones in groups.items():
        row = {
            "day": day,
            "provider": provider,
            "assigned": len(ones),
            "viewed": sum(one["viewed"] is not None for one in ones),
            "accepted": sum(one["accepted"] is not None for one in ones),
            "rejected": sum(one["rejected"] for one in ones),
            "closed": sum(one["closed"] is not None for one in ones),
        }
        row["mean_seconds_to_view"] = _mean(_between(one["assigned"], one["viewed"]) for one in ones)
        row["mean_seconds_to_accept"] = _mean(_between(one["assigned"], one["accepted"]) for one in ones)
        row["mean_seconds_to_close"] = _mean(_between(one["accepted"], one["closed"]) for one in ones)
        rows.append(row)
    return rows


def _between(start: datetime | None, end: datetime | None) -> timedelta | None:
    return None if start is None or end is None else end - start


def _assignments(life: list[Row]) -> list[Row]:  # noqa: C901 - the table of §5, row by row
    """What became of each stay with a provider."""
    assignments: list[Row] = []
    one: Row | None = None
    for log in life:
        key, code, at = log["key"], log["code"], log["occurred_at"]
        if code in ASSIGNMENTS:
            one = {"provider": log["context"]["provider"], "assigned": at, "viewed": None, "accepted": None}
            one |= {"closed": None, "rejected": False}
            assignments.append(one)
        elif one is None:
            continue
        elif code == "CASE_VIEWED":
            if log["role"] == "specialist" and log["actor_provider"] == one["provider"]:
                one["viewed"] = one["viewed"] or at
        elif code == "SPOP":
            one |= {"accepted": one["accepted"] or at, "closed": None, "rejected": False}
        elif code in ("CLSP", "DREFER"):
            one |= {"closed": at, "rejected": False}
        elif code == "REOPEN":
            one |= {"closed": None, "rejected": False}
        elif key == "reject_case":
            one |= {"closed": None, "rejected": True}
            if code in ("COI", "MIS"):
                one = None
    return assignments


# --- §7: callbacks ---


def _callbacks(world: _World) -> list[Row]:
    return [row for row in _all_callbacks(world) if world.covers(row["window_start"])]


def _all_callbacks(world: _World) -> Iterator[Row]:
    for life in world.lives:
        for position, log in enumerate(life):
            if log["code"] == "CB1":
                # Who wrote or spoke waits from then on; who is called at a time of theirs, from that time on.
                created = life[0]["occurred_at"] if log["case_source"] in ("SMS", "VOICEMAIL") else None
                yield _callback(log, life[position + 1 :], created, world)


def _callback(cb1: Row, later: list[Row], created: datetime | None, world: _World) -> Row:
    start = _moment(cb1["context"]["requires_action_at"])
    assert start is not None
    end = start + timedelta(minutes=30)
    deadline = {
        name: _moment(cb1["context"].get(name)) or after_working_minutes(created or start, minutes, world.zone)
        for name, minutes in DEADLINES.items()
    }
    contacts = [
        log for log in later if log["role"] in OPERATORS and log["level"] >= 29 and log["type"] in ("outcome", "event")
    ]
    contacted_at = contacts[0]["occurred_at"] if contacts else None
    calls = [log["occurred_at"] for log in later if log["code"] == "CALL_STARTED"]
    resolutions = [log["occurred_at"] for log in later if log["code"] in RESOLVED]
    row = {
        "reference": cb1["case"],
        "source": cb1["case_source"],
        "organisation": cb1["organisation"],
        "window_start": start,
        "window_end": end,
        "first_contact_at": contacted_at,
        "next_outcome": contacts[0]["code"] if contacts else None,
        "call_started_at": calls[0] if calls else None,
        "resolved_at": resolutions[0] if resolutions else None,
    }
    if cb1["case_source"] in ("WEB", "PHONE"):
        row["missed_sla_1"] = world.now > end if contacted_at is None else not start <= contacted_at <= end
        row["missed_sla_2"] = _is_late(row["resolved_at"], deadline["sla_72h"], world.now)
    else:
        row["missed_sla_1"] = _is_late(row["call_started_at"], deadline["sla_120"], world.now)
        row["missed_sla_2"] = _is_late(row["resolved_at"], deadline["sla_480"], world.now)
    return row


def _is_late(happened: datetime | None, deadline: datetime, now: datetime) -> bool:
    return (now if happened is None else happened) > deadline


def _callback_sla(world: _World) -> list[Row]:
    groups = _groups(
        ((world.period(row["window_start"]), row["source"], row["organisation"]), row)
        for row in _all_callbacks(world)
        if world.covers(row["window_start"])
    )
    rows = []
    for (day, source, organisation), callbacks in groups.items():
        missed = sum(row["missed_sla_1"] for row in callbacks)
        rows.append(
            {
                "day": day,
                "source": source,
                "organisation": organisation,
                "callbacks": len(callbacks),
                "missed_sla_1": missed,
                "missed_sla_2": sum(row["missed_sla_2"] for row in callbacks),
                "within_sla_1_percent": 100 * (len(callbacks) - missed) / len(callbacks),
            }
        )
    return rows


def _callback_progression(world: _World) -> list[Row]:
    rows = []
    for life in world.lives:
        attempt = 0
        for log in life:
            if log["code"] in RESETS_CALLBACK:
                attempt = 0
            if log["code"] not in CALLBACKS:
                continue
            attempt += 1
            at = _moment(log["context"]["requires_action_at"])
            assert at is not None
            if world.covers(at):
                rows.append(
                    {
                        "reference": log["case"],
                        "callback_at": at,
                        "slot": at.astimezone(world.zone).strftime("%H:%M"),
                        "source": log["case_source"],
                        "code": log["code"],
                        "attempt": attempt,
                        "logged_at": log["occurred_at"],
                    }
                )
    return rows


# --- §7: complaints ---


def _complaints(world: _World) -> list[Row]:
    rows: list[Row] = []
    for life in world.lives:
        its: dict[str | None, Row] = {}
        for log in life:
            if log["key"] == "complaint":
                _follow(its, log)
        rows.extend(its.values())
    rows = [row for row in rows if world.covers(row["created_at"])]
    for row in rows:
        within = {"within_holding_sla": ("holding_letter_at", 1), "within_sla": ("closed_at", 15)}
        for name, (done, days) in within.items():
            deadline = after_working_days(row["created_at"], days, world.zone)
            row[name] = None if row["voided"] else not _is_late(row[done], deadline, world.now)
    return rows


def _follow(its: dict[str | None, Row], log: Row) -> None:
    """What a log does to the complaint that it names."""
    name, code, at = log["context"].get("complaint"), log["code"], log["occurred_at"]
    opens = code in ("COMPLAINT_CREATED", "COMPLAINT_REOPENED")
    if opens and name not in its:
        its[name] = {
            "reference": log["case"],
            "complaint": name,
            "owner": None,
            "created_at": at,
            "holding_letter_at": None,
            "full_response_at": None,
        }
    if name not in its:
        return
    complaint = its[name]
    complaint["owner"] = log["context"].get("owner") or complaint["owner"]
    if opens:
        complaint |= {"closed_at": None, "voided": False}
    elif code == "HOLDING_LETTER_SENT":
        complaint["holding_letter_at"] = complaint["holding_letter_at"] or at
    elif code == "FULL_RESPONSE_SENT":
        complaint["full_response_at"] = complaint["full_response_at"] or at
    elif code in ("COMPLAINT_CLOSED", "COMPLAINT_VOID"):
        complaint |= {"closed_at": at, "voided": code == "COMPLAINT_VOID"}


# --- §7: the extract ---


def _outcome_extract(world: _World) -> list[Row]:
    rows = []
    for life in world.lives:
        so_far = 0
        for log in filter(_is_outcome, life):
            seconds = world.seconds_by_log.get(log["identity"])
            so_far += seconds or 0
            if world.covers(log["occurred_at"]):
                rows.append(
                    {
                        "reference": log["case"],
                        "time": log["occurred_at"],
                        "key": log["key"],
                        "code": log["code"],
                        "actor": log["actor"],
                        "category": log["category"],
                        "provider": log["provider"],
                        "organisation": log["organisation"],
                        "source": log["case_source"],
                        "timer_seconds": seconds,
                        "billable_time": so_far,
                    }
                )
    return rows


REPORTS: dict[str, Callable[[_World], list[Row]]] = {
    "outcomes": _outcomes,
    "contacts_per_case": _contacts_per_case,
    "case_volume": _case_volume,
    "handling_time": _handling_time,
    "operator_volume": _operator_volume,
    "provider_allocation": _provider_allocation,
    "provider_performance": _provider_performance,
    "alternative_help": _alternative_help,
    "callbacks": _callbacks,
    "callback_sla": _callback_sla,
    "callback_progression": _callback_progression,
    "complaints": _complaints,
    "outcome_extract": _outcome_extract,
}
OF_DAYS = [
    name
    for name, its in REPORTS.items()
    if its not in (_contacts_per_case, _callbacks, _callback_progression, _complaints, _outcome_extract)
]
"""Those whose first column is a day; only these are also by week and by month."""


def report(
    name: str,
    outcome: Outcome,
    *,
    first: date,
    last: date,
    now: datetime,
    zone: str = "Europe/London",
    by: str = "day",
) -> list[Row]:
    """The rows of a report, in no order. By week or by month, the column `day` has its first day."""
    return REPORTS[name](_World(outcome, first, last, now, ZoneInfo(zone), by))
