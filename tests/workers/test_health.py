"""Each check of /healthcheck.json against real servers: what turns it red, and that nothing else does (RULES.md §8)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time

import msgspec
import pytest
import redis
from sqlalchemy import text

from events.broker import EVENTS_EXCHANGE, EVENTS_QUEUE, connect, publish
from schema.connection import make_engine
from workers import health as health_module
from workers.health import Health, _in_a_line, check_disk, check_health
from workers.heartbeat import KEPT_S, PREFIX, Beat, Heartbeat
from workers.pages import checks_json
from workers.services import redis_py_url
from workers.settings import Settings

NAMES = ("database", "broker", "redis", "disk", "recorder", "tasks", "queue", "aggregates", "dead_letters")
SETTINGS = Settings()


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
        value = msgspec.json.encode(Beat(role=role, worker=role, pid=1, host="h"))
        client.set(PREFIX + role, value, px=int((KEPT_S - age_s) * 1000))


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
        ("database", {"database", "aggregates", "dead_letters"}),
        ("broker", {"broker", "queue"}),
        ("redis", {"redis", "recorder", "tasks"}),
    ],
)
def test_a_server_that_is_away_turns_its_own_checks_red_and_no_others(
    database_url: str, broker_url: str, redis_url: str, nobody: int, *, away: str, expected: set[str]
) -> None:
    beat_all(redis_url)
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
            running = [thread.name for thread in threading.enumerate() if thread.name.startswith("check ")]
            assert len(running) == len(set(running))
        # Three rounds of 3 seconds at most; twice that, because machines are busy.
        assert monotonic() - began < 3 * 2 * health_module.WITHIN_S


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


def test_one_worker_that_works_is_enough(database_url: str, redis_url: str) -> None:
    """An old process that hangs, beside a new one that works, is for the log to tell, not for health."""
    beat_all(redis_url)
    beat(redis_url, "recorder", age_s=200)
    with health_of(database_url, redis_url, redis_url) as health:
        assert red(health) == set()


@pytest.mark.parametrize(("age_s", "expected"), [(50, set()), (70, {"queue"})])
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
            "insert into report_outbox (report, dimensions, measures, created_at) "
            f"values ('outcomes', '[]', '{{}}', now() - interval '{age_s} seconds'), ('outcomes', '[]', '{{}}', now())",
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
    settings = Settings(health_dead_letter_s=threshold_s)
    with health_of(database_url, redis_url, redis_url, settings) as health:
        assert red(health) == expected


def test_the_disk_is_red_at_or_below_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk is filled for this: the threshold is moved instead, to where every disk is too full."""
    assert check_disk(SETTINGS).status
    monkeypatch.setattr(health_module, "DISK_FREE_PERCENT", 100.0)
    check = check_disk(SETTINGS)
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
