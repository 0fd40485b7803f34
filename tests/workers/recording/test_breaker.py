"""The breaker's judgement: when most of what arrives dies, and not before."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from caselog.workers.recording.pause_watch import Breaker

batches = st.lists(
    st.integers(0, 50).flatmap(lambda arrived: st.tuples(st.just(arrived), st.integers(0, arrived))), max_size=60
)


def observe(breaker: Breaker, arrived: int, dead: int) -> bool:
    return breaker.observe(arrived, Counter(unknown_code=dead) if dead else {}) is not None


@given(batches, st.floats(0.01, 1), st.integers(1, 200))
def test_it_trips_where_the_ratio_of_the_newest_events_has_died_and_nowhere_else(
    told: list[tuple[int, int]], ratio: float, count: int
) -> None:
    """The oracle looks at the whole past each time: the fewest whole batches, from the newest, that reach the count."""
    breaker = Breaker(ratio, count)
    for number, (arrived, dead) in enumerate(told, start=1):
        window_arrived = window_dead = 0
        for past_arrived, past_dead in reversed(told[:number]):
            window_arrived += past_arrived
            window_dead += past_dead
            if window_arrived >= count:
                break
        expected = arrived > 0 and window_arrived >= count and window_dead >= ratio * window_arrived
        assert observe(breaker, arrived, dead) is expected


def test_noise_below_the_ratio_never_trips_it() -> None:
    breaker = Breaker(0.5, 1000)
    assert not any(observe(breaker, 100, 49) for _ in range(1000))


def test_fewer_events_than_the_count_never_trip_it_however_many_die() -> None:
    breaker = Breaker(0.5, 1000)
    assert not any(observe(breaker, 1, 1) for _ in range(999))
    assert observe(breaker, 1, 1)


def test_it_trips_also_where_deaths_come_after_a_long_good_time() -> None:
    breaker = Breaker(0.5, 1000)
    assert not any(observe(breaker, 100, 0) for _ in range(1000))
    died = next(number for number in range(1, 100) if observe(breaker, 100, 100))
    assert died == 5  # half of a window of ten batches


def test_zero_switches_it_off() -> None:
    assert not any(observe(Breaker(0, 10), 10, 10) for _ in range(100))
    assert not any(observe(Breaker(0.5, 0), 10, 10) for _ in range(100))


def test_after_a_reset_it_judges_anew() -> None:
    breaker = Breaker(0.5, 100)
    assert observe(breaker, 100, 100)
    breaker.reset()
    assert not observe(breaker, 99, 99)
    assert observe(breaker, 1, 1)


def test_its_verdict_says_how_many_of_how_many_died_the_top_reason_and_what_to_do() -> None:
    breaker = Breaker(0.5, 1000)
    verdict = breaker.observe(1234, Counter(malformed=10, unknown_code=1000))
    assert verdict is not None
    said = verdict.in_words()
    assert "1,010 of the last 1,234 events" in said
    assert "1,000 of them unknown_code" in said
    assert "caselog dead list --group --reason unknown_code" in said
    assert "caselog resume" in said
