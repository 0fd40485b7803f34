"""Redis is told what the database has, and which server that is, by whoever looks and whatever Redis had forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from structlog.testing import capture_logs
from support.processes.installed import Installation, asked, installed

from caselog.schema.sessions.connection import fence_of
from caselog.workers.continuity.losses import tell
from caselog.workers.continuity.memory import RUNS, STATE, read_memory


def _checks(one: Installation) -> None:
    one.health.check(["continuity"])


def _tasks(one: Installation) -> None:
    tell(one.engine, one.client)


def _command(one: Installation) -> None:
    assert one.command("pause", "--why", "to see").exit_code == 0
    assert one.command("resume", "--why", "seen").exit_code == 0


def _duplicates(one: Installation) -> None:
    assert one.record("AB").duplicates == 2


def _new_recorder(one: Installation) -> None:
    one.start_recorder()
    assert one.record("AB").duplicates == 2


def _timeline(client: redis.Redis) -> int:
    found = read_memory(client)
    assert found is not None
    assert found.server is not None
    assert found.server.timeline is not None
    return found.server.timeline


@pytest.mark.parametrize("teller", [_checks, _tasks, _command, _duplicates, _new_recorder])
def test_whoever_meets_a_higher_timeline_tells_redis(
    teller: Callable[[Installation], None], database_url: str, redis_url: str
) -> None:
    with installed(database_url, redis_url) as one:
        one.record("AB")
        one.stop_recorder()
        one.recording = None
        now = _timeline(one.client)
        one.client.hset(STATE, "timeline", now - 1)
        if teller is _duplicates:
            one.start_recorder()
        teller(one)
        assert _timeline(one.client) == now


@pytest.mark.parametrize("teller", [_checks, _tasks, _new_recorder])
def test_a_redis_that_came_back_older_is_told_the_counts_that_the_database_has(
    teller: Callable[[Installation], None], database_url: str, redis_url: str
) -> None:
    with installed(database_url, redis_url) as one:
        one.record("AB")
        before = one.client.hgetall(RUNS)
        one.record("CD", "EF")
        one.start_recorder()
        one.record("GH")
        one.stop_recorder()
        one.recording = None
        one.client.delete(RUNS)
        one.client.hset(RUNS, mapping=before)  # type: ignore[arg-type]
        teller(one)
        found = read_memory(one.client)
        assert found is not None
        assert sorted(run.events for run in found.runs.values()) == [2, 6]
        assert one.check().status


def test_a_process_that_ended_while_redis_was_away_leaves_no_silent_gap(database_url: str, redis_url: str) -> None:
    with installed(database_url, redis_url) as one:
        one.record("AB")
        one.client.config_set("maxmemory", "1")  # it answers, and takes nothing
        try:
            with pytest.raises(redis.RedisError):
                one.record("CD")
            with capture_logs() as lines:
                one.stop_recorder()
                one.recording = None
        finally:
            one.client.config_set("maxmemory", "0")
        assert [line["events"] for line in lines if "was not told what was recorded last" in line["event"]] == [2]
        assert one.check().status
        asked(database_url, "delete from recorded returning run")
        found = one.look()  # its logs are there: those that Redis has names of are found again
        assert (found.verdict.missing, found.loss.unnamed, found.loss.again) == (2, 2, 2)


def test_a_run_that_is_about_to_be_forgotten_is_not_told_again(database_url: str, redis_url: str) -> None:
    """Upkeep forgets it in Redis first: told again in between it would be missing when the database forgets it."""
    with installed(database_url, redis_url) as one:
        one.record("AB")
        asked(database_url, "update recorded set changed_at = now() - interval '91 days' returning run")
        one.client.delete(RUNS)
        tell(one.engine, one.client)
        assert one.client.hlen(RUNS) == 0
        assert fence_of(one.engine).met[0] is not None
