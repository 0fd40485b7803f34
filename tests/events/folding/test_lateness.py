"""What is late is told from the earliest event of each actor and case: it must be what looking at each event tells."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders.strategies import event_sets
from support.oracle.memory import MemoryWorld, screened

from caselog.events.folding.refold import ahead_of_creation, earliest, late_for_actors, late_for_cases

Json = dict[str, Any]


@settings(max_examples=80, deadline=None)
@given(events=event_sets(most=16), data=st.data())
def test_the_late_events_of_a_batch_are_those_that_do_not_come_after_what_is_recorded(
    events: list[Json], data: st.DataObject
) -> None:
    events = data.draw(st.permutations(events))
    split = data.draw(st.integers(0, len(events)))
    world = MemoryWorld()
    world.record(*events[:split])
    again = data.draw(st.sets(st.integers(0, len(events)), max_size=3))
    batch = screened([event for at, event in enumerate(events) if at >= split or at in again])
    first = earliest(batch)
    last = {
        actor: max(log.order_key for log in world.logs.values() if log.actor == actor)
        for actor in {log.actor for log in world.logs.values() if log.actor is not None}
    }
    assert late_for_actors(batch, first, last) == [s for s in batch if s.actor in last and s.order_key <= last[s.actor]]
    late = []
    for one in batch:
        case = world.cases.get(one.case or "")
        if case is None:
            continue
        creates = one.creates_case and case.created_at is not None and one.event.time <= case.created_at
        if creates or (case.last_log is not None and one.order_key <= case.last_log):
            late.append(one)
    assert late_for_cases(batch, first, world.cases) == late
    created: dict[str, Any] = {}
    for one in batch:
        if one.creates_case and one.case is not None and one.case not in world.cases:
            created[one.case] = min(created.get(one.case, one.order_key), one.order_key)
    ahead = any(one.case in created and one.order_key < created[one.case] for one in batch)
    assert ahead_of_creation(first, world.cases) == ahead
