"""What `caselog queues` says of each queue, on both brokers, against what was put there."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import dramatiq
import pytest
from kombu import Connection
from redis import Redis
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually
from support.servers.children import start_child

from caselog.events.transport import broker
from caselog.workers.health.queues import QueueView, queue_view, raw_events_status
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import Services, redis_py_url
from caselog.workers.tasks.wakeup import QUEUE, make_broker
from caselog.workers.telemetry.heartbeat import Heartbeat, read_beats
from caselog.workers.terminal.queue_watch import sparkline


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_py_url(redis_url)) as client:
        yield client


@pytest.fixture
def view(database_url: str, broker_url: str, redis_url: str, client: Redis) -> Iterator[QueueView]:
    with queue_view(Services(database_url, broker_url, redis_url), client) as view:
        yield view


def send(connection: Connection, *sent_s: int) -> None:
    """Messages that were published at these times by their sender."""
    with connection.channel() as channel:
        broker.EVENTS_QUEUE(channel).declare()
        for moment_s in sent_s:
            broker.publish(
                channel, b"{}", exchange="caselog.events", routing_key="event.x", content_type="x", timestamp=moment_s
            )


def test_a_backlog_is_told_with_what_is_held_and_the_oldest_age(broker_url: str, client: Redis) -> None:
    """A recorder holds two of five, and says so; RabbitMQ's oldest is then the oldest that it holds."""
    now_s = int(time())
    with broker.connect(broker_url) as connection, broker.connect(broker_url) as other:
        send(connection, now_s - 90, now_s - 80, now_s - 70, now_s - 60, now_s - 50)
        held: list[Any] = []
        with broker.consume(broker.open_channel(other), broker.EVENTS_QUEUE, held.append, prefetch_messages=2):
            while len(held) < 2:
                other.drain_events(timeout=10)
            Heartbeat(client, "recorder").beat(unacked=2, held_since_s=broker.published_s(held[0]))

            def told() -> tuple[int, int | None, int]:
                status = raw_events_status(connection, read_beats(client))
                return status.ready, status.unacked, status.consumers

            eventually(lambda: told() == (3, 2, 1), "three are ready and two held by one consumer")
            age_s = raw_events_status(connection, read_beats(client)).oldest_age_s
            assert age_s is not None
            if not broker.is_redis(connection):  # on Redis the age is that of the entry: just now
                assert 90 <= age_s < 100
        assert not any(message.delivery_info["redelivered"] for message in held)


def test_on_rabbitmq_what_a_killed_recorder_said_it_held_is_not_counted(amqp_url: str, client: Redis) -> None:
    """Its messages are ready again, and its heartbeat outlives it for minutes."""
    Heartbeat(client, "recorder").beat(unacked=500)
    with broker.connect(amqp_url) as connection:
        send(connection, int(time()) - 70)
        status = raw_events_status(connection, read_beats(client))
    assert (status.ready, status.unacked, status.consumers) == (1, 0, 0)
    assert status.oldest_age_s is not None
    assert 70 <= status.oldest_age_s < 80


def test_rates_are_what_was_published_recorded_and_added_up(pipeline: Pipeline, client: Redis) -> None:
    """Summed over looks a moment apart: of 60 published events 60 came and 60 went, whatever the moments."""
    pipeline.start("recorder")
    eventually(lambda: pipeline.queue().consumers == 1, "the recorder consumes")
    settings = pipeline.settings
    services = Services(pipeline.database_url, pipeline.broker_url, settings["CASELOG_REDIS_URL"])
    came = dict.fromkeys(("caselog.events", "report_outbox", "parked"), 0.0)
    went = dict(came)
    cases = [created(f"AB-{number}") for number in range(40)]
    outcomes = [event("accept_case", "SPOP", f"AB-{number}") for number in range(20)]
    strays = [event("accept_case", "SPOP", f"nobody-{number}") for number in range(5)]
    with queue_view(services, client) as view:
        counts = broker.is_redis(broker.connect(pipeline.broker_url)) and view.sample().depths[0].arrived is not None
        eventually(lambda: view.sample().depths[0].done or counts, "the recorder has a heartbeat")
        view.lines()
        at_s = view._before.at_s  # type: ignore[union-attr]  # noqa: SLF001 - the moment of these lines
        pipeline.publish([*cases, *outcomes, *strays], batch_events=1)
        pipeline.recorded(60)

        def summed() -> bool:
            nonlocal at_s
            lines = view.lines()
            now_s = view._before.at_s  # type: ignore[union-attr]  # noqa: SLF001 - the moment of these lines
            for line in lines:
                if line.queue in came and line.in_per_s is not None and line.out_per_s is not None:
                    came[line.queue] += line.in_per_s * (now_s - at_s)
                    went[line.queue] += line.out_per_s * (now_s - at_s)
            at_s = now_s
            return counts or went["caselog.events"] > 0

        eventually(summed, "a worker has said what it got done")
    deltas = pipeline.one("select sum(deltas) from report_outbox")
    assert deltas > 0
    assert came["report_outbox"] == pytest.approx(deltas, abs=2)
    assert came["parked"] == pytest.approx(5, abs=2)
    assert went["report_outbox"] == pytest.approx(0, abs=2)
    assert went["parked"] == pytest.approx(0, abs=2)
    if counts:
        assert came["caselog.events"] == pytest.approx(65, abs=2)
        assert went["caselog.events"] == pytest.approx(65, abs=2)


def test_the_tasks_queue_is_told_with_its_delayed_and_dead_messages(view: QueueView, client: Redis) -> None:
    """Put there by dramatiq itself: one ready, one fetched and not acked, one delayed, one dead."""
    tasks = make_broker(client)
    message: dramatiq.Message[None] = dramatiq.Message(QUEUE, "nobody", (), {}, {})
    tasks.enqueue(message)
    consumer = tasks.consume(QUEUE, prefetch=1, timeout=10)
    fetched = next(consumer)
    assert fetched is not None
    tasks.enqueue(message.copy(message_timestamp=int((time() - 100) * 1000)))
    tasks.enqueue(message.copy(message_timestamp=int(time() * 1000)))
    tasks.enqueue(message.copy(), delay=60_000)
    found = {line.queue: line for line in view.lines()}
    queue = found[QUEUE]
    assert (queue.ready, queue.unacked, queue.consumers) == (2, 1, 0)
    assert queue.oldest_age_s is not None
    assert 100 <= queue.oldest_age_s < 110
    assert (found[f"{QUEUE}.DQ"].ready, found[f"{QUEUE}.XQ"].ready) == (1, 0)
    consumer.nack(fetched)
    dead = {line.queue: line for line in view.lines()}[f"{QUEUE}.XQ"]
    assert dead.ready == 1
    assert dead.oldest_age_s is not None
    assert dead.oldest_age_s < 10
    assert (dead.in_per_s, dead.out_per_s) == (None, None)
    consumer.close()


def test_watched_by_a_program_it_is_a_line_of_json_a_second(redis_pipeline: Pipeline) -> None:
    redis_pipeline.publish([created("AB-1")])
    with _watching(redis_pipeline, "--json", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    moments = [datetime.fromisoformat(look["time"]) for look in looks]
    assert all(abs(datetime.now(UTC) - moment) < timedelta(minutes=1) for moment in moments)
    assert moments == sorted(moments)
    for look in looks:
        [events] = [line for line in look["queues"] if line["queue"] == "caselog.events"]
        assert (events["ready"], events["unacked"]) == (1, 0)
        assert events["oldest_age_s"] > 0


def test_watched_in_a_terminal_it_shows_the_queues_with_a_sparkline_and_a_pause(redis_pipeline: Pipeline) -> None:
    redis_pipeline.publish([created("AB-1")])
    assert redis_pipeline.run("pause", "--why", "the big move").returncode == 0
    ours, theirs = pty.openpty()
    with _watching(redis_pipeline, stdout=theirs) as process:
        os.close(theirs)
        shown = b""

        def seen() -> bool:
            nonlocal shown
            shown += os.read(ours, 65536)
            return len(re.findall("█".encode(), shown)) >= 2

        eventually(seen, "a sparkline of two looks")
        process.send_signal(signal.SIGINT)
        with suppress(OSError):
            while more := os.read(ours, 65536):
                shown += more
        assert process.wait(DEADLINE_S) == 0
    os.close(ours)
    for word in ("caselog.events", "in_per_s", "the big move", "caselog resume"):
        assert word in shown.decode(errors="replace")  # the end may be in the middle of a character


def test_watched_without_a_terminal_it_says_what_to_do(redis_pipeline: Pipeline) -> None:
    done = redis_pipeline.run("queues", "--watch")
    assert done.returncode == 2
    assert b"--json" in done.stderr


def test_it_goes_on_watching_while_a_server_is_away(redis_pipeline: Pipeline) -> None:
    with _watching(redis_pipeline, "--json", stdout=subprocess.PIPE) as process:
        output = process.stdout
        assert output is not None
        assert "queues" in json.loads(output.readline())
        with redis_pipeline.database_away():
            eventually(lambda: "error" in json.loads(output.readline()), "it says that it cannot look")
        eventually(lambda: "queues" in json.loads(output.readline()), "it looks again")


@contextmanager
def _watching(pipeline: Pipeline, *arguments: str, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    argv = [*caselog_program(), "queues", "--watch", *arguments]
    process = start_child(argv, env=pipeline.environment(TERM="xterm"), stdin=subprocess.DEVNULL, stdout=stdout)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_sparkline_shows_the_highest_full_and_nothing_blank() -> None:
    assert sparkline([0, 1, 4, 8, 0]) == " ▂▅█ "
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
    assert sparkline([1, 10_000]) == "▁█"
