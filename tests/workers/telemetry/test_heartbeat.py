"""A heartbeat says what a worker last got done, by the clock of Redis, and costs it nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from redis import Redis
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually

from caselog.workers.servers.locate import Services, redis_py_url
from caselog.workers.servers.redis_client import make_redis
from caselog.workers.telemetry import heartbeat
from caselog.workers.telemetry.heartbeat import PREFIX, Beat, Doing, Heartbeat, read_beats


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_py_url(redis_url)) as client:
        yield client


def test_a_beat_tells_the_role_the_process_and_what_was_done(client: Redis) -> None:
    Heartbeat(client, "recorder").beat(events=7, unacked=3)
    (beat,) = read_beats(client)
    assert (beat.role, beat.pid, beat.events, beat.unacked, beat.idle) == ("recorder", os.getpid(), 7, 3, False)
    assert 0 <= beat.age_s < 5


def test_a_worker_without_a_beat_yet_is_not_there(client: Redis) -> None:
    Heartbeat(client, "recorder")
    assert read_beats(client) == []


def test_it_is_written_once_a_second_at_most_and_no_work_is_forgotten(client: Redis) -> None:
    one = Heartbeat(client, "recorder")
    for _ in range(1000):
        one.beat(events=1)
    assert read_beats(client)[0].events < 1000

    def all_is_told() -> bool:
        one.beat()
        return read_beats(client)[0].events == 1000

    eventually(all_is_told, "a later beat tells the sum", within_s=DEADLINE_S)


def test_a_change_from_busy_to_idle_is_written_at_once(client: Redis) -> None:
    one = Heartbeat(client, "recorder")
    one.beat(events=1)
    one.beat(idle=True)
    assert read_beats(client)[0].idle
    one.beat(events=1)
    assert not read_beats(client)[0].idle


def test_a_worker_that_ends_as_planned_is_not_missed(client: Redis) -> None:
    one = Heartbeat(client, "recorder")
    one.beat(idle=True)
    one.stop()
    assert read_beats(client) == []


def test_it_tells_what_was_done_last_and_how_long_ago(client: Redis) -> None:
    """The last message, the last commit, the last empty queue; never yet is None, and not 0."""
    one = Heartbeat(client, "recorder")
    one.beat(idle=True)
    [beat] = read_beats(client)
    assert (beat.message_age_s, beat.commit_age_s) == (None, None)
    assert beat.empty_age_s is not None
    assert beat.version
    one.beat(messages=3, events=5)
    [beat] = read_beats(client)
    assert beat.message_age_s is not None
    assert beat.commit_age_s is not None
    assert beat.empty_age_s is not None
    assert beat.empty_age_s >= beat.commit_age_s
    assert (beat.messages, beat.events) == (3, 5)


def test_waiting_is_no_proof_of_work_and_steps_of_long_work_are(client: Redis) -> None:
    one = Heartbeat(client, "recorder")
    one.beat(events=1)

    def waited() -> bool:
        one.wait(Doing.NO_DATABASE, unacked=2)
        return read_beats(client)[0].proof_age_s > 1.1

    eventually(waited, "the proof is old, though it speaks")
    [beat] = read_beats(client)
    assert (beat.doing, beat.unacked) == (Doing.NO_DATABASE, 2)
    assert beat.age_s < beat.proof_age_s
    one.take(unacked=2, held_since_s=None)

    def stepped() -> bool:
        one.progress()
        [beat] = read_beats(client)
        return beat.commit_age_s is not None and beat.commit_age_s > 3 and beat.proof_age_s < 2

    eventually(stepped, "the last commit is old, the proof is young")


def test_a_worker_takes_the_place_of_those_of_its_role_that_died_on_its_host_and_of_no_others(client: Redis) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    others = {
        "dead": Beat(role="recorder", worker="dead", pid=ended.pid, host=host),
        "container": Beat(role="recorder", worker="container", pid=os.getpid(), host=host),
        "living": Beat(role="recorder", worker="living", pid=os.getppid(), host=host),
        "tasks": Beat(role="tasks", worker="tasks", pid=ended.pid, host=host),
        "far": Beat(role="recorder", worker="far", pid=ended.pid, host="far"),
    }
    for name, beat in others.items():
        client.set(PREFIX + name, msgspec.json.encode(beat), ex=100)
    one = Heartbeat(client, "recorder")
    one.beat()
    one.succeed()
    assert {beat.worker for beat in read_beats(client)} - {"living", "tasks", "far"} == {
        beat.worker for beat in read_beats(client) if beat.pid == os.getpid()
    }
    assert {"living", "tasks", "far"} < {beat.worker for beat in read_beats(client)}
    assert len(read_beats(client)) == 4


def test_the_beats_come_youngest_first_and_foreign_keys_are_none(client: Redis) -> None:
    client.set("something:else", "x")
    first, second = Heartbeat(client, "recorder"), Heartbeat(client, "tasks")
    first.beat()
    eventually(lambda: read_beats(client)[0].age_s > 0.02, "the first has aged")
    second.beat()
    assert [beat.role for beat in read_beats(client)] == ["tasks", "recorder"]


def test_its_age_grows_by_the_clock_of_redis_and_it_is_forgotten_in_the_end(client: Redis) -> None:
    Heartbeat(client, "recorder").beat()
    (name,) = client.scan_iter(match=PREFIX + "*")
    client.pexpire(name, (heartbeat.KEPT_S - 40) * 1000)  # as if 40 seconds had gone by
    assert 40 <= read_beats(client)[0].age_s < 45
    client.pexpire(name, 1)
    eventually(lambda: read_beats(client) == [], "the beat has gone")


def test_a_redis_that_is_away_stops_nobody_from_working(tmp_path: Path) -> None:
    with make_redis(Services("", "", f"redis+socket://{tmp_path}/nobody.sock")) as client:
        one = Heartbeat(client, "recorder")
        one.beat(events=1)
        one.beat(idle=True)
        one.stop()
