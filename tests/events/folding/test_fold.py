"""The fold against docs/rules.md §3 to §5, rule by rule, and against the independent reading of them."""

from __future__ import annotations

import copy
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders.strategies import batches, deliveries, event_sets
from support.oracle.memory import MemoryWorld
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same

from caselog.events.errors import EventRejected
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log

Json = dict[str, Any]

OPERATOR: Json = {"id": "op-1", "role": "operator"}
OTHER_OPERATOR: Json = {"id": "op-2", "role": "operator"}
ANNA: Json = {"id": "anna", "role": "specialist", "provider": "prov-1"}
BEN: Json = {"id": "ben", "role": "specialist", "provider": "prov-2"}
TO_PROV_1: Json = {"provider": "prov-1"}
CALL_BACK: Json = {"requires_action_at": "2026-03-03T10:00:00Z"}
_numbers = itertools.count(1)


def at(clock: str, day: int = 2) -> datetime:
    """That time of day in London, in March 2026, in winter time."""
    return datetime.fromisoformat(f"2026-03-{day:02}T{clock}").replace(tzinfo=UTC)


def event(
    key: str, code: str | None, clock: str, by: Json | None = OPERATOR, case: str | None = "AB-1", **more: Any
) -> Json:
    """An event of March 2; ids ascend as events are made."""
    data: Json = {name: more.pop(name) for name in ("notes", "context", "params") if name in more}
    if code is not None:
        data["code"] = code
    if by is not None:
        data["actor"] = by
    return {
        "specversion": "1.0",
        "id": f"{next(_numbers):06}",
        "source": "/test",
        "type": key,
        "time": at(clock, more.pop("day", 2)).isoformat(),
        "data": data,
        **({} if case is None else {"subject": case}),
        **more,
    }


def created(clock: str = "08:00", case: str = "AB-1", by: Json | None = None, **context: Any) -> Json:
    return event("case", "CASE_CREATED", clock, by, case, context=context)


def timer(code: str, clock: str, by: Json = OPERATOR) -> Json:
    return event("timer", code, clock, by, None)


def after(*story: Json) -> MemoryWorld:
    """A world in which these events happened, recorded one by one."""
    world = MemoryWorld()
    for one in story:
        world.record(one)
    return world


def case_after(*story: Json) -> CaseState:
    """Case AB-1 after its creation and these events; nothing of the story may be refused."""
    world = after(created(), *story)
    assert world.refused == {}
    return world.cases["AB-1"]


def log_of(world: MemoryWorld, one: Json) -> Log:
    return next(log for log in world.logs.values() if log.event_id == one["id"])


def is_suppressed(*story: Json) -> bool:
    """Whether the last of these events is suppressed."""
    return log_of(after(created(), *story), story[-1]).suppressed


# --- RULES §3.1: an outcome that is repeated on the same day and would change nothing ---


def test_the_same_outcome_again_on_the_same_day_is_suppressed() -> None:
    assert is_suppressed(event("suspend_case", "TERM", "09:00"), event("suspend_case", "TERM", "17:00"))


def test_the_same_outcome_on_another_local_day_counts() -> None:
    assert not is_suppressed(event("suspend_case", "TERM", "09:00"), event("suspend_case", "TERM", "00:00", day=3))


def test_the_day_is_the_local_one() -> None:
    """In summer, 23:30 UTC is half past midnight in London."""
    late = event("suspend_case", "TERM", "09:00") | {"time": "2026-07-01T22:30:00Z"}
    next_day = event("suspend_case", "TERM", "09:00") | {"time": "2026-07-01T23:30:00Z"}
    morning = event("suspend_case", "TERM", "09:00") | {"time": "2026-07-02T08:00:00Z"}
    assert not is_suppressed(late, next_day)
    assert is_suppressed(late, next_day, morning)


def test_an_outcome_with_other_notes_counts() -> None:
    first = event("suspend_case", "TERM", "09:00", notes="rang off")
    assert not is_suppressed(first, event("suspend_case", "TERM", "10:00", notes="rang off again"))
    assert is_suppressed(first, event("suspend_case", "TERM", "10:00", notes="rang off"))


def test_no_notes_equal_empty_notes() -> None:
    assert is_suppressed(event("suspend_case", "TERM", "09:00"), event("suspend_case", "TERM", "10:00", notes=""))


def test_the_same_code_under_another_key_counts() -> None:
    assert not is_suppressed(event("suspend_case", "DUPL", "09:00"), event("reject_case", "DUPL", "10:00", ANNA))


def test_an_outcome_counts_again_after_another_one() -> None:
    story = [event("suspend_case", code, "09:00") for code in ("TERM", "ABND", "TERM")]
    assert not is_suppressed(*story)


def test_what_is_no_outcome_does_not_come_between_two_outcomes() -> None:
    note = event("complaint", "COMPLAINT_NOTE", "09:10")
    category = event("change_category", "CATEGORY_CHANGED", "09:20", context={"new_category": "debt"})
    first, again = event("suspend_case", "TERM", "09:00"), event("suspend_case", "TERM", "10:00")
    assert is_suppressed(first, note, category, again)


def test_a_suppressed_outcome_is_compared_with_the_latest_that_counted() -> None:
    """The third TERM equals the first; that the second was suppressed changes nothing."""
    assert is_suppressed(*[event("suspend_case", "TERM", clock) for clock in ("09:00", "10:00", "11:00")])


def test_outcomes_of_another_case_are_no_reason_to_suppress() -> None:
    other = event("suspend_case", "TERM", "09:00", case="AB-2")
    assert not is_suppressed(created("08:00", "AB-2"), other, event("suspend_case", "TERM", "10:00"))


def assigned(clock: str, provider: str = "prov-1", code: str = "REFSP", **more: Any) -> Json:
    return event("assign_to_provider", code, clock, context={"provider": provider}, **more)


def opened(clock: str, by: Json = ANNA) -> Json:
    return event("open_case", "CASE_VIEWED", clock, by)


def callback(clock: str, due: str = "2026-03-03T10:00:00Z", code: str | None = "PCB", by: Json = OPERATOR) -> Json:
    return event("call_me_back", code, clock, by, context={"requires_action_at": due})


def completed(clock: str) -> Json:
    return event("stop_call_me_back", "CALLBACK_COMPLETE", clock)


def test_an_assignment_to_another_provider_counts_and_the_case_is_with_that_one() -> None:
    world = after(created(), assigned("09:00"), assigned("10:00", "prov-2"))
    case = world.cases["AB-1"]
    assert (case.provider, case.provider_assigned_at) == ("prov-2", at("10:00"))
    assert not is_suppressed(assigned("09:00"), assigned("10:00", "prov-2"), assigned("11:00"))


def test_an_assignment_to_the_same_provider_is_suppressed_and_moves_nothing() -> None:
    """Of a provider's times only whether there is one can tell two outcomes apart."""
    world = after(created(), assigned("09:00"), assigned("10:00"))
    assert [log.suppressed for log in world.logs.values()] == [False, False, True]
    assert world.cases["AB-1"].provider_assigned_at == at("09:00")


@pytest.mark.parametrize(
    "between",
    [
        event("case", "CASE_VIEWED", "09:10", ANNA),
        opened("09:10"),
        event("reject_case", "MERI", "09:10", ANNA),
        event("close_case", "CLSP", "09:10", ANNA),
        callback("09:10"),
    ],
    ids=lambda one: f"{one['type']}/{one['data']['code']}",
)
def test_an_assignment_to_the_same_provider_counts_where_something_happened_meanwhile(between: Json) -> None:
    world = after(created(), assigned("09:00"), between, assigned("10:00"))
    case = world.cases["AB-1"]
    assert (case.provider, case.provider_assigned_at, case.state) == ("prov-1", at("10:00"), "new")


def test_a_second_callback_at_another_moment_counts() -> None:
    world = after(created(), callback("09:00"), callback("10:00", "2026-03-04T10:00:00Z"))
    case = world.cases["AB-1"]
    assert (case.callback_attempt, case.requires_action_at) == (2, datetime(2026, 3, 4, 10, tzinfo=UTC))


def test_a_callback_at_the_moment_awaited_is_suppressed_however_the_moment_is_written() -> None:
    assert is_suppressed(callback("09:00"), callback("10:00", "2026-03-03T12:00:00+02:00"))


def test_a_callback_after_the_one_before_was_completed_counts_also_at_the_same_moment() -> None:
    """Who was promised a second call is called."""
    for due in ("2026-03-03T10:00:00Z", "2026-03-04T10:00:00Z"):
        story = callback("09:00", code="CB1"), completed("09:30"), callback("10:00", due, "CB1")
        assert not is_suppressed(*story)
        case = case_after(*story)
        assert (case.callback_attempt, case.requires_action_at) == (1, datetime.fromisoformat(due))


def test_the_first_view_of_the_cases_provider_counts_after_anybody_elses() -> None:
    story = assigned("09:00"), opened("09:10", OPERATOR), opened("09:20"), opened("09:30")
    world = after(created(), *story)
    assert [log_of(world, one).suppressed for one in story] == [False, False, False, True]
    assert world.cases["AB-1"].provider_viewed == at("09:20")


def test_a_repetition_moves_no_column_of_its_case() -> None:
    """Each outcome after the same story, then once more: the second leaves all columns, attempts and times alone."""
    autodiscover()
    anyone = {"operator": OPERATOR, "specialist": ANNA}
    for code in event_registry.codes():
        if not code.sets_outcome:
            continue
        by = next(actor for role, actor in anyone.items() if code.selectable_for(role))
        context = TO_PROV_1 | CALL_BACK
        once, again = (event(code.key, code.code, clock, by, context=context) for clock in ("09:30", "10:00"))
        world = after(created(), assigned("09:00", code="MANALC"), once)
        before = copy.copy(world.cases["AB-1"])
        world.record(again)
        assert log_of(world, again).suppressed, code.code
        world.cases["AB-1"].last_log = before.last_log
        assert world.cases["AB-1"] == before, code.code


def test_a_repetition_is_told_by_the_order_of_the_events_and_not_by_their_arrival() -> None:
    """What makes a second assignment count may come late, and so may what makes it a repetition."""
    first, view, again = assigned("09:00"), event("case", "CASE_VIEWED", "09:10", ANNA), assigned("10:00")
    for story in itertools.permutations([first, view, again]):
        assert not log_of(after(created(), *story), again).suppressed
    world = after(created(), first, again)
    assert log_of(world, again).suppressed
    world.record(view)
    assert not log_of(world, again).suppressed


def test_a_callback_sent_twice_without_a_code_is_a_repetition_of_the_one_awaited() -> None:
    """Not the next one; also after CB3, where another one would be refused; and it holds no call back."""
    dues = [f"2026-03-0{day}T10:00:00Z" for day in (3, 4, 5)]
    story = [callback(f"{9 + n}:00".zfill(5), due, None) for n, due in enumerate(dues) for _ in range(2)]
    world = after(created(), *story)
    assert world.refused == {}
    assert [log_of(world, one).code for one in story] == ["CB1", "CB1", "CB2", "CB2", "CB3", "CB3"]
    assert [log_of(world, one).suppressed for one in story] == [False, True] * 3
    assert world.cases["AB-1"].callback_attempt == 3


def test_a_priority_callback_sent_again_without_its_priority_is_that_callback() -> None:
    again = callback("10:00", code=None)
    world = after(created(), callback("09:00"), again)
    assert (log_of(world, again).code, log_of(world, again).suppressed) == ("PCB", True)


def test_alternative_help_goes_by_the_category_that_the_case_has_by_then() -> None:
    help_ = event("alternative_help", None, "10:00")
    changed = event("change_category", "CATEGORY_CHANGED", "09:00", context={"new_category": "debt"})
    assert log_of(after(created(category="housing"), help_), help_).code == "SPFN"
    assert log_of(after(created(category="housing"), changed, help_), help_).code == "SPFM"
    given = event("alternative_help", "IRKB", "10:00")
    assert log_of(after(created(category="housing"), given), given).code == "IRKB"


class Visit(BaseEvent):
    """Creates its case; its visits write no column, and are told apart by what the context says of the room."""

    key = "visit"
    codes = {
        code: {"type": kind, "level": level, "selectable_by": [], "description": "d", "stops_timer": False}
        for code, kind, level in (("BEGUN", "system", 29), ("VISITED", "outcome", 29), ("SEEN", "outcome", 21))
    }
    creates_case = ("BEGUN",)


def visits(*distinguished_by: str, rooms: list[Json], code: str = "VISITED") -> list[bool]:
    """Whether each of these visits of one morning is suppressed."""
    registry = EventRegistry()
    registry.register(type("Visit", (Visit,), {"distinguished_by": distinguished_by}))
    world = MemoryWorld(registry=registry)
    story = [event("visit", code, f"09:{n:02}", context=room) for n, room in enumerate(rooms)]
    world.record(event("visit", "BEGUN", "08:00"))
    for one in story:
        world.record(one)
    return [log_of(world, one).suppressed for one in story]


def test_outcomes_that_write_no_column_are_told_apart_by_the_context_members_that_their_class_names() -> None:
    rooms: list[Json] = [{"room": "a"}, {"room": "b"}, {"room": "b"}, {"room": "b", "why": "again"}, {"room": "a"}]
    assert visits("room", rooms=rooms) == [False, False, True, True, False]
    assert visits(rooms=rooms) == [False, True, True, True, True]
    assert visits("room", "why", rooms=rooms) == [False, False, True, False, False]


def test_below_level_high_every_outcome_counts() -> None:
    assert visits(rooms=[{}, {}], code="SEEN") == [False, False]


def test_what_tells_outcomes_apart_may_be_any_json_and_null_is_not_given() -> None:
    same: list[list[Any]] = [[1, 1.0, True], [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], ["1", 1]]
    assert visits("room", rooms=[{"room": room} for room in same[0]]) == [False, True, False]
    assert visits("room", rooms=[{"room": room} for room in same[1]]) == [False, True]
    assert visits("room", rooms=[{"room": room} for room in same[2]]) == [False, False]
    assert visits("room", rooms=[{}, {"room": None}, {"room": ""}, {"room": False}]) == [False, True, False, False]


def test_a_rule_that_refuses_a_second_time_refuses_and_is_no_repetition() -> None:
    """What would become of the case is tried, and what the rule says of it holds."""

    class Once(Visit):
        def apply(self, case: CaseState, log: Log) -> None:
            if case.outcome_code == case.category == log.code:
                raise EventRejected("once is enough")
            case.category = log.code

    registry = EventRegistry()
    registry.register(Once)
    world = MemoryWorld(registry=registry)
    world.record(event("visit", "BEGUN", "08:00"), *(event("visit", "VISITED", f"09:0{n}") for n in range(2)))
    assert [str(error) for error in world.refused.values()] == ["once is enough"]


def test_system_logs_that_repeat_are_kept() -> None:
    assert not is_suppressed(*[event("means_test", "MT_CHANGED", "09:00") for _ in range(2)])


def test_a_suppressed_log_does_nothing_to_its_case() -> None:
    first, again = (event("call_me_back", "PCB", clock, context=CALL_BACK) for clock in ("09:00", "10:00"))
    once, twice = case_after(first), after(created(), first, again)
    assert once.callback_attempt == twice.cases["AB-1"].callback_attempt == 1
    assert twice.cases["AB-1"].outcome_code_id == log_of(twice, first).id


def test_a_suppressed_log_stops_the_timer_all_the_same() -> None:
    story = [event("suspend_case", "TERM", "09:00"), timer("TIMER_STARTED", "10:00")]
    world = after(created(), *story, event("suspend_case", "TERM", "10:01"))
    assert [t.stopped_at for t in world.timers.values()] == [at("10:01")]
    assert world.cases["AB-1"].billable_time == 60


# --- RULES §3.2: views of a case ---


def viewed(clock: str, by: Json = OPERATOR, case: str = "AB-1") -> Json:
    return event("case", "CASE_VIEWED", clock, by, case)


def test_a_second_view_under_the_same_timer_is_suppressed() -> None:
    assert is_suppressed(timer("TIMER_STARTED", "09:00"), viewed("09:01"), viewed("09:02"))


def test_a_view_without_a_timer_is_always_kept() -> None:
    assert not is_suppressed(viewed("09:01"), viewed("09:02"))


def test_a_view_under_the_timer_that_created_the_case_is_suppressed() -> None:
    view = viewed("09:02")
    world = after(timer("TIMER_STARTED", "09:00"), created("09:01", by=OPERATOR), view)
    assert log_of(world, view).suppressed


def test_a_view_under_another_timer_is_kept() -> None:
    story = [timer("TIMER_STARTED", "09:00"), viewed("09:01"), timer("TIMER_CANCELLED", "09:02")]
    assert not is_suppressed(*story, timer("TIMER_STARTED", "09:03"), viewed("09:04"))
    assert not is_suppressed(
        *story[:2], timer("TIMER_STARTED", "09:03", OTHER_OPERATOR), viewed("09:04", OTHER_OPERATOR)
    )


def test_a_view_of_another_case_under_the_same_timer_is_kept() -> None:
    story = [created("08:30", "AB-2"), timer("TIMER_STARTED", "09:00"), viewed("09:01", case="AB-2"), viewed("09:02")]
    assert not is_suppressed(*story)


def test_a_view_under_the_timer_under_which_the_case_was_opened_is_suppressed() -> None:
    """`open_case`/CASE_VIEWED is a view too. One that was suppressed itself is none."""
    start = timer("TIMER_STARTED", "09:00")
    assert is_suppressed(start, opened("09:01", OPERATOR), viewed("09:02"))
    assert not is_suppressed(opened("08:59", OPERATOR), start, opened("09:01", OPERATOR), viewed("09:02"))


# --- RULES §3.3 and §3.4 ---


def call_started(clock: str) -> Json:
    return event("case", "CALL_STARTED", clock)


def test_a_second_call_started_is_suppressed_until_a_callback() -> None:
    assert not is_suppressed(call_started("09:00"))
    assert is_suppressed(call_started("09:00"), call_started("10:00"))
    for code in ("CB1", "CB2", "CB3", "PCB"):
        callback = event("call_me_back", code, "09:30", context=CALL_BACK)
        assert not is_suppressed(call_started("09:00"), callback, call_started("10:00"))
        assert is_suppressed(call_started("09:00"), callback, call_started("10:00"), call_started("11:00"))


def test_a_suppressed_callback_does_not_let_another_call_started_count() -> None:
    callbacks = [event("call_me_back", "PCB", clock, context=CALL_BACK) for clock in ("09:00", "09:20")]
    assert is_suppressed(callbacks[0], call_started("09:10"), callbacks[1], call_started("09:30"))


def test_a_second_creation_is_suppressed_and_changes_nothing() -> None:
    again = created("09:00", category="debt", source="WEB")
    world = after(created(category="housing"), again)
    case = world.cases["AB-1"]
    assert log_of(world, again).suppressed
    assert (case.category, case.source, case.created_at) == ("housing", "PHONE", at("08:00"))


def test_of_several_creations_the_first_in_order_counts_however_they_arrive() -> None:
    """A second creation keeps its place among the other logs, which its dimensions tell."""
    first, second = created("08:00", category="housing"), created("10:00", category="debt")
    changes = [
        event("change_category", "CATEGORY_CHANGED", clock, context={"new_category": category})
        for clock, category in (("09:00", "before"), ("10:00", "at"), ("11:00", "after"))
    ]
    for story in itertools.permutations([first, second, *changes]):
        world = after(*story)
        assert not log_of(world, first).suppressed
        assert (log_of(world, second).suppressed, log_of(world, second).category) == (True, "before")
        assert (world.cases["AB-1"].category, world.cases["AB-1"].created_at) == ("after", at("08:00"))


# --- RULES §4: timers ---


def test_a_timer_carries_every_log_of_its_actor_from_its_start_to_its_end() -> None:
    before, start, view = viewed("08:59"), timer("TIMER_STARTED", "09:00"), viewed("09:01")
    elsewhere, end, later = viewed("09:02", OTHER_OPERATOR), event("suspend_case", "TERM", "09:03"), viewed("09:04")
    world = after(created(), before, start, view, elsewhere, end, later)
    started = log_of(world, start).id
    story = [before, start, view, elsewhere, end, later]
    assert [log_of(world, one).timer_id for one in story] == [None, started, started, None, started, None]


def test_a_second_start_changes_nothing() -> None:
    start, again = timer("TIMER_STARTED", "09:00"), timer("TIMER_STARTED", "09:10")
    world = after(created(), start, again, event("suspend_case", "TERM", "09:20"))
    assert [(t.started_at, t.stopped_at) for t in world.timers.values()] == [(at("09:00"), at("09:20"))]
    assert log_of(world, again).timer_id == log_of(world, start).id


def test_a_code_that_does_not_stop_the_timer_leaves_it_running() -> None:
    world = after(created(), timer("TIMER_STARTED", "09:00"), event("accept_case", "SPOP", "09:10"))
    assert [t.running for t in world.timers.values()] == [True]
    assert world.cases["AB-1"].billable_time == 0


def test_billable_time_is_rounded_up_to_whole_seconds_for_each_timer() -> None:
    """61.001 s and 0.5 s are 62 s and 1 s: 63 s, where the sum rounded up would be 62."""
    story = [
        timer("TIMER_STARTED", "09:00"),
        event("suspend_case", "TERM", "09:01:01.001"),
        timer("TIMER_STARTED", "10:00"),
        event("suspend_case", "ABND", "10:00:00.500"),
    ]
    assert case_after(*story).billable_time == 63


def test_a_timer_stopped_at_its_very_start_bills_nothing() -> None:
    assert case_after(timer("TIMER_STARTED", "09:00"), event("suspend_case", "TERM", "09:00")).billable_time == 0


def test_a_timer_that_touched_several_cases_counts_for_the_last() -> None:
    world = after(
        created(),
        created("08:01", "AB-2"),
        timer("TIMER_STARTED", "09:00"),
        viewed("09:01"),
        event("suspend_case", "TERM", "09:10", case="AB-2"),
    )
    assert (world.cases["AB-1"].billable_time, world.cases["AB-2"].billable_time) == (0, 600)


def test_another_actors_outcome_does_not_stop_the_timer() -> None:
    world = after(created(), timer("TIMER_STARTED", "09:00"), event("suspend_case", "TERM", "09:10", OTHER_OPERATOR))
    assert [t.running for t in world.timers.values()] == [True]


def test_actors_timers_run_side_by_side() -> None:
    case = case_after(
        timer("TIMER_STARTED", "09:00"),
        timer("TIMER_STARTED", "09:05", OTHER_OPERATOR),
        event("suspend_case", "TERM", "09:10"),
        event("suspend_case", "ABND", "09:20", OTHER_OPERATOR),
    )
    assert case.billable_time == 600 + 900


def test_a_cancelled_timer_bills_nothing_and_is_linked_to_its_last_case() -> None:
    cancel = timer("TIMER_CANCELLED", "09:10")
    world = after(created(), timer("TIMER_STARTED", "09:00"), viewed("09:01"), cancel)
    assert [(t.stopped_at, t.cancelled, t.case) for t in world.timers.values()] == [(at("09:10"), True, "AB-1")]
    assert world.cases["AB-1"].billable_time == 0
    assert log_of(world, cancel).timer_id is not None


def test_a_running_timers_case_is_that_of_its_last_log_suppressed_or_not() -> None:
    story = [timer("TIMER_STARTED", "09:00"), viewed("09:01"), viewed("09:02", case="AB-2"), viewed("09:03")]
    world = after(created(), created("08:01", "AB-2"), *story)
    assert log_of(world, story[-1]).suppressed
    assert [t.case for t in world.timers.values()] == ["AB-1"]
    world.record(timer("TIMER_CANCELLED", "09:10"))
    assert [(t.case, t.cancelled) for t in world.timers.values()] == [("AB-1", True)]


def test_a_cancelled_timer_that_met_no_case_is_linked_to_none() -> None:
    world = after(timer("TIMER_STARTED", "09:00"), timer("TIMER_CANCELLED", "09:10"))
    assert [(t.cancelled, t.case) for t in world.timers.values()] == [(True, None)]


def test_cancelling_without_a_timer_has_no_effect() -> None:
    cancel = timer("TIMER_CANCELLED", "09:10")
    world = after(cancel)
    assert world.timers == {}
    assert log_of(world, cancel).timer_id is None


def test_a_refused_event_does_not_stop_the_timer() -> None:
    story = [timer("TIMER_STARTED", "09:00"), event("suspend_case", "TERM", "09:01", ANNA | {"role": "web"})]
    refused = event("stop_call_me_back", None, "09:02", params={"cancel": True})
    world = after(created(), *story, refused)
    assert [t.running for t in world.timers.values()] == [True]
    assert {error.reason for error in world.refused.values()} == {"role_not_allowed", "rejected"}


# --- RULES §5: what a code does to its case (each app's own part: test_apps.py) ---


def test_a_new_case_has_what_its_creation_says() -> None:
    world = MemoryWorld(search_context=("name", "postcode", "absent"))
    world.record(
        created(
            category="debt", source="SMS", organisation="org-1", eligibility_state="unknown", name="Ann", postcode="N1"
        )
    )
    case = world.cases["AB-1"]
    assert (case.category, case.source, case.organisation, case.eligibility_state) == (
        "debt",
        "SMS",
        "org-1",
        "unknown",
    )
    assert case.search_field == "AB1 Ann N1"
    assert (case.requires_action_by, case.state, case.created_at) == ("operator", "new", at("08:00"))
    assert (case.outcome_code, case.level) == (None, None)


def test_the_latest_unsuppressed_outcome_is_the_cases_outcome() -> None:
    term, opened = event("suspend_case", "TERM", "09:00"), event("open_case", "CASE_VIEWED", "10:00", ANNA)
    world = after(created(), term, opened, event("change_category", "CATEGORY_CHANGED", "11:00"), viewed("12:00"))
    case = world.cases["AB-1"]
    assert (case.outcome_code, case.outcome_code_id, case.level) == ("CASE_VIEWED", log_of(world, opened).id, 29)


def test_the_provider_has_it_until_it_is_rejected_or_closed() -> None:
    assigned = event("assign_to_provider", "REFSP", "09:00", context=TO_PROV_1)
    opened = event("open_case", "CASE_VIEWED", "10:00", ANNA)
    accepted, closed = event("accept_case", "SPOP", "11:00", ANNA), event("close_case", "CLSP", "12:00", ANNA)
    rejected = event("reject_case", "MERI", "12:00", ANNA)
    assert case_after().state == "new"
    assert case_after(assigned).state == "new"
    assert case_after(assigned, event("open_case", "CASE_VIEWED", "10:00", BEN)).state == "new"
    assert case_after(assigned, opened).state == "opened"
    assert case_after(assigned, opened, accepted).state == "accepted"
    assert case_after(assigned, opened, rejected).state == "rejected"
    assert case_after(assigned, opened, accepted, closed).state == "completed"
    assert case_after(assigned, opened, accepted, closed, event("reopen_case", "REOPEN", "13:00")).state == "accepted"


def test_only_the_first_view_since_the_assignment_counts() -> None:
    assigned = event("assign_to_provider", "REFSP", "09:00", context=TO_PROV_1)
    opened, again = (event("open_case", "CASE_VIEWED", clock, ANNA) for clock in ("10:00", "11:00"))
    reassigned = event("assign_to_provider", "MANALC", "12:00", context=TO_PROV_1)
    assert case_after(assigned, opened, viewed("11:00", ANNA)).provider_viewed == at("10:00")
    assert case_after(assigned, opened, again).provider_viewed == at("10:00")
    assert case_after(assigned, opened, reassigned).provider_viewed is None
    assert case_after(assigned, opened, reassigned, viewed("13:00", ANNA)).provider_viewed == at("13:00")


def test_the_action_is_left_alone_set_or_emptied_as_the_code_says() -> None:
    assigned = event("assign_to_provider", "REFSP", "09:00", context=TO_PROV_1)
    term = event("suspend_case", "TERM", "10:00")
    assert case_after(event("defer_assignment", "CBSP", "09:00")).requires_action_by == "operator"
    assert case_after(assigned).requires_action_by == "1_provider_review"
    assert case_after(assigned, term).requires_action_by == "1_provider_review"
    assert case_after(term).requires_action_by is None
    assert case_after(event("suspend_case", "IRCB", "09:00"), term).requires_action_by is None
    assert case_after(event("suspend_case", "IRCB", "09:00")).requires_action_by == "operator_manager"
    assert case_after(assigned, event("reject_case", "MIS", "10:00")).requires_action_by == "operator"
    assert case_after(assigned, event("close_case", "CLSP", "10:00")).requires_action_by is None


def test_callbacks_count_up_until_one_ends_them() -> None:
    due = "2026-03-03T10:{}:00Z"
    story = [callback(f"{hour}:00", due.format(hour), None) for hour in ("09", "10", "11")]
    world = after(created(), *story)
    assert [log_of(world, one).code for one in story] == ["CB1", "CB2", "CB3"]
    assert world.cases["AB-1"].callback_attempt == 3
    assert world.cases["AB-1"].requires_action_at == datetime(2026, 3, 3, 10, 11, tzinfo=UTC)
    fourth = callback("12:00", due.format(12), None)
    world.record(fourth, event("stop_call_me_back", None, "13:00", params={"complete": True}))
    assert [error.reason for error in world.refused.values()] == ["rejected"]
    assert world.cases["AB-1"].callback_attempt == 0
    assert world.cases["AB-1"].requires_action_at is None


def test_the_dimensions_of_a_log_are_the_cases_after_it() -> None:
    """So an assignment counts for the provider that got the case, and later changes do not touch earlier logs."""
    first = event("assign_to_provider", "REFSP", "09:00", context=TO_PROV_1)
    conflict, second = (
        event("reject_case", "COI", "10:00", ANNA),
        event("assign_to_provider", "SPOR", "11:00", context={"provider": "prov-2"}),
    )
    changed = event("change_category", "CATEGORY_CHANGED", "09:30", context={"new_category": "debt"})
    world = after(created(category="housing", source="WEB", organisation="org-1"), first, changed, conflict, second)
    logs = [log_of(world, one) for one in (first, conflict, second)]
    assert [log.provider for log in logs] == ["prov-1", None, "prov-2"]
    assert [log.category for log in logs] == ["housing", "debt", "debt"]
    assert {(log.organisation, log.case_source) for log in logs} == {("org-1", "WEB")}


# --- Order, batches and what the fold is given ---


def test_a_batch_is_folded_in_order_whatever_its_order() -> None:
    story = [created("08:00"), timer("TIMER_STARTED", "09:00"), event("suspend_case", "TERM", "09:10")]
    world = MemoryWorld()
    world.record(*reversed(story))
    assert world.cases["AB-1"].billable_time == 600


def test_at_the_same_time_source_then_id_decide_by_code_points() -> None:
    names = [("/B", "9"), ("/a", "10"), ("/a", "9"), ("/é", "1")]
    story = [
        event("means_test", "MT_CHANGED", "09:00", context={"state": f"{source} {id_}"}) | {"source": source, "id": id_}
        for source, id_ in names
    ]
    for last in range(1, len(names) + 1):
        world = MemoryWorld()
        world.record(created(), *reversed(story[:last]))
        assert world.cases["AB-1"].eligibility_state == " ".join(names[last - 1])


def test_an_event_before_its_cases_creation_comes_right_after_it() -> None:
    early, creation = assigned("07:00"), created("08:00")
    for batch in ([early, creation], [creation, early]):
        world = MemoryWorld()
        world.record(*batch)
        assert world.cases["AB-1"].provider_assigned_at == at("07:00")
        assert world.cases["AB-1"].created_at == at("08:00")


def test_an_event_without_its_case_waits_and_one_that_is_refused_does_not() -> None:
    waits, refused = event("accept_case", "SPOP", "09:00"), event("accept_case", "SPOB", "09:00")
    world = after(waits, refused)
    assert [identity[1] for identity in world.waiting] == [waits["id"]]
    assert [error.reason for error in world.refused.values()] == ["unknown_code"]
    world.record(created())
    assert world.waiting == {}
    assert world.cases["AB-1"].outcome_code == "SPOP"


@pytest.mark.parametrize("gap", [timedelta(0), timedelta(microseconds=1), timedelta(days=400)])
def test_a_timer_may_run_for_any_time(gap: timedelta) -> None:
    start = timer("TIMER_STARTED", "09:00")
    stop = event("suspend_case", "TERM", "09:00") | {"time": (at("09:00") + gap).isoformat()}
    assert case_after(start, stop).billable_time == -(-gap // timedelta(seconds=1))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), events=event_sets(created_first=True))
def test_in_order_the_fold_equals_the_reference_however_it_is_split(data: st.DataObject, events: list[Json]) -> None:
    """Every code, given or resolved, in order: any split into batches ends in what the independent reading says."""
    ordered = sorted(events, key=lambda e: (datetime.fromisoformat(e["time"]), e["source"], e["id"]))
    world = MemoryWorld()
    for batch in data.draw(batches(ordered)):
        world.record(*batch)
    assert_same(world.outcome(), fold_all(events))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), events=event_sets(settled=True))
def test_in_any_order_the_fold_equals_the_reference(data: st.DataObject, events: list[Json]) -> None:
    """Codes that do not hang on the case: any order, any duplicates and any split end in the same."""
    world = MemoryWorld()
    for batch in data.draw(deliveries(events)):
        world.record(*batch)
    assert_same(world.outcome(), fold_all(events))
