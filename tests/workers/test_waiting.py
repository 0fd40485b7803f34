"""`caselog wait` returns when all that was published is recorded and aggregated, and not before."""

from __future__ import annotations

import pytest
from pipeline import Pipeline, created, event, eventually
from reference import fold_all
from stored import assert_same, count, what_stands

from workers.simulate import simulate


def test_when_it_returns_log_and_report_are_complete(pipeline: Pipeline) -> None:
    """Nothing is waited for but the command: what it promises is compared at once, several times over."""
    pipeline.start("tasks")
    pipeline.start("recorder", CASELOG_BATCH_EVENTS="200")
    events = list(simulate(300, 7))
    assert len(events) > 3000
    for done in range(0, len(events), 1100):
        pipeline.publish(events[done : done + 1100], batch_events=20)
        waited = pipeline.run("wait", "--timeout", "30")
        assert (waited.returncode, waited.stdout, waited.stderr) == (0, b"", b"")
        assert_same(what_stands(pipeline.database_url), fold_all(events[: done + 1100]))


@pytest.mark.slow
def test_with_several_recorders_it_waits_for_what_each_of_them_holds(pipeline: Pipeline) -> None:
    pipeline.start("tasks")
    pipeline.start("recorder", "--processes", "2", CASELOG_BATCH_EVENTS="100")
    events = list(simulate(200, 7))
    eventually(lambda: pipeline.queue().consumers == 2, "both recorders consume")
    pipeline.publish(events, batch_events=20)
    assert pipeline.run("wait", "--timeout", "30").returncode == 0
    assert_same(what_stands(pipeline.database_url), fold_all(events))


def test_without_a_recorder_it_ends_in_time_with_one_line_that_says_so(pipeline: Pipeline) -> None:
    pipeline.publish([created("AB-1")])
    waited = pipeline.run("wait", "--timeout", "0.5")
    assert (waited.returncode, waited.stdout) == (1, b"")
    assert waited.stderr.startswith(b"caselog: not everything is recorded in time: 1 messages are ready")
    assert b"caselog worker recorder" in waited.stderr
    assert waited.stderr.count(b"\n") == 1


def test_without_tasks_it_ends_in_time_and_names_them(redis_pipeline: Pipeline) -> None:
    redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1"), event("accept_case", "SPOP", "AB-1")])
    redis_pipeline.recorded(2)
    waited = redis_pipeline.run("wait", "--timeout", "0.5")
    assert waited.returncode == 1
    assert b"do the tasks run?" in waited.stderr


def test_what_waits_for_a_case_that_is_not_there_is_counted_and_not_waited_for(pipeline: Pipeline) -> None:
    pipeline.start("recorder")
    pipeline.publish([event("accept_case", "SPOP", "AB-404")])
    waited = pipeline.run("wait", "--timeout", "30")
    assert (waited.returncode, waited.stdout) == (0, b"")
    assert waited.stderr == b"1 parked events wait for a case that does not exist yet\n"
    assert count(pipeline.database_url, "parked") == 1


def test_what_is_set_aside_is_not_waited_for(pipeline: Pipeline) -> None:
    pipeline.start("recorder")
    pipeline.send(b"no event at all")
    assert pipeline.run("wait", "--timeout", "30").returncode == 0
    assert count(pipeline.database_url, "dead_letter") == 1


@pytest.mark.parametrize("published", [True, False])
def test_a_queue_that_nobody_ever_declared_has_nothing_to_wait_for(
    redis_pipeline: Pipeline, *, published: bool
) -> None:
    if published:
        redis_pipeline.publish([])
    assert redis_pipeline.run("wait", "--timeout", "1").returncode == 0
