"""The tasks worker as a process: the reports are added up, parked events tried again, whatever is lost or killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from brokers.broker_under_test import RedisServer
from redis import Redis
from sqlalchemy import Engine
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, body, count, dead_letters, what_stands
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.reports import outbox
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.tasks.actors import declare_tasks
from caselog.workers.tasks.aggregator import Aggregator
from caselog.workers.tasks.exporter import Exporter
from caselog.workers.tasks.wakeup import AGGREGATE, QUEUE, WakeUp, make_broker
from caselog.workers.telemetry.counters import Tally
from caselog.workers.telemetry.heartbeat import Heartbeat

RULES = Rules(zone=ZoneInfo("Europe/London"))
ROW = ("outcomes", "2026-03-02", "accept_case", "SPOP", None, None, None, "PHONE", None, 1, 0, 0)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def post(engine: Engine, deltas: int) -> None:
    """Put deltas into the outbox as the recorder does, without telling anybody."""
    with engine.begin() as db:
        for _ in range(deltas):
            outbox.post(db, [ROW], [])


def counted(database_url: str) -> int:
    with psycopg.connect(database_url) as db:
        row = db.execute("select coalesce(sum(n1), 0)::int from report_sum where report = 'outcomes'").fetchone()
        assert row is not None
        total: int = row[0]
        return total


def grouped(database_url: str) -> Counter[tuple[Any, ...]]:
    """The report as a fresh GROUP BY over the log (docs/design.md "Reports")."""
    with psycopg.connect(database_url) as db:
        found = db.execute(
            """
            select (occurred_at at time zone 'Europe/London')::date, key, code, category, provider, organisation,
                   case_source, count(*)
            from log where type = 'outcome' and not suppressed group by 1, 2, 3, 4, 5, 6, 7
            """
        ).fetchall()
    return Counter({row[:-1]: row[-1] for row in found})


def test_deltas_are_added_up_within_a_second_or_so_though_every_wakeup_is_lost(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    redis_pipeline.start("tasks")
    post(engine, 1)
    eventually(lambda: counted(database_url) == 1, "the tasks worker has begun")
    for total in (2, 3):
        post(engine, 1)
        eventually(lambda total=total: counted(database_url) == total, "the delta is counted", within_s=DEADLINE_S)  # type: ignore[misc]
    assert count(database_url, "report_outbox") == 0


def test_new_cases_are_merged_into_the_index_of_parts_within_a_second_or_so(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    """A search reads whatever is not: else up to 4 MB of it, for which no recorder is to stop."""
    with psycopg.connect(database_url) as db:
        db.execute("create extension pgstattuple")
    waiting = "select pending_tuples from pgstatginindex('case_search_part_idx')"
    autodiscover()
    recording = Recording(engine, event_registry, RULES)
    redis_pipeline.start("tasks")
    assert recording.record([decode(body(created("AB-0")))]).recorded == 1
    eventually(lambda: redis_pipeline.one(waiting) == 0, "the tasks worker has begun")
    assert recording.record([decode(body(created("AB-1")))]).recorded == 1
    eventually(lambda: redis_pipeline.one(waiting) == 0, "the case is merged", within_s=DEADLINE_S)


class _Watched(Aggregator):
    """Notes how many deltas each block took, and how many blocks were under way at once."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, event_registry, RULES)
        self.blocks: list[int] = []
        self.under_way = self.most_under_way = 0

    def add_up(self) -> int:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.blocks.append(super().add_up())
        self.under_way -= 1
        return self.blocks[-1]


def test_what_comes_in_quick_succession_is_added_up_together_by_one_at_a_time(
    redis_url: str, engine: Engine, database_url: str
) -> None:
    """A hundred batches in two seconds are some ten blocks, however often the task is asked to run meanwhile."""
    client = Redis.from_url(redis_py_url(redis_url))
    broker, aggregator = make_broker(client), _Watched(engine)
    recording = Recording(engine, event_registry, RULES)
    exporter = Exporter(engine, exports="/", retention_days=1)
    declare_tasks(
        broker, engine, recording, Heartbeat(client, "tasks"), Tally(), aggregator=aggregator, exporter=exporter
    )
    task = broker.get_actor(AGGREGATE).fn
    with ThreadPoolExecutor(3) as pool:
        runs = []
        for _ in range(100):
            post(engine, 1)
            runs.append(pool.submit(task))
            time.sleep(0.02)
        for run in runs:
            run.result()
    task()
    assert counted(database_url) == sum(aggregator.blocks) == 100
    assert aggregator.most_under_way == 1
    assert sum(block > 0 for block in aggregator.blocks) < 50


def test_a_database_that_is_slow_for_a_while_does_not_leave_more_sessions_behind(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    """What is scheduled meanwhile waits in the worker: one session each tries parked events, adds up and merges."""
    redis_pipeline.start("tasks")
    post(engine, 1)
    eventually(lambda: counted(database_url) == 1, "the tasks worker has begun")
    sessions = """
        select application_name, count(*) from pg_stat_activity
        where datname = current_database() and application_name in ('caselog recorder', 'caselog tasks') group by 1
    """
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as watcher:
        holder.execute("lock table parked, report_outbox")
        blocked = "select count(*) from pg_locks where not granted and database = (select oid from pg_database where "
        blocked += "datname = current_database())"
        eventually(lambda: (watcher.execute(blocked).fetchone() or (0,))[0] == 2, "both wait for the tables")
        time.sleep(3.5)
        found: dict[str, int] = dict(watcher.execute(sessions).fetchall())
        assert found["caselog recorder"] == 1
        # The third is whatever else was due at the same time, as what Redis is told every ten seconds.
        assert found["caselog tasks"] in (2, 3)
    post(engine, 1)
    eventually(lambda: counted(database_url) == 2, "it goes on")


def test_a_wakeup_runs_the_aggregator_and_many_at_once_are_one_message(
    redis_pipeline: Pipeline, redis_url: str
) -> None:
    """No tasks worker runs: the queue shows what was asked for."""
    assert redis_pipeline.queue_is_empty()
    with Redis.from_url(redis_py_url(redis_url)) as client:
        wake_up = WakeUp(client)
        for _ in range(100):
            wake_up(AGGREGATE)
        assert client.llen(f"caselog:{QUEUE}") == 1


@pytest.mark.slow
def test_killed_in_the_middle_the_report_still_equals_a_count_of_the_log(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    events = list(simulate(300, 7))
    autodiscover()
    recording = Recording(engine, event_registry, RULES)
    tasks = redis_pipeline.start("tasks")
    for position in range(0, len(events), 10):
        recording.record([decode(body(*events[position : position + 10]))])
        if position in (1000, 2000):
            eventually(lambda: counted(database_url) > 0, "the tasks worker works")
            tasks.kill()
            tasks = redis_pipeline.start("tasks")
    eventually(lambda: count(database_url, "report_outbox") == 0, "the outbox is drained")
    expected = grouped(database_url)
    assert sum(expected.values()) > 500
    assert what_stands(database_url).outcomes == expected
    assert_same(what_stands(database_url), fold_all(events))
    assert tasks.stop() == 0


def test_events_before_their_case_are_recorded_soon_after_it_is_created(pipeline: Pipeline) -> None:
    """Minutes of event time before the creation, and after it; and it is as if they had come in order."""
    early = event("case", "CASE_VIEWED", "AB-1", "2026-03-02T09:50:00Z")
    late = event("accept_case", "SPOP", "AB-1", "2026-03-02T10:10:00Z")
    creation = created("AB-1", "2026-03-02T10:00:00Z")
    pipeline.start("tasks")
    pipeline.start("recorder")
    pipeline.publish([early, late])
    eventually(lambda: count(pipeline.database_url, "parked") == 2, "both are parked")
    pipeline.publish([creation])
    eventually(lambda: pipeline.logs() == 3, "all three are recorded")
    eventually(lambda: count(pipeline.database_url, "parked") == 0, "nothing is parked")
    eventually(lambda: count(pipeline.database_url, "report_outbox") == 0, "the outbox is drained")
    assert_same(what_stands(pipeline.database_url), fold_all([early, late, creation]))


def test_an_event_parked_for_long_is_recorded_within_seconds_of_its_case(redis_pipeline: Pipeline) -> None:
    """Its next trial by the growing delay would be far off: the creation makes it due."""
    redis_pipeline.start("tasks")
    redis_pipeline.start("recorder")
    redis_pipeline.publish([event("accept_case", "SPOP", "AB-1")])
    attempts = "select coalesce(max(attempts), 0) from parked"
    eventually(lambda: redis_pipeline.one(attempts) >= 3, "it was tried again")
    with psycopg.connect(redis_pipeline.database_url) as db:
        db.execute("update parked set due_at = now() + interval '1 hour'")
    redis_pipeline.publish([created("AB-1")])
    eventually(lambda: redis_pipeline.logs() == 2, "both are recorded", within_s=DEADLINE_S)


def test_an_event_whose_case_never_comes_is_given_up_as_unknown_case(redis_pipeline: Pipeline) -> None:
    redis_pipeline.settings["CASELOG_PARKED_GIVE_UP_S"] = "1"
    redis_pipeline.start("tasks")
    redis_pipeline.start("recorder")
    lost = event("accept_case", "SPOP", "AB-404")
    redis_pipeline.publish([lost])
    eventually(lambda: count(redis_pipeline.database_url, "dead_letter") == 1, "it is a dead letter")
    letter = dead_letters(redis_pipeline.database_url)[0]
    assert (letter["reason"], letter["case_reference"], letter["key"]) == ("unknown_case", "AB-404", "accept_case")
    assert letter["attempts"] >= 2
    assert "caselog dead requeue" in letter["message"]
    assert "AB-404" not in letter["message"]
    assert count(redis_pipeline.database_url, "parked") == 0


def test_it_outlives_a_redis_and_a_database_that_are_away(
    tmp_path: Path, database_url: str, engine: Engine, redis_url: str
) -> None:
    server = RedisServer(tmp_path)
    pipeline = Pipeline(tmp_path, database_url, redis_url, server.url)
    try:
        tasks = pipeline.start("tasks")
        server.start()
        post(engine, 1)
        eventually(lambda: counted(database_url) == 1, "it works")
        server.stop()
        post(engine, 1)
        server.start()
        eventually(lambda: counted(database_url) == 2, "it works again after Redis was away")
        engine.dispose()
        with pipeline.database_away():
            away_until_s = time.monotonic() + 2.5
            eventually(lambda: time.monotonic() > away_until_s, "it has met the missing database")
        post(engine, 1)
        eventually(lambda: counted(database_url) == 3, "it works again after the database was away")
        assert tasks.is_running()
        assert tasks.stop() == 0
        assert "Traceback" not in tasks.said()  # that a server is away is one line a task
        assert "a task waits for the database" in tasks.said()
    finally:
        pipeline.close()
        server.stop()


def test_sigterm_stops_an_idle_one_at_once(redis_pipeline: Pipeline, engine: Engine, database_url: str) -> None:
    tasks = redis_pipeline.start("tasks")
    post(engine, 1)
    eventually(lambda: counted(database_url) == 1, "it works")
    assert tasks.stop(within_s=5) == 0
    assert "Traceback" not in tasks.said()
