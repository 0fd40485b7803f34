"""Upgrades: migrating while recorders record, and recorders on a schema that is older or newer than they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from redis import Redis
from support.oracle.proof import assert_verified
from support.processes.patience import DEADLINE_S, allowance_s
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events.errors import CaselogError
from caselog.events.model.registry import autodiscover
from caselog.schema.migrations import upgrade as migrate_module
from caselog.schema.migrations.upgrade import IN_USE, LOCK_WAIT_MS, configuration, head_revision, migrate
from caselog.schema.recording.store import GATE
from caselog.schema.sessions.connection import make_engine
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.telemetry.heartbeat import read_beats

REVISIONS = sorted(step.revision for step in ScriptDirectory.from_config(configuration()).walk_revisions())
# Locks are waited for so long at most, and then recorders have their turn; the rest is this machine's.
STANDSTILL_S = LOCK_WAIT_MS / 1000 + 18


def bring_to(database_url: str, revision: str) -> None:
    """The schema of an earlier version, or of a later one again."""
    engine = make_engine(database_url)
    try:
        with engine.begin() as db:
            config = configuration()
            config.attributes["connection"] = db
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def take_back(database_url: str, revision: str) -> None:
    engine = make_engine(database_url)
    try:
        with engine.begin() as db:
            config = configuration()
            config.attributes["connection"] = db
            command.downgrade(config, revision)
    finally:
        engine.dispose()


def execute(database_url: str, statement: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(statement.encode())


@pytest.fixture
def unmigrated(tmp_path: Path, empty_database_url: str, redis_url: str) -> Iterator[Pipeline]:
    """A pipeline on a database without any table; what is recorded in it must be what its log says in the end."""
    pipeline = Pipeline(tmp_path, empty_database_url, redis_url, redis_url)
    yield pipeline
    pipeline.close()
    autodiscover()
    assert_verified(empty_database_url)


class Load:
    """Events that come all the while, each in a message of its own, and how long the log stood still at most."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._ending = threading.Event()
        self._publishing = threading.Thread(target=self._publish)
        self.published = 0

    def __enter__(self) -> Self:
        self._publishing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._publishing.join()

    def _publish(self) -> None:
        while not self._ending.wait(0.02):
            case = f"AB-{self.published}"
            self._pipeline.publish([created(case), event("means_test", "MT_CREATED", case)], batch_events=1)
            self.published += 2

    def goes_on(self, within_s: float) -> None:
        """More is recorded than was until now."""
        there = self._pipeline.logs()
        eventually(lambda: self._pipeline.logs() > there, "recording goes on", within_s)


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_new_recorder_waits_for_the_migration_and_loses_nothing(unmigrated: Pipeline, revision: str) -> None:
    """Whichever version the database is of: what the recorder cannot record yet it records when it is migrated."""
    bring_to(unmigrated.database_url, revision)
    recorder = unmigrated.start("recorder")
    events = [created("AB-1"), event("means_test", "MT_CREATED", "AB-1"), event("accept_case", "NO-SUCH", "AB-1")]
    unmigrated.publish(events)
    if revision < "0005":  # before, it could not write what it feeds the reports with
        line = f"the database is at revision {revision}, and this caselog needs {head_revision()}: run caselog migrate"
        eventually(lambda: line in recorder.said(), "it says what to do")
        assert unmigrated.one("select count(*) from log") == 0
        assert unmigrated.one("select count(*) from dead_letter") == 0
    assert migrate(unmigrated.database_url) == (revision, head_revision())
    unmigrated.recorded(2)
    assert unmigrated.one("select count(*) from dead_letter") == 1
    assert recorder.is_running()
    unmigrated.drain_reports()


def test_tasks_on_an_older_schema_say_once_which_one_they_need(unmigrated: Pipeline) -> None:
    """It is not called a database that is away."""
    bring_to(unmigrated.database_url, "0004")
    tasks = unmigrated.start("tasks")
    line = f"the database is at revision 0004, and this caselog needs {head_revision()}: run caselog migrate"
    eventually(lambda: line in tasks.said(), "it says what to do")
    client = Redis.from_url(redis_py_url(unmigrated.broker_url))
    eventually(lambda: any(beat.why == line for beat in read_beats(client)), "its heartbeat says so")
    client.close()
    assert "waits for the database" not in tasks.said()
    migrate(unmigrated.database_url)
    eventually(lambda: "the tasks have the schema that they need" in tasks.said(), "it goes on")
    assert tasks.said().count(line) == 1
    assert tasks.stop() == 0


def test_recorders_record_while_the_database_is_migrated(redis_pipeline: Pipeline) -> None:
    """From the version before this one, as a deploy does it: two recorders stand still for seconds at most."""
    take_back(redis_pipeline.database_url, REVISIONS[-2])
    for _ in range(2):
        redis_pipeline.start("recorder")
    with Load(redis_pipeline) as load:
        load.goes_on(DEADLINE_S)
        migrate(redis_pipeline.database_url)
        load.goes_on(allowance_s(STANDSTILL_S))
    # Where one recorder takes an event while the other still creates its case, the event is parked: tasks releases it.
    redis_pipeline.start("tasks")
    redis_pipeline.recorded(load.published)
    assert redis_pipeline.one("select count(*) from dead_letter") == 0


def test_who_reads_for_long_holds_up_the_migration_and_not_the_recorders(
    redis_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that wants a table which an export reads lets recorders go on between its attempts."""
    monkeypatch.setattr(migrate_module, "PAUSE_S", 1.0)
    take_back(redis_pipeline.database_url, "0004")
    told: list[str] = []
    with psycopg.connect(redis_pipeline.database_url, application_name="an export") as reader:
        reader.execute("select * from log")
        migrating = threading.Thread(target=migrate, args=(redis_pipeline.database_url, told.append))
        migrating.start()
        eventually(lambda: len(told) >= 2, "it was tried twice")
        assert "'an export'" in told[-1]
        # Between the attempts nobody waits for anything.
        execute(redis_pipeline.database_url, "set lock_timeout = '5s'; lock table log in row exclusive mode")
        assert migrating.is_alive()
    migrating.join(DEADLINE_S)
    assert redis_pipeline.one("select version_num from alembic_version") == head_revision()


def test_a_migration_that_gets_no_turn_gives_up_and_changes_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "PAUSE_S", 0.1)
    monkeypatch.setattr(migrate_module, "GIVE_UP_S", 1.0)
    take_back(database_url, "0004")
    with psycopg.connect(database_url, application_name="an export") as reader:
        reader.execute("select * from log")
        with pytest.raises(CaselogError, match=r"'an export'.*nothing was changed"):
            migrate(database_url)
    with psycopg.connect(database_url) as db:
        assert db.execute("select version_num from alembic_version").fetchone() == ("0004",)
    assert migrate(database_url) == ("0004", head_revision())


def test_a_migration_waits_until_the_batch_in_hand_is_committed(database_url: str) -> None:
    """A batch holds the gate from its first statement on: no schema changes under it, and neither waits in a circle."""
    take_back(database_url, REVISIONS[-2])
    with psycopg.connect(database_url) as batch:
        batch.execute("select pg_advisory_xact_lock_shared(%s)", [GATE])
        migrating = threading.Thread(target=migrate, args=(database_url,))
        migrating.start()
        with psycopg.connect(database_url) as db:
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            eventually(lambda: db.execute(waiting).fetchone() == (1,), "the migration waits at the gate")
        batch.commit()
    migrating.join(DEADLINE_S)
    assert migrate(database_url) == (head_revision(), head_revision())


def test_an_old_recorder_gives_back_what_it_cannot_record_on_a_newer_schema(redis_pipeline: Pipeline) -> None:
    """A newer version took away what it writes. It says so, holds nothing, and loses nothing."""
    old = redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    execute(redis_pipeline.database_url, "alter table log rename suppressed to is_suppressed")
    execute(redis_pipeline.database_url, "update alembic_version set version_num = '9999'")
    redis_pipeline.publish([event("means_test", "MT_CREATED", "AB-1"), event("no_such_key", "X", "AB-1")])
    line = "the database is at revision 9999, to which a newer caselog migrated it"
    eventually(lambda: line in old.said() and "deploy the newer one" in old.said(), "it says what to do")
    eventually(lambda: redis_pipeline.queue().unacked == 0, "it holds nothing")
    assert old.is_running()
    assert redis_pipeline.one("select count(*) from log") == 1
    assert redis_pipeline.one("select count(*) from dead_letter") == 0
    execute(redis_pipeline.database_url, "alter table log rename is_suppressed to suppressed")
    redis_pipeline.recorded(2)
    assert redis_pipeline.one("select count(*) from dead_letter") == 1


def test_what_a_migration_waits_for_is_told_by_its_state() -> None:
    """A lock timeout and a deadlock, by PostgreSQL's own names for them."""
    assert {psycopg.errors.LockNotAvailable.sqlstate, psycopg.errors.DeadlockDetected.sqlstate} == set(IN_USE)
