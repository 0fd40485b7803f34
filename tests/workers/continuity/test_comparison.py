"""The judgement of `continuity`: a function of what is remembered, what is stored, and what is there again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caselog.schema.sessions.fencing import Fence, OlderTimeline, Server
from caselog.schema.sessions.replication import Standbys
from caselog.workers.continuity.comparison import (
    Gap,
    Letter,
    Loss,
    Mark,
    Remembered,
    Run,
    State,
    Stored,
    Verdict,
    gaps,
    is_lost,
    judge,
    measure,
    named,
)
from caselog.workers.health.durability import judge_replication

PRIMARY = Server(7, 1)
AT = datetime(2026, 3, 2, 10, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)


def remembered(runs: dict[str, int], server: Server | None = PRIMARY, *, established: bool = True) -> Remembered:
    return Remembered(
        server=server,
        is_established=established,
        acknowledged=0,
        since_ms=AT_MS,
        runs={name: Run(events, AT_MS, AT_MS + 60_000) for name, events in runs.items()},
    )


def stored(runs: dict[str, int], server: Server | None = PRIMARY) -> Stored:
    return Stored(server=server, runs={name: (events, AT) for name, events in runs.items()})


def judged(known: Remembered | None, now: Stored) -> Verdict:
    return judge(known, now, Loss() if known is None else measure(known, now, [], set()))


def test_a_new_installation_is_green_and_an_emptied_redis_is_unknown_and_not_green() -> None:
    assert judged(None, stored({})).is_green
    emptied = judged(None, stored({"a": 5}))
    assert (emptied.state, emptied.is_green, emptied.missing) == (State.UNKNOWN, False, None)
    assert "caselog continuity acknowledge" in str(emptied.hint)
    begun_again = judged(remembered({"b": 3}, established=False), stored({"a": 5, "b": 3}))
    assert (begun_again.state, begun_again.is_green) == (State.UNKNOWN, False)
    assert "2026-03-02 10:00:00 UTC" in begun_again.value


def test_less_than_is_remembered_is_lost_with_how_many_from_when_to_when_and_what_to_do() -> None:
    found = judged(remembered({"a": 4000, "b": 10, "c": 7}), stored({"a": 1000, "b": 10}))
    assert (found.state, found.missing) == (State.LOST, 3007)
    assert found.value.startswith("about 3,007 events are missing, stored from 2026-03-02 10:00:00 UTC to")
    assert "10:01:00" in found.value
    assert "Send them again" in str(found.hint)


def test_a_memory_that_lags_behind_is_no_loss() -> None:
    assert judged(remembered({"a": 4}), stored({"a": 10, "b": 3})).state is State.WHOLE


def test_a_failover_that_lost_nothing_is_green_by_itself_and_a_lower_timeline_never_is() -> None:
    assert judged(remembered({"a": 4}), stored({"a": 4}, Server(7, 2))).state is State.WHOLE
    old = judged(remembered({"a": 4}, Server(7, 2)), stored({"a": 9}))
    assert (old.state, old.is_green, old.missing) == (State.OLDER_TIMELINE, False, None)


def test_what_an_older_timeline_lacks_is_told_as_a_number_too() -> None:
    """The audit of an acknowledgement has it from there."""
    old = judged(remembered({"a": 10}, Server(7, 2)), stored({"a": 3}))
    assert (old.state, old.missing) == (State.OLDER_TIMELINE, 7)
    assert "about 7 events are missing" in old.value


def test_another_server_wants_an_acknowledgement_also_where_it_has_everything() -> None:
    other = judged(remembered({"a": 4}), stored({"a": 4}, Server(8, 1)))
    assert (other.state, other.is_green, other.missing) == (State.OTHER_SERVER, False, 0)
    assert "about 4 events are missing" in judged(remembered({"a": 4}), stored({}, Server(8, 1))).value


def test_a_standby_is_not_judged_for_what_it_may_yet_get() -> None:
    assert judged(remembered({"a": 4}), stored({"a": 1}, Server(7, None))).state is State.STANDBY


def test_a_server_that_does_not_tell_who_it_is_is_judged_by_its_counts() -> None:
    assert judged(remembered({"a": 4}), stored({"a": 4}, None)).is_green
    assert judged(remembered({"a": 4}), stored({"a": 3}, None)).state is State.LOST


def test_the_fence_keeps_lower_timelines_of_the_same_system_out_until_somebody_acknowledges() -> None:
    fence = Fence()
    fence.admit(Server(7, 2))
    fence.admit(Server(8, 1))
    fence.admit(Server(7, None))
    with pytest.raises(OlderTimeline, match=r"timeline 1, and timeline 2 .* Nothing is written to it"):
        fence.admit(Server(7, 1))
    fence.learn(Server(7, 1), acknowledged=1)
    fence.admit(Server(7, 1))


# A history: batches of runs, in the order of their commits, each of some events, of which some are dead letters.
_BATCHES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 5)), max_size=12)


_LAGS = st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 3)))


@given(batches=_BATCHES, survive=st.integers(0, 12), lags=_LAGS, resent=st.floats(0, 1), kept=st.integers(0, 12))
def test_whatever_is_lost_is_counted_and_named(
    batches: list[tuple[str, int, int]], survive: int, lags: dict[str, int], resent: float, kept: int
) -> None:
    """The oracle counts events one by one.

    Of each run the newest batches may not be told to Redis yet; the oldest marks may be gone from it; the database
    keeps a beginning of the history; some of the lost events were sent again.
    """
    counts = dict.fromkeys("abc", 0)
    marks = []
    for number, (run, many, dead) in enumerate(batches):
        ids = [f"{number}-{one}" for one in range(many)]
        letters = [Letter(f"{number}-{one}".encode(), None, None, is_own=False) for one in range(dead)]
        marks.append(Mark(run, counts[run], counts[run] + many + dead, AT_MS + number, {"/s": ids}, letters))
        counts[run] += many + dead
    told = [mark for run in "abc" for mark in _but_last([m for m in marks if m.run == run], lags[run])]
    last = {mark.run: mark.after for mark in told}
    runs = {name: events for name, events in last.items() if events}
    surviving: dict[str, int] = {}
    for mark in marks[:survive]:
        surviving[mark.run] = mark.after
    known, now = remembered(runs), stored(surviving)
    lost = [one for mark in told if mark not in marks[:survive] for one in mark.names()]
    again = set(lost[: round(resent * len(lost))])
    found = gaps(known, now)
    in_redis = [mark for mark in told if mark in marks[-kept:]] if kept else []
    missing_marks = [mark for mark in in_redis if is_lost(mark, found)]
    names = {one for mark in missing_marks for one in mark.names()}
    loss = measure(known, now, [*missing_marks, *missing_marks], again & names)
    assert loss.missing == len(lost) - len(again & names)
    assert loss.unnamed == len(lost) - len(names)
    verdict = judge(known, now, loss)
    assert verdict.is_green == (loss.missing == 0)
    if verdict.is_green and lost:
        assert "there again" in verdict.value


def test_an_event_that_was_refused_and_recorded_later_is_missing_once_and_other_letters_of_its_id_are_not_it() -> None:
    own = [Letter(bytes([one]), "/s", "1", is_own=True) for one in range(3)]
    other = Letter(b"o", "/s", "1", is_own=False)
    unread = Letter(b"u", None, None, is_own=False)
    refused = Mark("a", 0, 5, AT_MS, {}, [*own, other, unread])
    recorded = Mark("a", 5, 6, AT_MS + 1_000, {"/s": ["1"]})
    known, now = remembered({"a": 6}), stored({})
    assert named([refused]) == {*own, other, unread}
    assert measure(known, now, [refused, recorded], set()).missing == 3
    left = measure(known, now, [refused, recorded], {("/s", "1"), other})
    assert (left.missing, left.again, left.unnamed) == (1, 2, 0)
    back = measure(known, now, [refused, recorded], {other, unread})
    assert (back.missing, back.first_ms, back.last_ms) == (1, AT_MS + 1_000, AT_MS + 1_000)


def _but_last(marks: list[Mark], lag: int) -> list[Mark]:
    return marks[: max(0, len(marks) - lag)]


def test_a_batch_outside_of_the_gap_is_not_lost() -> None:
    found = {"a": Gap(5, 9)}
    assert [is_lost(Mark("a", *ends, 0, {}), found) for ends in ((3, 5), (5, 7), (7, 9), (9, 12))] == [
        False,
        True,
        True,
        False,
    ]
    assert not is_lost(Mark("b", 5, 7, 0, {}), found)


@pytest.mark.parametrize(
    ("standbys", "words", "warns"),
    [
        (Standbys(), "no standby", False),
        (
            Standbys(synchronous=1, asynchronous=1, lag_bytes=2048, lag_s=0.25),
            "2 standbys, 1 synchronous, up to",
            False,
        ),
        (Standbys(asynchronous=1, lag_bytes=4096), "1 standby, none synchronous, up to 4,096 bytes behind", True),
        (Standbys(asynchronous=1, expects_synchronous=True), "commits wait for a synchronous standby", True),
        (Standbys(expects_synchronous=True), "commits wait for a synchronous standby", True),
        (Standbys(synchronous=1, expects_synchronous=True, hanging=1), "and 1 synchronous (of 1)", True),
        (Standbys(synchronous=1, expects_synchronous=True), "1 standby, 1 synchronous", False),
        (Standbys(hidden=2), "2 standbys, none synchronous", True),
        (Standbys(hidden=2, expects_synchronous=True), "only a role with pg_monitor may see", False),
    ],
)
def test_standbys_of_which_none_is_synchronous_are_a_warning(standbys: Standbys, words: str, *, warns: bool) -> None:
    value, warning = judge_replication(standbys)
    assert words in value
    assert (warning, value.startswith("warning: ")) == (warns, warns)
