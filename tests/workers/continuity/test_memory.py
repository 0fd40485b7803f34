"""What Redis remembers of what was recorded: it only grows, is bounded, and keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
import redis
from support.processes.pipeline import eventually

from caselog.schema.sessions.fencing import Fence, OlderTimeline, Server
from caselog.workers.continuity import memory as remembering
from caselog.workers.continuity.comparison import Gap, Letter, Mark, Stored
from caselog.workers.continuity.memory import Memory, acknowledge, lost_marks, read_memory, settle, tell_server
from caselog.workers.servers.locate import redis_py_url

PRIMARY = Server(7, 1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_py_url(redis_url)) as one:
        yield one


def mark(run: str, before: int, after: int) -> Mark:
    return Mark(run, before, after, 1_000_000 + after, {"/s": [f"{run}-{one}" for one in range(before, after)]})


def met(client: redis.Redis, server: Server = PRIMARY, *, is_new: bool = True) -> Memory:
    """Of a process that has just begun, in a database where somebody or nobody ever counted."""
    memory = Memory(client, Fence())
    memory.fence.admit(server)
    memory.meet(lambda: Stored(server=server, runs={} if is_new else {"long-ago": (1, LONG_AGO)}))
    return memory


def sent(client: redis.Redis, marks: list[Mark], server: Server = PRIMARY, *, is_new: bool = True) -> Memory:
    memory = met(client, server, is_new=is_new)
    memory.keep(marks)
    memory.stop()
    return memory


def counts(client: redis.Redis) -> dict[str, int]:
    found = read_memory(client)
    assert found is not None
    return {name: run.events for name, run in found.runs.items()}


def test_a_batch_of_dead_letters_alone_is_remembered_and_so_is_one_of_a_version_that_named_none(
    client: redis.Redis,
) -> None:
    letters = [Letter(b"\xff" * 32, None, None, is_own=False), Letter(b"\x00" * 32, "/s", "1", is_own=True)]
    sent(client, [Mark("a", 0, 2, 1_000_000, {}, letters)])
    client.rpush(remembering.MARKS, msgspec.msgpack.encode(("a", 2, 3, 1_000_000, {"/s": ["2"]})))
    assert [one.names() for one in lost_marks(client, {"a": Gap(0, 3)})] == [letters, [("/s", "2")]]


def test_counts_only_grow_whoever_comes_last_and_a_mark_that_comes_twice_is_one(client: redis.Redis) -> None:
    sent(client, [mark("a", 0, 5), mark("a", 5, 9)])
    sent(client, [mark("a", 0, 5), mark("b", 0, 2)])
    assert counts(client) == {"a": 9, "b": 2}
    found = read_memory(client)
    assert found is not None
    assert (found.runs["a"].first_ms, found.runs["a"].last_ms) == (1_000_005, 1_000_009)
    assert {one.after for one in lost_marks(client, {"a": Gap(5, 9)})} == {9}


def test_only_who_met_an_empty_database_knows_that_all_is_remembered(client: redis.Redis) -> None:
    sent(client, [mark("a", 0, 5)], is_new=False)
    assert (found := read_memory(client)) is not None
    assert not found.is_established
    client.flushdb()
    assert read_memory(client) is None
    sent(client, [])
    assert (found := read_memory(client)) is not None
    assert found.is_established


def test_the_highest_timeline_of_the_known_system_is_remembered_and_taught(client: redis.Redis) -> None:
    sent(client, [], Server(7, 2))
    sent(client, [], Server(7, 1))
    sent(client, [], Server(8, 5))
    fence = Fence()
    found = read_memory(client, fence)
    assert found is not None
    assert found.server == Server(7, 2)
    with pytest.raises(OlderTimeline):
        fence.admit(Server(7, 1))


def test_what_was_met_before_an_acknowledgement_does_not_undo_it(client: redis.Redis) -> None:
    late = met(client, Server(7, 2))
    eventually(lambda: (found := read_memory(client)) is not None and found.server == Server(7, 2), "it is remembered")
    assert not acknowledge(client, {}, Server(7, 1), Server(7, 1)), "a newer one was met since it was judged"
    assert acknowledge(client, {}, Server(7, 1), Server(7, 2))
    late.stop()  # it says once more what it met
    found = read_memory(client)
    assert found is not None
    assert (found.server, found.acknowledged) == (Server(7, 1), 1)
    late.fence.admit(Server(7, 2))  # but somebody runs there, and goes on
    tell_server(client, late.fence)
    found = read_memory(client)
    assert found is not None
    assert found.server == Server(7, 2)


def test_a_redis_that_comes_back_from_before_an_acknowledgement_is_told_of_it(client: redis.Redis) -> None:
    memory = met(client, Server(7, 2))
    acknowledge(client, {}, Server(7, 1), Server(7, 2))
    memory.learn()
    memory.fence.admit(Server(7, 1))
    client.hset(remembering.STATE, mapping={"acknowledged": 0, "timeline": 2})
    memory.stop()
    found = read_memory(client, memory.fence)
    assert found is not None
    assert (found.server, found.acknowledged) == (Server(7, 1), 1)
    memory.fence.admit(Server(7, 1))


def test_a_gap_is_settled_only_as_it_was_judged(client: redis.Redis) -> None:
    sent(client, [mark("a", 0, 9), mark("b", 0, 9)])
    settle(client, {"a": Gap(5, 9), "b": Gap(5, 8)})  # of b more became known meanwhile
    assert counts(client) == {"a": 5, "b": 9}


def test_the_marks_are_bounded_and_the_counts_are_not_touched_by_it(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "MARKS_BYTES", 2_000)
    sent(client, [mark("a", at, at + 10) for at in range(0, 1000, 10)])
    assert counts(client) == {"a": 1000}
    kept = list(lost_marks(client, {"a": Gap(0, 1000)}))
    assert 5 < len(kept) < 20
    assert kept[-1].after == 1000
    assert int(client.hget(remembering.STATE, "bytes") or 0) <= 2_000


def test_a_redis_that_is_away_keeps_nobody_waiting_and_is_told_later(client: redis.Redis) -> None:
    memory = met(client)
    client.config_set("maxmemory", "1")  # it answers, and takes nothing
    try:
        memory.keep([mark("a", 0, 5)])
        with pytest.raises(redis.RedisError):
            memory.flush()
    finally:
        client.config_set("maxmemory", "0")
    eventually(lambda: counts(client) == {"a": 5}, "it is told later")
    memory.stop()


def test_a_process_that_ends_says_what_it_committed_last(client: redis.Redis) -> None:
    memory = met(client)
    memory.keep([mark("a", 0, 5)])
    eventually(lambda: counts(client) == {"a": 5}, "it is told")
    memory.keep([mark("a", 5, 9)])  # the next is not sent at once
    memory.stop()
    assert counts(client) == {"a": 9}
