"""Each check of /healthcheck.json on real servers: what turns it red, and that nothing else does (docs/rules.md §8)."""

from __future__ import annotations

import gc
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time
from typing import Any

import msgspec
import pytest
import redis
from sqlalchemy import text
from support.processes.patience import allowance_s
from support.processes.pipeline import eventually

from caselog.events.transport.broker import EVENTS_EXCHANGE, EVENTS_QUEUE, connect, consume, publish
from caselog.schema.sessions.connection import make_engine
from caselog.workers.health import checks as health_module
from caselog.workers.health import status_history
from caselog.workers.health.checks import Health, _in_a_line, check_disk, check_health
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings
from caselog.workers.telemetry.heartbeat import KEPT_S, PREFIX, Beat, Doing, Heartbeat
from caselog.workers.web.app import checks_json

NAMES = (
    *("database", "broker", "redis", "disk", "recorder", "tasks"),
    *("queue", "removals", "aggregates", "dead_letters", "rebuild", "durability"),
    *("continuity", "replication"),
)
# The tests' PostgreSQL is a quick one, which keeps nothing through a crash of its machine.
SETTINGS = Settings(accept_loss=True)


def client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_py_url(url), socket_timeout=2, socket_connect_timeout=2)


@contextmanager
def health_of(database_url: str, broker_url: str, redis_url: str, settings: Settings = SETTINGS) -> Iterator[Health]:
    engine = make_engine(database_url, connections=3)
    try:
        with client_of(redis_url) as client:
            yield Health(engine, broker_url, client, settings)
    finally:
        engine.dispose()


def beat(redis_url: str, role: str, age_s: float = 0) -> None:
    """A worker of that role wrote its heartbeat so long ago."""
    with client_of(redis_url) as client:
        if not age_s:
            Heartbeat(client, role).beat(idle=True)
            return
    write_beat(redis_url, role, age_s=age_s)


def write_beat(
    redis_url: str, role: str, *, age_s: float = 0, worker: str = "", pid: int = 1, host: str = "h", **more: Any
) -> None:
    """The words of a worker, as they were so long ago."""
    value = msgspec.json.encode(Beat(role=role, worker=worker or f"{role}-1", pid=pid, host=host, **more))
    with client_of(redis_url) as client:
        client.set(PREFIX + (worker or f"{role}-1"), value, px=max(1, int((KEPT_S - age_s) * 1000)))


def write_since(redis_url: str, **values: str) -> None:
    with client_of(redis_url) as client:
        client.hset(status_history.KEY, mapping=dict(values))


def beat_all(redis_url: str) -> None:
    for role in ("recorder", "tasks"):
        beat(redis_url, role)


def red(health: Health) -> set[str]:
    return {name for name, check in health.check().items() if not check.status and name != "*"}


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port of 127.0.0.1 where connections are accepted, by the kernel, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_all_is_green_where_servers_answer_and_workers_beat(database_url: str, broker_url: str, redis_url: str) -> None:
    beat_all(redis_url)
    engine = make_engine(database_url)
    with client_of(redis_url) as client:
        checks = check_health(engine, broker_url, client, SETTINGS)
    engine.dispose()
    assert tuple(checks) == ("*", *NAMES)
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(("*", *NAMES), True)
    assert all(check.hint is None for check in checks.values())


@pytest.mark.parametrize(
    ("away", "expected"),
    [
        ("database", {"database", "aggregates", "dead_letters", "rebuild", "continuity"}),
        ("broker", {"broker", "queue", "removals"}),
        ("redis", {"redis", "recorder", "tasks", "continuity"}),
    ],
)
def test_a_server_that_is_away_turns_its_own_checks_red_and_no_others(
    database_url: str,
    broker_url: str,
    redis_url: str,
    nobody: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    away: str,
    expected: set[str],
) -> None:
    monkeypatch.setattr(health_module, "WITHIN_S", allowance_s(health_module.WITHIN_S))  # the others answer in time
    beat_all(redis_url)
    if broker_url.startswith("redis"):
        expected = expected - {"removals"}  # which no policy makes there
    if away == "database":
        database_url = f"postgresql://caselog@127.0.0.1:{nobody}/caselog"
    elif away == "broker":
        broker_url = f"{broker_url.partition('+')[0].partition(':')[0]}://127.0.0.1:{nobody}/"
    else:
        redis_url = f"redis://127.0.0.1:{nobody}/0"
    with health_of(database_url, broker_url, redis_url) as health:
        checks = health.check()
    assert {name for name, check in checks.items() if not check.status} == {"*", *expected}
    assert all(checks[name].hint for name in expected)
    assert set(checks["*"].value.removeprefix("failed: ").split(", ")) == expected


def test_servers_that_never_answer_are_red_in_bounded_time_and_no_threads_pile_up(silent: int) -> None:
    """A hanging server hangs neither the page nor, asked again and again, more than one thread a check."""
    with health_of(
        f"postgresql://caselog@127.0.0.1:{silent}/caselog",
        f"amqp://127.0.0.1:{silent}/",
        f"redis://127.0.0.1:{silent}/0",
    ) as health:
        began = monotonic()
        for _ in range(3):
            assert red(health) == set(NAMES) - {"disk"}
            eventually(_one_thread_a_check, "no more than one thread a check runs")  # one that is over ends in a moment
        # Three rounds of 3 seconds at most.
        assert monotonic() - began < allowance_s(3 * health_module.WITHIN_S)


def _one_thread_a_check() -> bool:
    running = [thread.name for thread in threading.enumerate() if thread.name.startswith("check ")]
    return len(running) == len(set(running))


def test_a_database_without_our_tables_is_red_and_the_hint_names_the_command(
    empty_database_url: str, redis_url: str
) -> None:
    beat_all(redis_url)
    with health_of(empty_database_url, redis_url, redis_url) as health:
        check = health.check()["database"]
    assert not check.status
    assert "caselog migrate" in str(check.hint)


@pytest.mark.parametrize("role", ["recorder", "tasks"])
@pytest.mark.parametrize(("age_s", "well"), [(29, True), (31, False), (None, False)])
def test_a_worker_is_green_only_when_one_did_work_in_the_last_30_seconds(
    database_url: str, redis_url: str, *, role: str, age_s: float | None, well: bool
) -> None:
    beat_all(redis_url)
    with client_of(redis_url) as client:
        client.delete(*client.scan_iter(f"{PREFIX}{role}*"))
    if age_s is not None:
        beat(redis_url, role, age_s)
    with health_of(database_url, redis_url, redis_url) as health:
        assert red(health) == (set() if well else {role})


def test_one_that_hangs_among_others_that_work_is_seen_and_named(database_url: str, redis_url: str) -> None:
    """Half of the recorders gone is no health; who it is stands in the value."""
    beat_all(redis_url)
    write_beat(redis_url, "recorder", age_s=200, worker="recorder-hung", pid=4711, host="far")
    with health_of(database_url, redis_url, redis_url) as health:
        assert red(health) == {"recorder"}
        check = health.check()["recorder"]
    assert re.search(r"recorder-hung \(process 4711 on far\) has been silent for 2\d\d\b", check.value)
    assert "1 with" not in check.value
    assert "see its log" in str(check.hint)


def test_a_worker_that_ends_as_planned_or_was_forgotten_is_not_missed(database_url: str, redis_url: str) -> None:
    beat_all(redis_url)
    with client_of(redis_url) as client:
        ended = Heartbeat(client, "recorder")
        ended.beat(idle=True)
        ended.stop()
    write_beat(redis_url, "recorder", age_s=KEPT_S - 0.001, worker="recorder-killed")
    with health_of(database_url, redis_url, redis_url) as health:
        assert red(health) == set()


def test_one_that_waits_for_the_database_is_red_but_is_not_called_silent(database_url: str, redis_url: str) -> None:
    """It says so all the time, and proves no work."""
    beat_all(redis_url)
    write_beat(redis_url, "recorder", doing=Doing.NO_DATABASE, proof_age_s=40, age_s=1)
    with health_of(database_url, redis_url, redis_url) as health:
        check = health.check()["recorder"]
    assert not check.status
    assert re.search(r"is waiting for the database, without work for 4\d\.\d s", check.value)
    assert "silent" not in check.value
    assert "database" in str(check.hint)


def test_one_that_needs_another_schema_says_which_and_not_that_the_database_is_away(
    database_url: str, redis_url: str
) -> None:
    beat_all(redis_url)
    why = "the database is at revision 0004, and this caselog needs 0014: run caselog migrate"
    write_beat(redis_url, "tasks", doing=Doing.NO_DATABASE, why=why, proof_age_s=40, age_s=1)
    with health_of(database_url, redis_url, redis_url) as health:
        value = health.check()["tasks"].value
    assert f"is waiting ({why}), without work for 4" in value
    assert "waiting for the database" not in value


@pytest.mark.parametrize(
    ("doing", "age_s", "well"),
    [(Doing.PAUSED, 1, True), (Doing.PAUSED, 40, False), (Doing.TRIPPED, 1, False)],
)
def test_a_persons_pause_is_green_the_breakers_is_red_and_both_are_told(
    database_url: str, redis_url: str, *, doing: Doing, age_s: float, well: bool
) -> None:
    """However long ago the last work was; and a paused recorder that hangs is red as any other."""
    beat_all(redis_url)
    with client_of(redis_url) as client:
        client.delete(*client.scan_iter(f"{PREFIX}recorder*"))
    write_beat(redis_url, "recorder", doing=doing, proof_age_s=9000, age_s=age_s, why="paused by anna: a move")
    with health_of(database_url, redis_url, redis_url) as health:
        assert red(health) == (set() if well else {"recorder"})
        check = health.check()["recorder"]
    if age_s < 30:
        assert "paused by anna: a move" in check.value
        assert "caselog resume" in str(check.hint)
    else:
        assert "silent" in check.value


def test_the_thresholds_are_settings(database_url: str, redis_url: str) -> None:
    beat_all(redis_url)
    write_beat(redis_url, "tasks", age_s=50)
    for limit_s, expected in ((120, set()), (40, {"tasks"})):
        with health_of(
            database_url, redis_url, redis_url, Settings(health_heartbeat_s=limit_s, accept_loss=True)
        ) as health:
            assert red(health) == expected
            assert f"{limit_s} s" in str(health.check()["tasks"].threshold)


def test_each_check_says_since_when_it_is_as_it_is_also_after_a_restart(database_url: str, redis_url: str) -> None:
    """The moment moves where the status changes, and only of the checks that changed."""
    beat_all(redis_url)
    write_since(redis_url, recorder="green 2026-01-01T00:00:00Z", tasks="red 2026-01-02T00:00:00Z")
    with health_of(database_url, redis_url, redis_url) as health:
        found = health.check()
    assert found["recorder"].since == "2026-01-01T00:00:00Z"
    assert found["tasks"].since not in {None, "2026-01-02T00:00:00Z"}  # it was red, and is green now
    with health_of(database_url, redis_url, redis_url) as another:
        assert {name: check.since for name, check in another.check().items()} == {
            name: check.since for name, check in found.items()
        }
        with client_of(redis_url) as client:
            client.delete(*client.scan_iter(f"{PREFIX}recorder*"))
        later = another.check()
    assert later["recorder"].since != "2026-01-01T00:00:00Z"
    assert later["tasks"].since == found["tasks"].since


def test_since_when_is_known_without_redis_as_far_as_this_process_saw_it(
    database_url: str, amqp_url: str, nobody: int
) -> None:
    with health_of(database_url, amqp_url, f"redis://127.0.0.1:{nobody}/0") as health:
        first = health.check()
        assert all(check.since for check in first.values())
        assert {name: check.since for name, check in health.check().items()} == {
            name: check.since for name, check in first.items()
        }


def test_on_rabbitmq_the_queue_is_judged_by_what_a_recorder_holds(
    database_url: str, amqp_url: str, redis_url: str
) -> None:
    """A recorder that hangs holds the oldest messages: the ready ones say nothing of them."""
    beat_all(redis_url)
    with connect(amqp_url) as connection, connection.channel() as channel:
        EVENTS_QUEUE(channel).declare()
        with consume(channel, EVENTS_QUEUE, lambda _: None, prefetch_messages=1):
            write_beat(redis_url, "recorder", unacked=3, held_age_s=70)
            with health_of(database_url, amqp_url, redis_url) as health:
                assert red(health) == {"queue"}


@pytest.mark.parametrize(("age_s", "expected"), [(20, set()), (70, {"queue"})])
def test_the_queue_is_red_when_its_oldest_event_is_older_than_the_setting(
    database_url: str, broker_url: str, redis_url: str, age_s: int, expected: set[str]
) -> None:
    sent_s = int(time()) - age_s
    if broker_url.startswith("amqp"):
        with connect(broker_url) as connection, connection.channel() as channel:
            EVENTS_QUEUE(channel).declare()
            publish(
                channel,
                b"{}",
                exchange=EVENTS_EXCHANGE.name,
                routing_key="event.x",
                content_type="application/cloudevents+json",
                timestamp=sent_s,
            )
    else:
        with client_of(broker_url) as client:
            client.xadd(EVENTS_QUEUE.name, {"event": "{}"}, id=f"{sent_s * 1000}-0")
    beat_all(redis_url)
    with health_of(database_url, broker_url, redis_url) as health:
        assert red(health) == expected


@pytest.mark.parametrize(("age_s", "expected"), [(20, set()), (40, {"aggregates"})])
def test_aggregates_are_red_when_the_oldest_delta_is_older_than_the_setting(
    database_url: str, redis_url: str, age_s: int, expected: set[str]
) -> None:
    beat_all(redis_url)
    with health_of(database_url, redis_url, redis_url) as health:
        execute(
            database_url,
            "insert into report_outbox (deltas, sums, case_references, created_at) "
            f"values (1, '[]', '{{}}', now() - interval '{age_s} seconds'), (1, '[]', '{{}}', now())",
        )
        assert red(health) == expected


@pytest.mark.parametrize(
    ("age_s", "threshold_s", "expected"),
    [(3500, 3600, {"dead_letters"}), (3700, 3600, set()), (10, 60, {"dead_letters"}), (10, 0, set())],
)
def test_a_dead_letter_newer_than_the_setting_is_red_and_0_means_never(
    database_url: str, redis_url: str, age_s: int, threshold_s: int, expected: set[str]
) -> None:
    beat_all(redis_url)
    execute(
        database_url,
        "insert into dead_letter (reason, message, attempts, raw, fingerprint, received_at) "
        f"values ('malformed', '', 1, 'a', 'a', now() - interval '{age_s} seconds'),"
        "('malformed', '', 1, 'b', 'b', now() - interval '9 days')",
    )
    settings = Settings(health_dead_letter_s=threshold_s, accept_loss=True)
    with health_of(database_url, redis_url, redis_url, settings) as health:
        assert red(health) == expected


def test_the_disk_is_red_at_or_below_the_threshold() -> None:
    """No disk is filled for this: the threshold is moved instead, to where every disk is too full."""
    assert check_disk(SETTINGS).status
    check = check_disk(Settings(health_disk_free_percent=99.999))
    assert not check.status
    assert "% free" in check.value
    assert check.hint


def test_no_text_of_any_check_holds_a_password(nobody: int) -> None:
    with health_of(
        f"postgresql://me:s3cr3t@127.0.0.1:{nobody}/caselog",
        f"amqp://me:s3cr3t@127.0.0.1:{nobody}/",
        f"redis://:s3cr3t@127.0.0.1:{nobody}/0",
    ) as health:
        assert b"s3cr3t" not in checks_json(health.check())
    assert "s3cr3t" not in _in_a_line(ValueError("cannot use redis://:s3cr3t@host/0\nredis://:s3cr3t@host"))


def test_the_json_names_each_check_with_its_status(database_url: str, redis_url: str) -> None:
    with health_of(database_url, redis_url, redis_url) as health:
        found = msgspec.json.decode(checks_json(health.check()))
    assert set(found) == {"*", *NAMES}
    assert found["*"]["status"] is False
    assert found["database"]["status"] is True
    assert found["recorder"]["status"] is False
    assert "caselog worker recorder" in found["recorder"]["hint"]


def execute(database_url: str, statement: str) -> None:
    engine = make_engine(database_url)
    with engine.begin() as db:
        db.execute(text(statement))
    engine.dispose()


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_to_ask_again_and_again_adds_nothing_to_the_memory_of_who_asks(database_url: str, redis_url: str) -> None:
    """A probe asks every few seconds, for months. No object may stay behind, in no cache of a library's either."""
    with health_of(database_url, redis_url, redis_url) as health:
        for _ in range(5):
            health.check()
        before = _objects()
        for _ in range(20):
            health.check()
        # A thread that is about to end holds a few for as long.
        eventually(lambda: _objects() - before < 100, "nothing stays behind")
