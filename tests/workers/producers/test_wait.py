"""`caselog wait` returns when all that was published is recorded and aggregated, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from redis import Redis
from sqlalchemy.exc import OperationalError
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, count, what_stands
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually
from support.servers.virtual_host import VirtualHost

from caselog.schema.recording import parking
from caselog.workers.producers import wait
from caselog.workers.producers.simulation import simulate
from caselog.workers.servers.locate import Services, redis_py_url


def test_when_it_returns_log_and_report_are_complete(pipeline: Pipeline) -> None:
    """Nothing is waited for but the command: what it promises is compared at once, several times over."""
    pipeline.start("tasks")
    pipeline.start("recorder", CASELOG_BATCH_EVENTS="200")
    events = list(simulate(300, 7))
    assert len(events) > 3000
    for done in range(0, len(events), 1100):
        pipeline.publish(events[done : done + 1100], batch_events=20)
        waited = pipeline.run("wait", "--timeout", "150")
        assert (waited.returncode, waited.stdout, waited.stderr) == (0, b"", b"")
        assert_same(what_stands(pipeline.database_url), fold_all(events[: done + 1100]))


@pytest.mark.slow
def test_with_several_recorders_it_waits_for_what_each_of_them_holds(pipeline: Pipeline) -> None:
    pipeline.start("tasks")
    pipeline.start("recorder", "--processes", "2", CASELOG_BATCH_EVENTS="100")
    events = list(simulate(200, 7))
    eventually(lambda: pipeline.queue().consumers == 2, "both recorders consume")
    pipeline.publish(events, batch_events=20)
    assert pipeline.run("wait", "--timeout", "150").returncode == 0
    assert_same(what_stands(pipeline.database_url), fold_all(events))


def test_without_a_recorder_it_ends_in_time_with_one_line_that_says_so(pipeline: Pipeline) -> None:
    pipeline.publish([created("AB-1")])
    waited = pipeline.run("wait", "--timeout", "0.5")
    assert (waited.returncode, waited.stdout) == (1, b"")
    assert waited.stderr.startswith(b"caselog: not everything is recorded in time: 1 message is ready")
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
    waited = pipeline.run("wait", "--timeout", "150")
    assert (waited.returncode, waited.stdout) == (0, b"")
    assert waited.stderr == b"1 parked event waits for a case that does not exist yet\n"
    assert count(pipeline.database_url, "parked") == 1


def test_what_is_set_aside_is_not_waited_for(pipeline: Pipeline) -> None:
    pipeline.start("recorder")
    pipeline.send(b"no event at all")
    assert pipeline.run("wait", "--timeout", "150").returncode == 0
    assert count(pipeline.database_url, "dead_letter") == 1


@pytest.fixture
def on_rabbitmq(tmp_path: Path, database_url: str, amqp_url: str, redis_url: str) -> Iterator[Pipeline]:
    one = Pipeline(tmp_path, database_url, amqp_url, redis_url)
    yield one
    one.close()


@pytest.mark.parametrize("lost", ["queue_status", "count_parked"])
def test_a_server_that_is_lost_meanwhile_and_comes_back_is_asked_again(
    on_rabbitmq: Pipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The broker closes the connection, or PostgreSQL ends the session, right before it is asked."""
    one = on_rabbitmq
    where: Any = wait if lost == "queue_status" else parking
    ask = getattr(where, lost)
    cuts: list[bool] = []

    def cut_first(*arguments: Any, **more: Any) -> Any:
        if not cuts:
            cuts.append(True)
            if lost == "queue_status":
                virtual_host = urlsplit(one.broker_url).path.strip("/")
                assert VirtualHost.control("close_all_connections", "--vhost", virtual_host, "to see") == 0
            else:
                end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'caselog wait'"
                with psycopg.connect(one.database_url) as db:
                    db.execute(end)
        return ask(*arguments, **more)

    monkeypatch.setattr(where, lost, cut_first)
    one.start("recorder")
    one.start("tasks")
    one.publish([created("AB-1")])
    with Redis.from_url(redis_py_url(redis_url)) as client:
        services = Services(one.database_url, one.broker_url, redis_url)
        assert wait.wait_until_recorded(services, client, timeout_s=DEADLINE_S) == 0
    assert cuts
    assert count(one.database_url, "log") == 1


@pytest.mark.parametrize("published", [True, False])
def test_a_queue_that_nobody_ever_declared_has_nothing_to_wait_for(
    redis_pipeline: Pipeline, *, published: bool
) -> None:
    if published:
        redis_pipeline.publish([])
    assert redis_pipeline.run("wait", "--timeout", "1").returncode == 0


def test_a_lock_that_somebody_holds_does_not_keep_it_for_ever(
    redis_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends, and says so; whether all is recorded nobody can tell then."""
    monkeypatch.setattr(wait, "ANSWER_S", 3.0)
    services = Services(redis_pipeline.database_url, redis_pipeline.broker_url, redis_pipeline.broker_url)
    with (
        psycopg.connect(redis_pipeline.database_url) as other,
        Redis.from_url(redis_py_url(services.redis_url)) as client,
    ):
        other.execute("lock table parked in access exclusive mode")
        with pytest.raises(OperationalError, match="statement timeout"):
            wait.wait_until_recorded(services, client, timeout_s=60)
