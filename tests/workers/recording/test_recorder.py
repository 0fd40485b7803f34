"""The recorder as a process: whatever is killed, cut or sent, each event is in the log once or set aside once."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import amqp
import psutil
import psycopg
import pytest
from brokers.broker_under_test import CuttableRabbitMq, RedisServer
from kombu.utils.url import parse_url
from redis import Redis
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, body, count, dead_letters, dump, what_stands
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events.model.message import EVENT_BYTES_MAX
from caselog.workers.producers.simulation import simulate
from caselog.workers.servers.locate import redis_py_url

# Many small transactions, so that there is a middle to be killed in.
SMALL = {"CASELOG_BATCH_EVENTS": "100"}


def journeys(cases: int) -> list[dict[str, Any]]:
    return list(simulate(cases, 7))


def assert_all_stands(pipeline: Pipeline, events: list[dict[str, Any]]) -> None:
    """Log, cases, timers, dead letters, parked events and the report are what the rules say of these events."""
    pipeline.drain_reports()
    assert_same(what_stands(pipeline.database_url), fold_all(events))


def test_what_is_published_is_recorded_and_acked(pipeline: Pipeline) -> None:
    events = journeys(30)
    recorder = pipeline.start("recorder")
    pipeline.publish(events)
    pipeline.recorded(len(events))
    assert recorder.stop() == 0
    assert pipeline.queue().ready == 0  # what had not been acked would be ready again
    assert_all_stands(pipeline, events)


def test_killed_in_the_middle_of_many_events_it_loses_none_and_doubles_none(pipeline: Pipeline) -> None:
    events = journeys(520)
    assert len(events) > 5000
    pipeline.publish(events, batch_events=20)
    for records in (500, 2000):
        recorder = pipeline.start("recorder", **SMALL)
        eventually(lambda records=records: pipeline.logs() > records, f"more than {records} logs")  # type: ignore[misc]
        recorder.kill()
    assert pipeline.logs() < len(events)
    pipeline.start("tasks")  # what a dead recorder held comes back late: some events overtake their case's creation
    pipeline.start("recorder", **SMALL)
    pipeline.recorded(len(events))
    assert_all_stands(pipeline, events)


def test_sigterm_finishes_the_batch_in_hand_and_two_recorders_compete_for_the_rest(pipeline: Pipeline) -> None:
    """No event is recorded twice, and the end state is that of one recorder: of the rules."""
    events = journeys(450)
    pipeline.publish(events, batch_events=20)
    first = pipeline.start("recorder", **SMALL)
    eventually(lambda: pipeline.logs() > 300, "more than 300 logs")
    assert first.stop() == 0
    assert 300 < pipeline.logs() < len(events)
    assert pipeline.logs() + 20 * pipeline.queue().ready == len(events) + -len(events) % 20
    pipeline.start("tasks")  # one of two may record an event before the other has created its case
    both = pipeline.start("recorder", "--processes", "2", **SMALL)
    pipeline.recorded(len(events))
    recorders = [child.pid for child in psutil.Process(both.pid).children()]
    assert len(recorders) == 2
    assert both.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in recorders)
    assert_all_stands(pipeline, events)


def test_database_connections_that_are_cut_again_and_again_lose_and_double_nothing(redis_pipeline: Pipeline) -> None:
    events = journeys(300)
    recorder = redis_pipeline.start("recorder", **SMALL)
    redis_pipeline.publish(events[:20])
    redis_pipeline.recorded(20)
    redis_pipeline.publish(events[20:], batch_events=20)
    cut = 0
    deadline_s = time.monotonic() + 1
    while time.monotonic() < deadline_s:
        cut += redis_pipeline.one(
            "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and application_name = 'caselog recorder'"
        )
    assert cut > 2
    redis_pipeline.recorded(len(events))
    assert recorder.is_running()
    assert_all_stands(redis_pipeline, events)


def test_while_the_database_is_away_nothing_is_acked_and_then_it_goes_on_by_itself(pipeline: Pipeline) -> None:
    events = journeys(20)
    recorder = pipeline.start("recorder")
    pipeline.publish(events[:50])
    pipeline.recorded(50)
    with pipeline.database_away():
        pipeline.publish(events[50:], batch_events=1)
        eventually(lambda: "waits for the database" in recorder.said(), "the recorder says that it waits")
        status = pipeline.queue()
        if status.unacked is not None:
            assert status.ready + status.unacked == len(events) - 50
        assert recorder.is_running()
    pipeline.recorded(len(events))
    assert_all_stands(pipeline, events)
    assert recorder.stop() == 0


def test_a_recorder_takes_no_more_ahead_than_a_batch_whatever_a_message_holds(pipeline: Pipeline) -> None:
    """What it took ahead, others cannot record: recorded after theirs, all of it would come late."""
    events = journeys(100)
    recorder = pipeline.start("recorder", **SMALL)
    pipeline.publish(events[:100], batch_events=20)
    pipeline.recorded(100)
    with pipeline.database_away():
        recorder.process.send_signal(signal.SIGSTOP)  # so that it finds all of them at once
        pipeline.publish(events[100:700], batch_events=20)
        recorder.process.send_signal(signal.SIGCONT)
        eventually(lambda: "waits for the database" in recorder.said(), "the recorder says that it waits")
        eventually(lambda: pipeline.queue().ready >= 600 / 20 - 100 / 20, "25 of 30 messages are left to others")
    pipeline.recorded(700)


def test_a_recorder_that_is_behind_fills_its_batches_whatever_their_age(pipeline: Pipeline) -> None:
    """RabbitMQ hands over message by message: closed by its age alone, a batch would hold what is read in that time."""
    events = journeys(70)[:500]
    pipeline.publish(events, batch_events=1)
    recorder = pipeline.start("recorder", CASELOG_BATCH_AGE_MS="0")
    pipeline.recorded(len(events))
    assert recorder.stop() == 0
    batches = [line for line in recorder.said().splitlines() if "took_ms" in line]
    assert 0 < len(batches) <= len(events) / 10


def test_messages_as_the_publisher_sends_them_fill_a_batch_from_the_first_one_on(redis_pipeline: Pipeline) -> None:
    """With 16 of them ahead none was ever full, and none so far from it that more were taken."""
    events = journeys(500)[:4000]
    redis_pipeline.publish(events)
    redis_pipeline.start("recorder")
    redis_pipeline.recorded(len(events))
    with psycopg.connect(redis_pipeline.database_url) as db:
        transactions = db.execute("select count(*) from log group by recorded_at order by 1").fetchall()
    assert transactions == [(2000,), (2000,)]


def test_told_to_stop_while_the_database_is_away_it_stops_and_gives_its_messages_back(pipeline: Pipeline) -> None:
    recorder = pipeline.start("recorder")
    pipeline.publish([created("AB-1")])
    pipeline.recorded(1)
    with pipeline.database_away():
        pipeline.publish([event("accept_case", "SPOP", "AB-1")])
        eventually(lambda: "waits for the database" in recorder.said(), "the recorder says that it waits")
        assert recorder.stop() == 0
    eventually(lambda: pipeline.queue().ready == 1, "the message is ready for another recorder")
    pipeline.start("recorder")
    pipeline.recorded(2)


@pytest.fixture(params=["redis", "rabbitmq"])
def own_broker(request: pytest.FixtureRequest) -> Iterator[RedisServer | CuttableRabbitMq]:
    """A broker of this test's own that can be stopped and started; it does not run yet."""
    if request.param == "rabbitmq":
        wire = CuttableRabbitMq(request.getfixturevalue("amqp_url"))
        wire.stop()
        yield wire
        wire.close()
        return
    with tempfile.TemporaryDirectory(prefix="caselog-", dir="/tmp") as directory:  # a socket's path is short
        server = RedisServer(Path(directory))
        yield server
        server.stop()


def test_a_broker_that_is_away_at_first_or_goes_away_is_waited_for(
    own_broker: RedisServer | CuttableRabbitMq, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    pipeline = Pipeline(tmp_path, database_url, own_broker.url, redis_url)
    events = journeys(20)
    try:
        recorder = pipeline.start("recorder")
        eventually(lambda: "the broker is away" in recorder.said(), "the recorder says that the broker is away")
        own_broker.start()
        pipeline.publish(events[:100])
        pipeline.recorded(100)
        own_broker.stop()
        own_broker.start()
        pipeline.publish(events[100:])
        pipeline.recorded(len(events))
        assert recorder.is_running()
        assert "Traceback" not in recorder.said()
        assert_all_stands(pipeline, events)
        assert recorder.stop() == 0
    finally:
        pipeline.close()


def _nested(levels: int) -> bytes:
    return body(event("case", "CASE_VIEWED", "AB-1", data={"context": {"x": "@"}})).replace(
        b'"@"', b"[" * levels + b"]" * levels
    )


def bad_messages() -> list[tuple[str, bytes]]:
    """One message of every kind that cannot be recorded, with the reason of its dead letter."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    ok = event("accept_case", "SPOP", "AB-1")
    return [
        ("malformed", b"this is not JSON"),
        ("malformed", b"\xff\xfe\x00\x01"),
        ("malformed", b"[]"),
        ("malformed", b'[{"specversion": "1.0"'),
        ("malformed", b'"a string"'),
        ("malformed", b"null"),
        ("malformed", body({**ok, "id": 7})),
        ("malformed", body({**ok, "time": "yesterday"})),
        ("malformed", body({**ok, "time": "2026-03-02T10:00:00"})),
        ("malformed", body({k: v for k, v in ok.items() if k != "time"})),
        ("malformed", body({**ok, "data": []})),
        ("malformed", body({**ok, "data": {"code": "SPOP", "actor": {"id": "a", "role": "king"}}})),
        ("malformed", body({**ok, "data": {"notes": "x" * 5001}})),
        ("malformed", body({**ok, "data": {"notes": "a\x00b"}})),
        ("malformed", body({**ok, "data": {"context": {"x\x00": 1}}})),
        ("malformed", body({**ok, "data": {"context": {"x": "y" * EVENT_BYTES_MAX}}})),
        ("malformed", body({**ok, "data": {"context": {"x": "@"}}}).replace(b'"@"', b"NaN")),
        ("malformed", _nested(100)),
        ("malformed", _nested(50_000)),
        ("time_in_future", body({**ok, "id": "future", "time": tomorrow})),
        ("unknown_event", body({**ok, "id": "event", "type": "accept_caze"})),
        ("unknown_code", body(event("accept_case", "SPOPP", "AB-1"))),
        ("role_not_allowed", body(event("decline_help", "DECL", "AB-1", data={"actor": {"id": "w", "role": "web"}}))),
        ("code_not_resolved", body(event("suspend_case", None, "AB-1"))),
        ("rejected", body(event("assign_to_provider", "REFSP", "AB-1"))),
        ("rejected", body(event("call_me_back", "CB1", "AB-1", data={"context": {"requires_action_at": "soon"}}))),
    ]


def test_bad_input_of_every_kind_is_set_aside_and_holds_nothing_back(pipeline: Pipeline) -> None:
    """Written past the Publisher, as a client in any language may do it."""
    bad = bad_messages()
    good = [created("AB-1"), *(event("case", "CASE_VIEWED", "AB-1", f"2026-03-02T12:{n:02d}:00Z") for n in range(59))]
    recorder = pipeline.start("recorder")
    messages: list[bytes] = []
    for number, one in enumerate(good):
        messages.append(body(one))
        messages += [raw for _, raw in bad[number : number + 1]]
    # In one batch with good ones, a bad one costs only itself.
    broken = b'{"specversion": "1.0", "id": 1}'
    mixed = [event("case", "CASE_VIEWED", "AB-1", f"2026-03-02T13:{n:02d}:00Z") for n in range(2)]
    messages.append(b"[" + body(mixed[0]) + b"," + broken + b"," + body(mixed[1]) + b"]")
    messages.append(body(event("accept_case", "SPOP", "never-created")))
    # The queue is the recorder's to declare and bind; until then RabbitMQ has nowhere to put an event.
    eventually(lambda: pipeline.queue().consumers == 1, "the recorder consumes")
    write_raw(pipeline.broker_url, messages)
    pipeline.recorded(len(good) + len(mixed))
    eventually(lambda: count(pipeline.database_url, "parked") == 1, "the event without its case is parked")
    reasons = Counter(reason for reason, _ in [*bad, ("malformed", broken)])
    letters = dead_letters(pipeline.database_url)
    assert Counter(letter["reason"] for letter in letters) == reasons
    assert {letter["raw"] for letter in letters} == {raw for _, raw in bad} | {broken}
    assert recorder.is_running()
    assert "Traceback" not in recorder.said()
    # All of it again: nothing is added, and the recorder still runs.
    before = dump(pipeline.database_url)
    write_raw(pipeline.broker_url, messages)
    write_raw(pipeline.broker_url, [body(event("case", "CASE_VIEWED", "AB-1", "2026-03-02T14:00:00Z"))])
    pipeline.recorded(len(good) + len(mixed) + 1)
    after = dump(pipeline.database_url)
    assert (after["dead_letter"], after["parked"]) == (before["dead_letter"], before["parked"])
    assert [row for row in after["log"] if row in before["log"]] == before["log"]
    assert recorder.stop() == 0


def write_raw(url: str, messages: list[bytes]) -> None:
    """As docs/events.md "From any other language" tells upstream apps to do it."""
    if url.startswith("redis"):
        with Redis.from_url(redis_py_url(url)) as client:
            for one in messages:
                client.xadd("caselog.events", {"event": one})
        return
    with amqp_connection(url) as connection:
        for one in messages:
            connection.channel(1).basic_publish(
                amqp.Message(one), exchange="caselog.events", routing_key="event.accept_case"
            )


def amqp_connection(url: str) -> amqp.Connection:
    """A plain AMQP connection; a publish returns when RabbitMQ has the message, for without that some may be lost."""
    parts = parse_url(url)
    return amqp.Connection(
        host=f"{parts['hostname']}:{parts['port'] or 5672}",
        userid=parts["userid"],
        password=parts["password"],
        virtual_host=parts["virtual_host"],
        confirm_publish=True,
    )


def test_entries_of_redis_that_hold_no_event_are_set_aside_too(redis_pipeline: Pipeline) -> None:
    """A stranger may write any fields into the stream."""
    recorder = redis_pipeline.start("recorder")
    with Redis.from_url(redis_py_url(redis_pipeline.broker_url)) as client:
        client.xadd("caselog.events", {"something": "else"})
        client.xadd("caselog.events", {"event": ""})
        client.xadd("caselog.events", {"event": body(created("AB-1")), "headers": "no JSON", "properties": b"\xff"})
    redis_pipeline.recorded(1)
    eventually(lambda: dead_letters(redis_pipeline.database_url), "a dead letter")
    assert {letter["reason"] for letter in dead_letters(redis_pipeline.database_url)} == {"malformed"}
    assert recorder.is_running()


def test_claims_of_a_sender_about_its_message_do_no_harm(
    tmp_path: Path, database_url: str, amqp_url: str, redis_url: str
) -> None:
    """An encoding or compression that is not there, a content type of something else."""
    pipeline = Pipeline(tmp_path, database_url, amqp_url, redis_url)
    try:
        recorder = pipeline.start("recorder")
        eventually(lambda: pipeline.queue().consumers == 1, "the recorder consumes")
        claims: list[dict[str, Any]] = [
            {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
            {"content_encoding": "no-such-encoding"},
            {"application_headers": {"compression": "no-such-compression"}},
            {"content_type": "x" * 200, "headers": {}},
        ]
        with amqp_connection(amqp_url) as connection:
            for number, claim in enumerate(claims):
                channel = connection.channel()
                message = amqp.Message(body(created(f"AB-{number}")), **claim)
                channel.basic_publish(message, exchange="caselog.events", routing_key="event.case")
        eventually(
            lambda: pipeline.logs() + count(database_url, "dead_letter") == len(claims), "each is recorded or set aside"
        )
        eventually(pipeline.queue_is_empty, "the queue is empty")
        assert recorder.is_running()
        assert count(database_url, "dead_letter") == 0
    finally:
        pipeline.close()


@pytest.mark.slow
def test_an_idle_recorder_and_one_that_waits_for_the_database_outlive_heartbeats(
    tmp_path: Path, database_url: str, amqp_url: str, redis_url: str
) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats: here of three seconds, by the URL."""
    pipeline = Pipeline(tmp_path, database_url, f"{amqp_url}?heartbeat=3", redis_url)
    try:
        recorder = pipeline.start("recorder")
        eventually(lambda: pipeline.queue().consumers == 1, "the recorder consumes")
        idle_until_s = time.monotonic() + 7
        eventually(lambda: time.monotonic() > idle_until_s, "two heartbeats are over")
        pipeline.publish([created("AB-1")])
        pipeline.recorded(1)
        with pipeline.database_away():
            pipeline.publish([event("accept_case", "SPOP", "AB-1")])
            away_until_s = time.monotonic() + 7
            eventually(lambda: time.monotonic() > away_until_s, "two heartbeats are over")
        pipeline.recorded(2)
        assert "the broker is away" not in recorder.said()
    finally:
        pipeline.close()


def test_ctrl_c_stops_it_as_sigterm_does(redis_pipeline: Pipeline) -> None:
    recorder = redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    os.kill(recorder.pid, signal.SIGINT)
    assert recorder.process.wait(DEADLINE_S) == 0
    assert "Traceback" not in recorder.said()


def test_a_redis_for_heartbeats_that_is_away_neither_stops_nor_slows_it(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """Heartbeats and wake-ups are lost, events are not; and SIGTERM is obeyed in time."""
    pipeline = Pipeline(tmp_path, database_url, amqp_url, f"redis+socket://{tmp_path}/nobody.sock")
    try:
        recorder = pipeline.start("recorder")
        pipeline.publish([created("AB-1"), event("accept_case", "SPOP", "AB-1")])
        pipeline.recorded(2)
        for minute in range(10):
            pipeline.publish([event("case", "CASE_VIEWED", "AB-1", f"2026-03-02T12:{minute:02d}:00Z")])
            pipeline.recorded(3 + minute, within_s=DEADLINE_S)
        assert recorder.stop() == 0
    finally:
        pipeline.close()


@pytest.mark.slow
def test_its_memory_stays_level(redis_pipeline: Pipeline) -> None:
    recorder = redis_pipeline.start("recorder")
    process = psutil.Process(recorder.pid)
    events = journeys(6000)
    rss_bytes = []
    for done in (30_000, 60_000):
        redis_pipeline.publish(events[done - 30_000 : done])
        redis_pipeline.recorded(done)
        rss_bytes.append(process.memory_info().rss)
    assert rss_bytes[1] - rss_bytes[0] < 10_000_000


def test_a_database_that_was_never_migrated_is_said_and_waited_for(
    tmp_path: Path, empty_database_url: str, redis_url: str
) -> None:
    """As when a deploy starts the recorder before the migration: nothing is lost, nothing is set aside."""
    pipeline = Pipeline(tmp_path, empty_database_url, redis_url, redis_url)
    try:
        recorder = pipeline.start("recorder")
        pipeline.publish([created("AB-1")])
        eventually(lambda: "caselog migrate" in recorder.said() or "log_id_2_seq" in recorder.said(), "it says so")
        assert recorder.is_running()
        assert pipeline.run("migrate").returncode == 0
        pipeline.recorded(1)
    finally:
        pipeline.close()


def test_its_database_connection_names_the_role(redis_pipeline: Pipeline) -> None:
    """Operations find in pg_stat_activity whose a connection is."""
    redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    with psycopg.connect(redis_pipeline.database_url) as db:
        names = db.execute(
            "select application_name from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchall()
    assert names == [("caselog recorder",)]
