"""What `events/folding/facts.py` keeps of single cases, worked out by hand from docs/rules.md §6 and §7."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from support.builders.stories import Row, Worked, at, told
from support.builders.worked_callbacks import CALLBACKS
from support.builders.worked_complaints import COMPLAINTS
from support.builders.worked_providers import PROVIDERS
from support.oracle.memory import LONDON, MemoryWorld

from caselog.events.folding.facts import Assignment, Callback, Complaint, Facts
from caselog.events.folding.recompute import Definitions, fold_whole_case

# What a report's column is of the fact. What depends on the moment of asking is told from the fact (docs/rules.md §7).
CALLBACK: Final = {
    "reference": "case_reference", "source": "source", "organisation": "organisation", "code": "code",
    "window_start": "callback_at", "callback_at": "callback_at", "logged_at": "logged_at", "attempt": "attempt",
    "first_contact_at": "first_contact_at", "next_outcome": "next_outcome", "call_started_at": "call_started_at",
    "resolved_at": "resolved_at",
}  # fmt: skip
COMPLAINT: Final = {
    "reference": "case_reference",
    **{name: name for name in ("complaint", "owner", "created_at", "holding_letter_at", "full_response_at")},
    **{name: name for name in ("closed_at", "voided")},
}


def facts_of(worked: Worked) -> list[Facts]:
    """The facts of each case of a story, by reference."""
    world = MemoryWorld()
    world.record(*told(worked.story))
    return facts_in(world)


def facts_in(world: MemoryWorld) -> list[Facts]:
    """The facts of each case, by reference."""
    found = []
    for reference in sorted(world.cases):
        logs = [log for log in world.logs.values() if log.case == reference]
        whole = fold_whole_case(reference, logs, Definitions(world.registry), world.rules)
        assert whole is not None
        found.append(whole.facts)
    return found


def late(happened: datetime | None, deadline: datetime | None, now: datetime) -> bool:
    assert deadline is not None
    return (now if happened is None else happened) > deadline


def callback_row(callback: Callback, now: datetime) -> Row:
    row: Row = {name: getattr(callback, field) for name, field in CALLBACK.items()}
    start, end = callback.callback_at, callback.callback_at + timedelta(minutes=30)
    row |= {"window_end": end, "slot": f"{start.astimezone(LONDON):%H:%M}"}
    if callback.code != "CB1":
        return row
    contact = callback.first_contact_at
    if callback.source in ("SMS", "VOICEMAIL"):
        row["missed_sla_1"] = late(callback.call_started_at, callback.sla_120, now)
        row["missed_sla_2"] = late(callback.resolved_at, callback.sla_480, now)
    else:
        row["missed_sla_1"] = late(contact, end, now) or (contact is not None and contact < start)
        row["missed_sla_2"] = late(callback.resolved_at, callback.sla_72h, now)
    return row


def complaint_row(complaint: Complaint, now: datetime) -> Row:
    row: Row = {name: getattr(complaint, field) for name, field in COMPLAINT.items()}
    within: Row = {
        "within_holding_sla": not late(complaint.holding_letter_at, complaint.holding_letter_due_at, now),
        "within_sla": not late(complaint.closed_at, complaint.closing_due_at, now),
    }
    return row | (dict.fromkeys(within) if complaint.voided else within)


def picked_from(rows: list[Row], wanted: list[Row]) -> list[Row]:
    return [{name: row[name] for name in want} for row, want in zip(rows, wanted, strict=True)]


@pytest.mark.parametrize(
    "worked", [w for w in CALLBACKS if w.report in ("callbacks", "callback_progression")], ids=lambda worked: worked.law
)
def test_callbacks_are_what_was_worked_out_by_hand(worked: Worked) -> None:
    callbacks = [callback for facts in facts_of(worked) for callback in facts.callbacks]
    if worked.report == "callbacks":
        callbacks = [callback for callback in callbacks if callback.code == "CB1"]
    rows = [callback_row(callback, worked.moment) for callback in callbacks]
    assert picked_from(rows, worked.rows) == worked.rows


@pytest.mark.parametrize("worked", COMPLAINTS, ids=lambda worked: worked.law)
def test_complaints_are_what_was_worked_out_by_hand(worked: Worked) -> None:
    complaints = [complaint for facts in facts_of(worked) for complaint in facts.complaints]
    rows = [complaint_row(complaint, worked.moment) for complaint in complaints]
    assert picked_from(rows, worked.rows) == worked.rows


@pytest.mark.parametrize("worked", PROVIDERS, ids=lambda worked: worked.law)
def test_stays_with_providers_are_what_was_worked_out_by_hand(worked: Worked) -> None:
    stays = [stay for facts in facts_of(worked) for stay in facts.assignments]
    providers = sorted({stay.provider or "" for stay in stays})
    rows = [performance([stay for stay in stays if stay.provider == provider]) for provider in providers]
    assert picked_from(rows, worked.rows) == worked.rows


def performance(stays: list[Assignment]) -> Row:
    """One provider's row: all assignments of the worked cases are of one day."""

    def mean(start: str, end: str) -> Any:
        both = [(getattr(stay, start), getattr(stay, end)) for stay in stays]
        took = [(b - a).total_seconds() for a, b in both if a is not None and b is not None]
        return sum(took) / len(took) if took else None

    counts = ("viewed", "accepted", "rejected", "closed")
    return {
        "day": stays[0].assigned_at.astimezone(LONDON).date(),
        "provider": stays[0].provider,
        "assigned": len(stays),
        **{name: sum(getattr(stay, f"{name}_at") is not None for stay in stays) for name in counts},
        "mean_seconds_to_view": mean("assigned_at", "viewed_at"),
        "mean_seconds_to_accept": mean("assigned_at", "accepted_at"),
        "mean_seconds_to_close": mean("accepted_at", "closed_at"),
    }


def sms(*creations: str) -> list[str]:
    """A case created at these moments of 2 March, and its CB1 of that afternoon for the next morning."""
    return [
        *(f"A 2026-03-02T{time} web case/CASE_CREATED source={source}" for source, time in map(str.split, creations)),
        "A 2026-03-02T15:00 op-1 call_me_back/CB1 requires_action_at=2026-03-03T11:00 sla_30=2026-03-02T16:00",
    ]


def test_a_creation_that_comes_late_moves_the_deadlines_of_the_callbacks_before_it() -> None:
    """Those of an SMS: Monday 10:00 + 120 is 12:00, + 480 is 18:00; from 14:00, 16:00 and (6 h + 2 h) Tuesday 11:00."""
    late, *others = told("\n".join(sms("SMS 10:00", "SMS 14:00")))
    world = MemoryWorld()
    world.record(*others)
    assert deadlines(world) == [at("2026-03-02 16:00"), at("2026-03-03 11:00"), at("2026-03-02 16:00")]
    world.record(late)
    assert deadlines(world) == [at("2026-03-02 12:00"), at("2026-03-02 18:00"), at("2026-03-02 16:00")]


def test_a_creation_that_comes_late_says_from_when_a_callback_counts() -> None:
    """By telephone from the time arranged, Tuesday 11:00; of a voicemail from the creation at 10:00."""
    late, *others = told("\n".join(sms("VOICEMAIL 10:00", "PHONE 14:00")))
    world = MemoryWorld()
    world.record(*others)
    assert deadlines(world)[:2] == [at("2026-03-03 13:00"), at("2026-03-03 19:00")]
    world.record(late)
    assert deadlines(world)[:2] == [at("2026-03-02 12:00"), at("2026-03-02 18:00")]


def deadlines(world: MemoryWorld) -> list[datetime | None]:
    """The one callback's sla_120, sla_480, and sla_30, which its event named."""
    (facts,) = facts_in(world)
    (callback,) = facts.callbacks
    return [callback.sla_120, callback.sla_480, callback.sla_30]


def test_an_assignment_says_whether_operators_were_there() -> None:
    """Friday 18:00 to 20:00, Saturday to 12:30, Good Friday not at all."""
    story = """
        A 2026-04-01T09:00 op-1 case/CASE_CREATED category=debt
        A 2026-04-01T09:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-04-01T20:00 op-1 assign_to_provider/MANALC provider=prov-2
        A 2026-04-02T10:00 op-1 change_category/CATEGORY_CHANGED new_category=housing
        A 2026-04-02T19:59:59 op-1 assign_to_provider/SPOR provider=prov-1
        A 2026-04-03T12:00 op-1 assign_to_provider/MANREF provider=prov-2
        A 2026-04-04T12:30 op-1 assign_to_provider/REFSP provider=prov-1
    """
    world = MemoryWorld()
    world.record(*told(story))
    (facts,) = facts_in(world)
    assert [(stay.code, stay.category, stay.out_of_hours) for stay in facts.assignments] == [
        ("REFSP", "debt", False), ("MANALC", "debt", True), ("SPOR", "housing", False), ("MANREF", "housing", True),
        ("REFSP", "housing", True),
    ]  # fmt: skip


def test_the_deadlines_of_a_callback_are_those_of_the_rules_example() -> None:
    """docs/rules.md §6. Mon 10:30 + 15, 30, 120 and 480 are on that day; + 4,320 is Tue of the next week, 13:00."""
    (facts,) = facts_of(CALLBACKS[0])
    (callback,) = facts.callbacks
    monday = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
    assert [callback.sla_15, callback.sla_30, callback.sla_120, callback.sla_480, callback.sla_72h] == [
        monday + timedelta(minutes=15),
        monday + timedelta(minutes=30),
        datetime(2026, 3, 2, 12, 30, tzinfo=UTC),
        datetime(2026, 3, 2, 18, 30, tzinfo=UTC),
        datetime(2026, 3, 10, 13, 0, tzinfo=UTC),
    ]
