"""Pause, resume and the breaker with recorders as processes: nothing is consumed, nothing is lost, all goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis
from support.oracle.stored import count, dead_letters
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.operations import pause as pausing
from caselog.schema.recording.parking import make_due
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Recorded
from caselog.workers.recording.pause_watch import Breaker, PauseWatch
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings
from caselog.workers.telemetry.heartbeat import Beat, Doing, read_beats

# A small breaker and small batches, so that it trips in the middle of a flood and not at its end.
TOUCHY = {"CASELOG_BREAKER_COUNT": "40", "CASELOG_BATCH_EVENTS": "20"}


def cases(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [created(f"AB-{number}") for number in range(first, first + count)]


def flood(count: int) -> list[dict[str, Any]]:
    """Events whose code a deploy forgot."""
    return [event("accept_case", "FORGOTTEN", f"AB-{number}") for number in range(count)]


def beats(pipeline: Pipeline) -> list[Beat]:
    with Redis.from_url(redis_py_url(pipeline.settings["CASELOG_REDIS_URL"])) as client:
        return [beat for beat in read_beats(client) if beat.role == "recorder"]


def all_say(pipeline: Pipeline, doing: Doing, recorders: int) -> None:
    eventually(
        lambda: [beat.doing for beat in beats(pipeline)] == [doing] * recorders,
        f"{recorders} recorders say {doing.value}",
    )


def settled(pipeline: Pipeline) -> int:
    """Events that are recorded or set aside."""
    return pipeline.logs() + count(pipeline.database_url, "dead_letter")


def is_lost_by_nobody(pipeline: Pipeline, published: int) -> bool:
    """Each event is still in the queue, ready, or is recorded or set aside: none is held, none is gone."""
    status = pipeline.queue()
    return not status.unacked and status.ready + settled(pipeline) == published


@contextmanager
def told(pipeline: Pipeline, *arguments: str) -> Iterator[str]:
    done = pipeline.run(*arguments, CASELOG_OPERATOR="anna")
    assert (done.returncode, done.stderr) == (0, b"")
    yield done.stdout.decode()


def test_paused_recorders_consume_nothing_until_they_are_resumed(pipeline: Pipeline) -> None:
    """Also one that starts meanwhile; all say so, and by whom, since when and why."""
    pipeline.start("recorder", "--processes", "2")
    pipeline.publish(cases(20), batch_events=1)
    pipeline.recorded(20)
    with told(pipeline, "pause", "--why", "the database moves") as said:
        assert "paused by anna since " in said
        assert "the database moves" in said
    all_say(pipeline, Doing.PAUSED, 2)
    pipeline.start("recorder")
    all_say(pipeline, Doing.PAUSED, 3)
    pipeline.publish(cases(30, first=20), batch_events=1)
    assert all("the database moves" in str(beat.why) for beat in beats(pipeline))
    status = pipeline.queue()
    assert (status.ready, status.unacked or 0, status.consumers) == (30, 0, 0)
    assert pipeline.logs() == 20
    with told(pipeline, "queues", "--json") as said:
        found = {line["queue"]: line for line in json.loads(said)}
    assert found["caselog.events"]["ready"] == 30
    assert found["caselog.events"]["paused"]["who"] == "anna"
    assert found["report_outbox"]["paused"] is None
    with told(pipeline, "queues") as said:
        assert "the database moves" in said
        assert "caselog resume" in said
    with told(pipeline, "resume") as said:
        assert "the database moves" in said
    pipeline.recorded(50)
    assert pipeline.one("select string_agg(who || ' ' || action, ', ' order by id) from audit") == (
        "anna pause, anna resume"
    )


@pytest.mark.slow
def test_a_pause_in_the_middle_of_a_backlog_gives_back_what_is_held(pipeline: Pipeline) -> None:
    """What is recorded is acked, what is not recorded is ready again, and nothing of it is lost or doubled."""
    published = 20_000  # at 20 events a transaction, far more than a second's work
    pipeline.publish(cases(published), batch_events=10)
    recorder = pipeline.start("recorder", CASELOG_BATCH_EVENTS="20")
    eventually(lambda: pipeline.logs() > 100, "more than 100 logs")
    engine = make_engine(pipeline.database_url)
    with engine.begin() as db:  # a command would take longer to start than the backlog lasts
        pausing.pause(db, who="anna", why="x")
    all_say(pipeline, Doing.PAUSED, 1)
    eventually(
        lambda: not pipeline.queue().unacked and 10 * pipeline.queue().ready + pipeline.logs() == published,
        "all that is not recorded is ready",
    )
    assert 100 < pipeline.logs() < published
    assert beats(pipeline)[0].unacked == 0
    assert recorder.stop() == 0
    with engine.begin() as db:
        pausing.resume(db, who="anna", why=None)
    engine.dispose()
    pipeline.start("recorder")
    pipeline.recorded(published, within_s=DEADLINE_S)
    assert pipeline.logs() == published


def test_a_paused_recorder_stops_at_once_on_sigterm_and_says_goodbye(pipeline: Pipeline) -> None:
    recorder = pipeline.start("recorder")
    with told(pipeline, "pause", "--why", "x"):
        pass
    all_say(pipeline, Doing.PAUSED, 1)
    assert recorder.stop() == 0
    assert beats(pipeline) == []


def test_pausing_twice_and_resuming_what_is_not_paused_are_errors_that_say_what_is_so(redis_pipeline: Pipeline) -> None:
    not_paused = redis_pipeline.run("resume")
    assert (not_paused.returncode, not_paused.stdout) == (1, b"")
    assert b"not paused" in not_paused.stderr
    with told(redis_pipeline, "pause", "--why", "the first"):
        pass
    again = redis_pipeline.run("pause", "--why", "the second")
    assert again.returncode == 1
    assert b"paused by anna" in again.stderr
    assert b"the first" in again.stderr
    no_reason = redis_pipeline.run("pause", "--why", "  ")
    assert no_reason.returncode == 2
    assert b"--why" in no_reason.stderr
    waited = redis_pipeline.run("wait", "--timeout", "1")
    redis_pipeline.publish(cases(1))
    waited = redis_pipeline.run("wait", "--timeout", "0.5")
    assert waited.returncode == 1
    assert b"the first" in waited.stderr


def test_parked_events_wait_for_the_end_of_a_pause_too(database_url: str) -> None:
    """Whatever recorders are paused for would befall them, too."""
    engine = make_engine(database_url, connections=2)
    autodiscover()
    recording = Recording(engine, event_registry, Rules(zone=Settings().zone))
    with engine.begin() as db:
        pausing.pause(db, who="anna", why="x")
        db.exec_driver_sql(
            "insert into parked (source, event_id, key, case_reference, raw, attempts, due_at) "
            "values ('s', '1', 'accept_case', 'AB-1', 'x', 1, now())"
        )
        make_due(db, ["AB-1"])
    assert recording.retry_parked() == Recorded()
    with engine.begin() as db:
        pausing.resume(db, who="anna", why=None)
    assert recording.retry_parked().dead.total() == 1
    engine.dispose()


def test_the_breaker_stops_a_flood_of_unknown_codes_and_resume_goes_on(pipeline: Pipeline) -> None:
    """Nothing is acked after it tripped; in the end published = recorded + set aside + duplicates."""
    good, bad = cases(10), flood(300)
    pipeline.start("recorder", **TOUCHY)
    pipeline.publish(good, batch_events=1)
    pipeline.recorded(10)
    pipeline.publish([*bad, *good], batch_events=1)
    all_say(pipeline, Doing.TRIPPED, 1)
    eventually(lambda: is_lost_by_nobody(pipeline, 320), "what is not set aside is ready")
    died = count(pipeline.database_url, "dead_letter")
    # A window of 40, in batches of 20 events: the newest two batches at least, and not much more.
    assert 20 <= died <= 60
    [beat] = beats(pipeline)
    for word in ("unknown_code", "caselog dead list --group --reason unknown_code", "caselog resume"):
        assert word in str(beat.why)
    assert pipeline.one("select who || ' ' || action from audit") == "breaker pause"
    rounds = 0
    while not pipeline.queue_is_empty():
        rounds += 1
        with told(pipeline, "resume"):
            pass
        eventually(lambda before=died: count(pipeline.database_url, "dead_letter") > before, "it goes on")  # type: ignore[misc]
        eventually(
            lambda: pipeline.queue_is_empty() or [beat.doing for beat in beats(pipeline)] == [Doing.TRIPPED],
            "it is done, or the rest of the flood tripped the breaker again",
        )
        died = count(pipeline.database_url, "dead_letter")
    assert rounds > 1
    eventually(lambda: settled(pipeline) == 310, "all are recorded or set aside")
    assert (pipeline.logs(), count(pipeline.database_url, "dead_letter")) == (10, 300)
    # Again, all of it: duplicates, which neither add a dead letter nor trip the breaker.
    pipeline.run("resume")  # the last of the flood may have tripped it
    pipeline.publish([*bad, *good], batch_events=1)
    eventually(pipeline.queue_is_empty, "the queue is empty")
    eventually(lambda: [b.doing for b in beats(pipeline)] == [Doing.IDLE], "the recorder is idle, and not paused")
    assert (pipeline.logs(), len(dead_letters(pipeline.database_url))) == (10, 300)


def test_noise_below_the_ratio_holds_nothing_up(redis_pipeline: Pipeline) -> None:
    """Two good events for each one that cannot be read."""
    redis_pipeline.start("recorder", **TOUCHY)
    eventually(lambda: redis_pipeline.queue().consumers == 1, "the recorder consumes")
    for number in range(100):
        redis_pipeline.publish(cases(2, first=2 * number), batch_events=2)
        redis_pipeline.send(f"noise {number}".encode())
    redis_pipeline.recorded(200)
    assert count(redis_pipeline.database_url, "dead_letter") == 100
    assert redis_pipeline.one("select count(*) from pause") == 0


def test_all_recorders_stop_when_the_breaker_of_one_trips(redis_pipeline: Pipeline) -> None:
    redis_pipeline.start("recorder", "--processes", "2", **TOUCHY)
    all_say(redis_pipeline, Doing.IDLE, 2)
    redis_pipeline.publish(flood(1000), batch_events=1)
    all_say(redis_pipeline, Doing.TRIPPED, 2)
    assert redis_pipeline.one("select count(*) from pause where who = 'breaker'") == 1


def test_a_deploy_lifts_the_breakers_pause_and_a_mere_restart_does_not(redis_pipeline: Pipeline) -> None:
    first = redis_pipeline.start("recorder", **TOUCHY)
    redis_pipeline.publish(flood(300), batch_events=1)
    all_say(redis_pipeline, Doing.TRIPPED, 1)
    first.kill()
    second = redis_pipeline.start("recorder", **TOUCHY)
    # The first one is not missed: the second took its place.
    eventually(lambda: [beat.pid for beat in beats(redis_pipeline)] == [second.pid], "the second alone has a heartbeat")
    all_say(redis_pipeline, Doing.TRIPPED, 1)
    assert second.stop() == 0
    redis_pipeline.start("recorder", CASELOG_COMMIT_ID="the-mended-one", CASELOG_BREAKER_COUNT="0")
    eventually(redis_pipeline.queue_is_empty, "the other deploy goes on")
    assert redis_pipeline.one("select who from audit order by id desc limit 1") == "deploy"


def test_a_breaker_that_trips_while_the_database_is_away_stops_at_once_and_writes_it_down_later(
    database_url: str,
) -> None:
    engine = make_engine("postgresql://nobody@127.0.0.1:1/nowhere", connections=1)
    watch = PauseWatch(engine, Breaker(0.5, 10), "a")
    assert watch.look() is None
    died = Recorded()
    died.dead["failed"] = 10
    watch.observe(died)
    pause = watch.look()
    assert pause is not None
    assert pause.is_breakers
    back = watch._engine = make_engine(database_url, connections=1)  # noqa: SLF001 - the database is back
    eventually(lambda: watch.look() is not None and _is_written(database_url), "it is written down")
    assert watch.look() is not None
    back.dispose()


def _is_written(database_url: str) -> bool:
    engine = make_engine(database_url)
    with engine.connect() as db:
        found = pausing.find_pause(db)
    engine.dispose()
    return found is not None and found.is_breakers


def test_a_hung_recorder_among_others_turns_health_red_and_is_told_from_a_busy_one(redis_pipeline: Pipeline) -> None:
    """SIGSTOP, with a threshold of 3 seconds so that it is soon; and green again when it goes on."""
    redis_pipeline.start("tasks")
    hung = redis_pipeline.start("recorder")
    redis_pipeline.start("recorder")
    all_say(redis_pipeline, Doing.IDLE, 2)
    limits = {"CASELOG_HEALTH_HEARTBEAT_S": "3", "CASELOG_HTTP_PORT": _free_port()}
    redis_pipeline.start("status", **limits)
    eventually(lambda: redis_pipeline.run("ping", "--timeout", "5").returncode == 0, "all is well")
    os.kill(hung.pid, signal.SIGSTOP)
    try:
        eventually(lambda: not _recorder_check(redis_pipeline)["status"], "the hung one is seen")
        check = _recorder_check(redis_pipeline)
        assert f"process {hung.pid} on " in check["value"]
        assert "has been silent for" in check["value"]
        assert "each: work, or an empty queue, less than 3 s ago" in check["threshold"]
        since = check["since"]
    finally:
        os.kill(hung.pid, signal.SIGCONT)
    eventually(lambda: _recorder_check(redis_pipeline)["status"], "it is green again")
    assert _recorder_check(redis_pipeline)["since"] >= since


def _recorder_check(pipeline: Pipeline) -> dict[str, Any]:
    answer = pipeline.run("ping", "--json", "--timeout", "10")
    check: dict[str, Any] = json.loads(answer.stdout)["checks"]["recorder"]
    return check


def _free_port() -> str:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])
