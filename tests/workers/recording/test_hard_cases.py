"""What rarely happens and must not matter: lost replies, zombies, floods of poison, full brokers, clocks that jump."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from brokers.broker_under_test import RedisServer
from sqlalchemy import Engine, text
from support.oracle.proof import RULES, add_up_reports, assert_verified
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, body, count, dead_letters, dump, what_stands
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events.errors import PublishError
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.transport import broker
from caselog.events.transport.publisher import Publisher
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.database_errors import DatabaseAway
from caselog.workers.tasks.aggregator import Aggregator


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    autodiscover()
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def lose_the_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next COMMIT is carried out, and the connection is cut before its reply arrives."""
    commit = engine.dialect.do_commit

    def cut(connection: Any) -> None:
        commit(connection)
        monkeypatch.setattr(engine.dialect, "do_commit", commit)
        connection.driver_connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(engine.dialect, "do_commit", cut)


def test_a_batch_whose_commit_applied_but_whose_reply_was_lost_is_recorded_once(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows, so it is recorded again, and found recorded: logs, dead letters and parked events alike."""
    events = [*simulate(20, 3), event("no_such_event", None, "AB-1"), event("accept_case", "SPOP", "AB-404")]
    recording = Recording(engine, event_registry, RULES)
    messages = [decode(body(*events))]
    recording.record([decode(body(created("AB-0")))])
    lose_the_reply(engine, monkeypatch)
    with pytest.raises(DatabaseAway):
        recording.record(messages)
    applied = dump(database_url)
    assert len(applied["log"]) == len(events) - 2 + 1
    again = recording.record(messages)
    assert (again.recorded, again.duplicates, again.dead.total()) == (0, len(events) - 1, 0)  # one is parked
    after = dump(database_url)
    assert {**after, "parked": []} == {**applied, "parked": []}
    add_up_reports(database_url)
    assert_verified(database_url)


def test_deltas_whose_commit_applied_but_whose_reply_was_lost_are_added_once(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recording(engine, event_registry, RULES).record([decode(body(*simulate(20, 4)))])
    aggregator = Aggregator(engine, event_registry, RULES)
    lose_the_reply(engine, monkeypatch)
    with pytest.raises(Exception, match="server closed the connection"):
        aggregator.add_up()
    aggregator.add_all_up()
    assert count(database_url, "report_outbox") == 0
    assert_verified(database_url)


def test_what_a_slow_transaction_writes_beside_fast_ones_is_aggregated_once_it_commits(
    database_url: str, engine: Engine
) -> None:
    """Its ids and its row of the outbox come before theirs, and are seen after them: nobody reads by `id > last`."""
    written, commit = threading.Event(), threading.Event()
    steps = iter(("loaded", "folded", "stored"))

    def stand_still() -> None:
        if next(steps) == "stored":
            written.set()
            assert commit.wait(DEADLINE_S)

    slow = Recording(engine, event_registry, RULES, progress=stand_still)
    fast = Recording(engine, event_registry, RULES)
    journey = [created("AB-1"), event("assign_to_provider", "SPOR", "AB-1", data={"context": {"provider": "p"}})]
    thread = threading.Thread(target=slow.record, args=([decode(body(*journey))],))
    thread.start()
    try:
        assert written.wait(DEADLINE_S)
        for number in range(2, 12):
            fast.record([decode(body(created(f"AB-{number}")))])
        add_up_reports(database_url)
        assert count(database_url, "report_outbox") == 0
        assert count(database_url, "log") == 10
    finally:
        commit.set()
        thread.join()
    assert count(database_url, "report_outbox") == 1
    add_up_reports(database_url)
    sums = "select report, sum(n1)::int from report_sum where report in ('case_volume', 'outcomes') group by 1"
    order = "select array_agg(case_reference order by id) from log"
    with engine.connect() as db:
        assert {report: number for report, number in db.execute(text(sums))} == {  # noqa: C416 - rows, not pairs
            "case_volume": 11,
            "outcomes": 1,
        }
        assert db.execute(text(order)).scalar_one()[:2] == ["AB-1", "AB-1"]
    assert count(database_url, "assignment") == 1


@pytest.mark.slow
def test_a_recorder_that_stands_still_within_a_batch_holds_nobody_up_for_ever_and_doubles_nothing(
    redis_pipeline: Pipeline,
) -> None:
    """Stopped with locks in its hands; another one claims its messages and waits; PostgreSQL ends its transaction.

    When it wakes, its session is gone, its messages are another's, and it records nothing a second time.
    """
    redis_pipeline.publish([created("AB-1"), created("AB-2")])
    zombie = redis_pipeline.start("recorder")
    redis_pipeline.recorded(2)
    with psycopg.connect(redis_pipeline.database_url) as db:
        db.execute("select 1 from \"case\" where reference = 'AB-2' for update")
        later = [event("case", "CASE_VIEWED", f"AB-{n}", f"2026-03-02T12:0{n}:00Z") for n in (1, 2)]
        for one in later:  # one operator, so that the batch holds a lock that the next one wants
            one["data"]["actor"]["id"] = "op-1"
        redis_pipeline.publish(later, batch_events=2)
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        eventually(lambda: redis_pipeline.one(waits) == 1, "the recorder waits for the row, with its actor locked")
        os.kill(zombie.pid, signal.SIGSTOP)
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(4, within_s=DEADLINE_S)
    os.kill(zombie.pid, signal.SIGCONT)
    redis_pipeline.publish([created("AB-3")])
    redis_pipeline.recorded(5)
    assert zombie.stop() == 0
    assert "Traceback" not in zombie.said()
    redis_pipeline.drain_reports()
    assert redis_pipeline.logs() == 5


def test_a_recorder_whose_batch_waits_for_a_lock_stops_in_time_all_the_same(redis_pipeline: Pipeline) -> None:
    """A batch that cannot be finished is given up, and recorded by whoever comes next."""
    redis_pipeline.publish([created("AB-1")])
    recorder = redis_pipeline.start("recorder")
    redis_pipeline.recorded(1)
    with psycopg.connect(redis_pipeline.database_url) as db:
        db.execute("select 1 from \"case\" where reference = 'AB-1' for update")
        redis_pipeline.publish([event("case", "CASE_VIEWED", "AB-1")])
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        eventually(lambda: redis_pipeline.one(waits) == 1, "the recorder waits for the row")
        assert recorder.stop() == 1
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(2)
    redis_pipeline.drain_reports()


def test_a_tasks_worker_whose_redis_is_frozen_stops_in_time_all_the_same(tmp_path: Path, database_url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="caselog-", dir="/tmp") as directory:
        server = RedisServer(Path(directory))
        server.start()
        pipeline = Pipeline(tmp_path, database_url, server.url, server.url)
        try:
            tasks = pipeline.start("tasks")
            eventually(lambda: "tasks started" in tasks.said(), "it has started")
            server.freeze()
            frozen_until_s = time.monotonic() + 2
            eventually(lambda: time.monotonic() > frozen_until_s, "it has met the frozen Redis")
            tasks.stop()
        finally:
            server.thaw()
            pipeline.close()
            server.stop()


def flood(poison: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """So many events of an unknown type in a row, and the good ones before, behind and (a few) among them."""
    good = list(simulate(30, 5))
    bad = [
        {**event("no_such_event", None, "AB-1"), "id": f"poison-{number}", "data": {"context": {"n": number}}}
        for number in range(poison)
    ]
    middle = len(good) // 2
    step = poison // 10
    mixed = [one for part in range(10) for one in [*bad[part * step : (part + 1) * step], good[middle - 5 + part // 2]]]
    return good, [*good[: middle - 5], *mixed, *good[middle:]]


@pytest.mark.slow
def test_ten_thousand_poison_events_in_a_row_hold_no_good_one_back(pipeline: Pipeline) -> None:
    """Without a breaker: each costs its own dead letter, and nothing else."""
    good, all_of_them = flood(10_000)
    recorder = pipeline.start("recorder", CASELOG_BREAKER_COUNT="0")
    pipeline.start("tasks")
    pipeline.publish(all_of_them)
    pipeline.recorded(len(good), within_s=DEADLINE_S)
    eventually(lambda: pipeline.one("select count(*) from dead_letter") == 10_000, "every one is a dead letter")
    eventually(lambda: pipeline.one("select count(*) from parked") == 0, "none waits for its case")
    assert recorder.stop() == 0
    pipeline.drain_reports()
    stands, expected = what_stands(pipeline.database_url), fold_all(good)
    assert {one for one in stands.refused if not one[1].startswith("poison")} == expected.refused.keys()
    assert stands.logs.keys() == expected.logs.keys()
    assert stands.cases == expected.cases


@pytest.mark.slow
def test_a_flood_of_poison_trips_the_breaker_and_after_its_resuming_nothing_is_missing(pipeline: Pipeline) -> None:
    """What was not recorded before the pause is still the broker's, in order, and is recorded after it."""
    good, all_of_them = flood(10_000)
    recorder = pipeline.start("recorder", CASELOG_BREAKER_COUNT="500")
    pipeline.start("tasks")
    pipeline.publish(all_of_them)
    eventually(lambda: pipeline.one("select count(*) from pause") == 1, "the breaker paused all recorders")
    assert count(pipeline.database_url, "dead_letter") < 10_000
    assert recorder.stop() == 0
    pipeline.start("recorder", CASELOG_BREAKER_COUNT="0")
    assert pipeline.run("resume").returncode == 0
    pipeline.recorded(len(good), within_s=DEADLINE_S)
    eventually(lambda: pipeline.one("select count(*) from dead_letter") == 10_000, "every one is a dead letter")
    eventually(lambda: pipeline.one("select count(*) from parked") == 0, "none waits for its case")
    pipeline.drain_reports()
    assert what_stands(pipeline.database_url).logs.keys() == fold_all(good).logs.keys()


def test_a_message_far_over_the_limit_is_one_dead_letter_and_holds_nothing_back(pipeline: Pipeline) -> None:
    """Five megabytes: twenty times what an event may have. Sent again, it is still one."""
    recorder = pipeline.start("recorder")
    huge = body({**created("AB-9"), "data": {"code": "CASE_CREATED", "context": {"x": "y" * 5_000_000}}})
    pipeline.send(huge, body(created("AB-1")), huge, body(created("AB-2")))
    pipeline.recorded(2)
    [letter] = dead_letters(pipeline.database_url)
    assert (letter["reason"], len(letter["raw"])) == ("malformed", len(huge))
    assert recorder.stop() == 0
    pipeline.drain_reports()


def test_on_rabbitmq_a_message_is_delivered_as_often_as_its_recorders_die(amqp_url: str) -> None:
    """RabbitMQ 4 deletes a message at its 21st delivery, unless the queue says otherwise: ours does."""
    with Publisher(amqp_url) as publisher:
        publisher.publish(created("AB-1"))
    for _ in range(30):
        connection = broker.connect(amqp_url)
        held: list[Any] = []
        with broker.consume(broker.open_channel(connection), broker.EVENTS_QUEUE, held.append, prefetch_messages=1):
            while not held:
                connection.drain_events(timeout=DEADLINE_S)
            connection.collect()  # cut, not closed: as if it was killed
    with broker.connect(amqp_url) as connection:

        def ready() -> int:
            return broker.queue_status(connection, "caselog.events", with_age=False).ready

        eventually(lambda: ready() == 1, "it is still there")


def test_a_redis_that_is_full_refuses_what_it_has_no_room_for_and_loses_nothing(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """Publishing fails loudly; recording makes room, and what was refused is accepted then."""
    with tempfile.TemporaryDirectory(prefix="caselog-", dir="/tmp") as directory:
        server = RedisServer(Path(directory))
        server.start()
        pipeline = Pipeline(tmp_path, database_url, server.url, redis_url)
        events = [created(f"AB-{number}", data={"notes": "x" * 4000}) for number in range(2000)]
        try:
            with server.client() as client:
                pipeline.publish(events[:1])
                client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
                client.config_set("maxmemory-policy", "noeviction")
            publisher = Publisher(server.url, retry_for_s=1)
            publisher.publish_many(events)
            with pytest.raises(PublishError, match=r"OOM|maxmemory") as refused:
                publisher.close()
            unsent = refused.value.unsent
            assert 0 < len(unsent) < len(events)
            recorder = pipeline.start("recorder")
            pipeline.recorded(len(events) - len(unsent))
            with Publisher(server.url) as publisher:
                publisher.publish_many(unsent)
            pipeline.recorded(len(events))
            assert recorder.stop() == 0
            pipeline.drain_reports()
            assert_same(what_stands(database_url), fold_all(events))
        finally:
            pipeline.close()
            server.stop()


def test_a_worker_whose_clock_jumps_judges_events_by_the_databases(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a day ahead nor a day behind lets in what is in the future, or refuses what is not."""
    with psycopg.connect(database_url) as db:
        row = db.execute("select now()").fetchone()
        assert row is not None
        now = row[0]
    recording = Recording(engine, event_registry, RULES)
    real = time.time
    for jump_s in (86_400, -86_400):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
            soon = created(f"AB-{jump_s}", (now + timedelta(minutes=4)).isoformat())
            late = created(f"CD-{jump_s}", (now + timedelta(minutes=10)).isoformat())
            recorded = recording.record([decode(body(soon, late))])
        assert (recorded.recorded, dict(recorded.dead)) == (1, {"time_in_future": 1})
    add_up_reports(database_url)
