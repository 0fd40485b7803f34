"""The pipeline through a PgBouncer in transaction mode, beside other clients that leave things in its sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
import pytest
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, what_stands
from support.processes.pipeline import Pipeline, created, eventually
from support.servers.pgbouncer import PgBouncer
from support.servers.read_only import lending_read_only_sessions

from caselog.workers.producers.simulation import simulate

# A row of each: what others say for a session of their own, and leave in whichever they had.
LITTER: Final = (
    "set search_path = pg_catalog",
    "set timezone = 'Asia/Tokyo'",
    "set statement_timeout = 100",
    "set default_transaction_isolation = 'serializable'",
    "set default_transaction_read_only = on",
    "set enable_indexscan = off",
)


@pytest.fixture
def pooled(
    tmp_path: Path, database_url: str, redis_url: str, make_pooler: Callable[..., PgBouncer]
) -> Iterator[Pipeline]:
    """Workers behind the pooler, of fewer sessions than they would hold; what needs a session has it past that."""
    pooler = make_pooler(sessions=3)
    behind = {"CASELOG_DATABASE_URL": pooler.url, "CASELOG_DATABASE_DIRECT_URL": database_url}
    one = Pipeline(tmp_path, database_url, redis_url, redis_url, **behind)
    yield one
    one.close()


@contextmanager
def littering(url: str) -> Iterator[None]:
    """Within, somebody else uses the same pool, as if each session were his."""
    stopping = threading.Event()

    def litter() -> None:
        number = 0
        while not stopping.is_set():
            # What he left himself, a limit of a millisecond, may befall him on a busy machine.
            with (
                suppress(psycopg.errors.QueryCanceled),
                psycopg.connect(url, autocommit=True, prepare_threshold=None) as other,
            ):
                other.execute(LITTER[number % len(LITTER)].encode())
                number += 1
                stopping.wait(0.05)

    thread = threading.Thread(target=litter)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def said(one: Pipeline) -> str:
    return "".join(path.read_text() for path in one.directory.glob("*.log"))


def test_several_workers_under_load_record_everything_and_leave_nothing_in_a_session(pooled: Pipeline) -> None:
    url = pooled.settings["CASELOG_DATABASE_URL"]
    events = list(simulate(150, 7))
    with littering(url):
        pooled.start("recorder", "--processes", "3", CASELOG_BATCH_EVENTS="50")
        pooled.start("tasks")
        pooled.publish(events, batch_events=10)
        waited = pooled.run("wait", "--timeout", "150")
    assert (waited.returncode, waited.stderr) == (0, b"")
    assert_same(what_stands(pooled.database_url), fold_all(events))
    assert "prepared statement" not in said(pooled)
    assert '"pooled": true' in said(pooled)
    verified = pooled.run("verify")
    assert (verified.returncode, verified.stdout) == (0, b""), verified.stderr
    rebuilt = pooled.run("rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    held = "select count(*) from pg_locks where locktype = 'advisory' and database = "
    mine = "(select oid from pg_database where datname = current_database())"
    eventually(lambda: pooled.one(held + mine) == 0, "no advisory lock is left behind")
    assert pooled.one("select count(*) from pg_prepared_statements") == 0


@pytest.mark.parametrize("command", [("verify",), ("rebuild",), ("migrate",), ("relay", "--once")])
def test_what_needs_a_session_refuses_a_pooler_in_one_line(pooled: Pipeline, command: tuple[str, ...]) -> None:
    refused = pooled.run(*command, CASELOG_DATABASE_DIRECT_URL="")
    assert (refused.returncode, refused.stdout) == (1, b"")
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"caselog: caselog {command[0]} needs a session of its own".encode())
    assert b"CASELOG_DATABASE_DIRECT_URL" in line


def test_a_database_that_was_read_only_for_a_while_is_recorded_in_again_though_the_pooler_keeps_sessions_from_then(
    pooled: Pipeline,
) -> None:
    """Nobody restarts a worker or the pooler, nor ends a session."""
    pooled.start("recorder")
    pooled.start("tasks")
    pooled.publish([created("AB-1")])
    assert pooled.run("wait", "--timeout", "150").returncode == 0
    with lending_read_only_sessions(pooled.database_url, pooled.settings["CASELOG_DATABASE_URL"], 3):
        pooled.publish([created("AB-2")])
        eventually(lambda: "read-only, as after a failover" in said(pooled), "a worker says why it waits")
    waited = pooled.run("wait", "--timeout", "150")
    assert (waited.returncode, waited.stderr) == (0, b"")
    assert pooled.one('select count(*) from "case"') == 2


@pytest.mark.slow
def test_what_only_reads_or_acts_by_hand_works_through_the_pooler(pooled: Pipeline) -> None:
    pooled.start("recorder")
    pooled.start("tasks")
    pooled.publish([created("AB-1"), {**created("AB-2"), "type": "nothing_of_ours"}])
    assert pooled.run("wait", "--timeout", "150").returncode == 0
    for words in (
        ("export", "cases", "--format", "jsonl"),
        ("report", "outcomes", "--from", "2020-01-01", "--to", "2040-01-01"),
        ("dead", "discard", "--all", "--yes", "--why", "rubbish"),
        ("pause", "--why", "to see"),
    ):
        done = pooled.run(*words)
        assert done.returncode == 0, (words, done.stderr)
