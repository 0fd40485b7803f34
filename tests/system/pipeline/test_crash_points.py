"""A process killed at each named point, twice, loses nothing and doubles nothing (docs/design.md "Promises")."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.oracle.proof import assert_verified
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, what_stands
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events.model.registry import BUNDLED_APPS, autodiscover
from caselog.workers.process import crash_points
from caselog.workers.process.crash_points import Point
from caselog.workers.producers.simulation import simulate

pytestmark = pytest.mark.slow

# Which process is killed at a point; a point that is not here fails the test of its name.
VICTIMS: dict[Point, str] = {
    "recorder.received": "recorder",
    "recorder.acked": "recorder",
    "recording.locked": "recorder",
    "recording.inserted": "recorder",
    "recording.dead_letter": "recorder",
    "recording.parked": "recorder",
    "recording.unparked": "tasks",
    "recording.before_commit": "recorder",
    "recording.committed": "recorder",
    "retry.taken": "tasks",
    "aggregator.taken": "tasks",
    "aggregator.before_commit": "tasks",
    "aggregator.committed": "tasks",
    "requeue.before_commit": "requeue",
    "requeue.committed": "requeue",
    "reads.before_commit": "reads",  # tests/workers/access/test_reads.py
    "reads.committed": "reads",
    "rebuild.before_swap": "rebuild",
    "rebuild.in_swap": "rebuild",
    "rebuild.swapped": "rebuild",
}
SMALL = {"CASELOG_BATCH_EVENTS": "50"}
# A recorder of an older release: what it does not know are dead letters, and requeueing them records them.
OLDER = {"CASELOG_APPS": ",".join(app for app in BUNDLED_APPS if not app.endswith("complaints"))}
COMMANDS = {"requeue": ("dead", "requeue", "--reason", "unknown_event", "--yes"), "rebuild": ("rebuild",)}


def at(*roles: str) -> list[Point]:
    return [point for point in crash_points.POINTS if VICTIMS[point] in roles]


def parts() -> list[list[dict[str, Any]]]:
    """What is published before each of three starts: of all kinds, and more than two batches of it."""
    journeys = list(simulate(40, 11))
    third = len(journeys) // 3
    found = []
    for part in range(3):
        own = f"ZZ-{part}"
        found.append(
            [
                event("case", "CASE_VIEWED", own, "2026-03-02T11:00:00Z"),  # before its case: it is parked
                event("accept_case", "NO-SUCH-CODE", own),
                *journeys[part * third : (part + 1) * third if part < 2 else None],
                created(own),
                event("complaint", "COMPLAINT_CREATED", own, "2026-03-02T12:00:00Z"),
            ]
        )
    return found


def killed_at_each_start_but_the_last(
    pipeline: Pipeline, point: Point, start: Callable[[dict[str, str]], None]
) -> None:
    """Publish a part before each of three starts, the first two of which die at the point; all stands at the end."""
    autodiscover()
    events: list[dict[str, Any]] = []
    for number, part in enumerate(parts()):
        events += part
        so_far = len(events)
        pipeline.publish(part, batch_events=10)
        if VICTIMS[point] != "recorder":
            eventually(lambda so_far=so_far: placed(pipeline) >= so_far, "each event has its place")  # type: ignore[misc]
        start({"CASELOG_CRASH_AT": point} if number < 2 else {})
    eventually(lambda: pipeline.one("select count(*) from parked") == 0, "what was parked is recorded", DEADLINE_S)
    waited = pipeline.run("wait")
    assert (waited.returncode, waited.stderr) == (0, b"")
    stands = what_stands(pipeline.database_url)
    assert len(stands.logs) + len(stands.refused) == len(events) > 400
    assert len(stands.refused) == 3
    assert_same(stands, fold_all(events))
    assert_verified(pipeline.database_url)


def placed(pipeline: Pipeline) -> int:
    count: int = pipeline.one(
        "select (select count(*) from log) + (select count(*) from parked) + (select count(*) from dead_letter)"
    )
    return count


def assert_died(pipeline: Pipeline, role: str, settings: dict[str, str]) -> None:
    """Start a worker; where it is to crash, see it do so at that very point."""
    worker = pipeline.start(role, **SMALL, **settings)
    if settings:
        assert worker.process.wait(DEADLINE_S) == -signal.SIGKILL, worker.said()
        assert f"killed at {settings['CASELOG_CRASH_AT']}" in worker.said()


@pytest.mark.parametrize("point", at("recorder"))
def test_a_recorder_killed_there_twice_loses_and_doubles_nothing(redis_pipeline: Pipeline, point: Point) -> None:
    kill_recorders(redis_pipeline, point)


@pytest.mark.parametrize("point", ["recorder.received", "recording.committed", "recorder.acked"])
def test_on_rabbitmq_too_a_recorder_killed_around_its_ack_loses_and_doubles_nothing(
    tmp_path: Path, database_url: str, amqp_url: str, redis_url: str, point: Point
) -> None:
    """Where the broker has a part in it. The others lie within one transaction, whatever the broker."""
    pipeline = Pipeline(tmp_path, database_url, amqp_url, redis_url)
    try:
        kill_recorders(pipeline, point)
    finally:
        pipeline.close()


def kill_recorders(pipeline: Pipeline, point: Point) -> None:
    pipeline.start("tasks")
    killed_at_each_start_but_the_last(pipeline, point, lambda settings: assert_died(pipeline, "recorder", settings))


@pytest.mark.parametrize("point", at("tasks"))
def test_a_tasks_worker_killed_there_twice_loses_and_doubles_nothing(redis_pipeline: Pipeline, point: Point) -> None:
    redis_pipeline.start("recorder", **SMALL)
    killed_at_each_start_but_the_last(
        redis_pipeline, point, lambda settings: assert_died(redis_pipeline, "tasks", settings)
    )


@pytest.mark.parametrize("point", at("requeue", "rebuild"))
def test_a_command_killed_there_twice_loses_and_doubles_nothing(redis_pipeline: Pipeline, point: Point) -> None:
    """Recorder and tasks go on meanwhile. What a rebuild is to mend is spoilt anew before each one."""
    victim = VICTIMS[point]
    redis_pipeline.start("recorder", **SMALL, **(OLDER if victim == "requeue" else {}))
    redis_pipeline.start("tasks")

    def start(settings: dict[str, str]) -> None:
        if victim == "rebuild":
            redis_pipeline.one("with spoilt as (update \"case\" set search_field = 'x' returning 1) select 1")
        done = redis_pipeline.run(*COMMANDS[victim], CASELOG_CRASH_AT=settings.get("CASELOG_CRASH_AT", ""))
        assert done.returncode == (-signal.SIGKILL if settings else 0), done.stderr.decode()
        if settings:
            assert f"killed at {point}".encode() in done.stderr

    killed_at_each_start_but_the_last(redis_pipeline, point, start)


@pytest.mark.parametrize("wrong", ["recording", "recording.comitted", "recording.committed:0", "recording.committed:x"])
def test_a_point_that_is_none_is_one_line_that_names_the_setting(redis_pipeline: Pipeline, wrong: str) -> None:
    done = redis_pipeline.run("worker", "recorder", CASELOG_CRASH_AT=wrong)
    assert done.returncode == 1
    assert done.stderr.startswith(b"caselog: CASELOG_CRASH_AT: ")
    assert done.stderr.count(b"\n") == 1


def test_the_nth_visit_counts(redis_pipeline: Pipeline) -> None:
    redis_pipeline.publish(simulate(20, 1), batch_events=10)
    worker = redis_pipeline.start("recorder", **SMALL, CASELOG_CRASH_AT="recording.committed:3")
    assert worker.process.wait(DEADLINE_S) == -signal.SIGKILL
    assert 100 < redis_pipeline.logs() <= 150
    redis_pipeline.drain_reports()


def test_where_none_is_asked_for_a_point_is_an_empty_function() -> None:
    crash_points.arm("")
    assert crash_points.reach is crash_points._go_on  # noqa: SLF001 - that it costs nothing is what there is to see
