"""Rates from two looks at a queue: what is known is exact, and what is not known is not made up."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from caselog.schema.operations.pause import Pause
from caselog.workers.health.queue_rates import Depth, Done, QueueLine, Sample, with_rates


def line(before: Depth, after: Depth, within_s: float = 2.0) -> QueueLine:
    [only] = with_rates(Sample(100.0, [before]), Sample(100.0 + within_s, [after]), frozenset())
    return only


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_what_came_and_what_went_follow_from_the_count_of_arrivals_and_the_depth(
    first: int, came: int, more: int
) -> None:
    went = min(more, first + came)
    before = Depth(queue="q", ready=first, unacked=0, arrived=5000)
    after = Depth(
        queue="q", ready=(first + came - went) // 2, unacked=-(-(first + came - went) // 2), arrived=5000 + came
    )
    assert (line(before, after).in_per_s, line(before, after).out_per_s) == (came / 2, went / 2)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_or_from_what_the_workers_got_done_and_the_depth(first: int, came: int, more: int) -> None:
    went = min(more, first + came)
    before = Depth(queue="q", ready=first, done={"a": Done(70, 100.0), "b": Done(10, 100.0)})
    after = Depth(queue="q", ready=first + came - went, done={"a": Done(70 + went, 102.0), "b": Done(10, 102.0)})
    assert (line(before, after).in_per_s, line(before, after).out_per_s) == (came / 2, went / 2)


def test_a_worker_is_measured_between_the_moments_at_which_it_spoke() -> None:
    """It speaks about once a second, and not when it is asked: 30 messages in its 1.5 seconds are 20 a second."""
    before = Depth(queue="q", ready=0, done={"a": Done(0, 99.2)})
    after = Depth(queue="q", ready=0, done={"a": Done(30, 100.7)})
    assert line(before, after, 1.0).out_per_s == 20.0


def test_a_worker_that_came_or_went_in_between_is_not_counted_for_the_time_it_was_not_there() -> None:
    before = Depth(queue="q", ready=0, done={"gone": Done(500, 100.0)})
    after = Depth(queue="q", ready=0, done={"new": Done(900, 102.0)})
    assert line(before, after).out_per_s == 0.0


def test_what_is_not_known_is_none_and_never_0() -> None:
    """Nobody counts; the queue was not there before; it was made anew and counts from 0; it is the first look."""
    unknown = Depth(queue="q", ready=3)
    assert (line(unknown, unknown).in_per_s, line(unknown, unknown).out_per_s) == (None, None)
    [new] = with_rates(Sample(1.0, []), Sample(2.0, [Depth(queue="q", ready=3, arrived=3)]), frozenset())
    assert (new.in_per_s, new.out_per_s) == (None, None)
    anew = line(Depth(queue="q", ready=3, arrived=90), Depth(queue="q", ready=3, arrived=4))
    assert (anew.in_per_s, anew.out_per_s) == (None, None)
    [first] = with_rates(None, Sample(2.0, [Depth(queue="q", ready=3, arrived=3)]), frozenset())
    assert (first.in_per_s, first.unacked, first.oldest_age_s, first.consumers) == (None, None, None, None)


def test_a_pause_stands_at_the_queues_that_it_holds_up_and_at_no_other() -> None:
    pause = Pause(who="anna", since=datetime(2026, 11, 23, tzinfo=UTC), why="a move")
    sample = Sample(1.0, [Depth(queue="held", ready=1), Depth(queue="free", ready=1)], pause)
    assert [found.paused for found in with_rates(None, sample, frozenset({"held"}))] == [pause, None]
