"""`caselog verify` and `caselog rebuild` as processes: what they print, their status, and a rebuild that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.oracle.proof import RULES, add_up_reports, assert_verified
from support.oracle.stored import body, what_stands
from support.processes.patience import DEADLINE_S
from support.servers.children import start_child

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.roles.up import caselog_program

HOSTILE = "\x1b[31m\u202ex"
Caselog = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    """A database with a history; nothing else runs."""
    autodiscover()
    engine = make_engine(database_url)
    Recording(engine, event_registry, RULES).record([decode(body(*simulate(30, 5)))])
    engine.dispose()
    add_up_reports(database_url)
    return os.environ | {"CASELOG_DATABASE_URL": database_url, "CASELOG_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def caselog(environment: dict[str, str]) -> Caselog:
    def run(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*caselog_program(), *arguments],
            env=environment, input=answer, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    return run


def execute(database_url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as db:
        cursor = db.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def test_verify_says_what_differs_and_repairs_it_after_asking(database_url: str, caselog: Caselog) -> None:
    before = what_stands(database_url)
    well = caselog("verify")
    assert (well.returncode, well.stdout) == (0, "")
    assert "no difference" in well.stderr

    [(reference, code, log_id)] = execute(
        database_url,
        """update "case" set outcome_code = %s
           where reference = (select min(reference) from "case" where outcome_code is not null)
           returning reference, (select code from log where id = outcome_code_id), outcome_code_id""",
        HOSTILE,
    )
    told = caselog("verify")
    assert told.returncode == 1
    assert f"case {reference}: outcome_code is " in told.stdout
    assert f'the log says "{code}" [log {log_id}, ' in told.stdout
    assert "\x1b" not in told.stdout
    assert "\u202e" not in told.stdout

    [difference] = [json.loads(line) for line in caselog("verify", "--json").stdout.splitlines()]
    assert {name: difference[name] for name in ("table", "name", "case", "column", "stored", "fresh")} == {
        "table": "case", "name": reference, "case": reference, "column": "outcome_code", "stored": HOSTILE,
        "fresh": code,
    }  # fmt: skip
    assert difference["log"]["id"] == log_id

    assert caselog("verify", "--case", reference).returncode == 1
    assert caselog("verify", "--repair", answer="n\n").returncode == 1
    assert what_stands(database_url) != before
    assert caselog("verify", "--repair", answer="y\n").returncode == 0
    assert what_stands(database_url) == before
    assert caselog("verify", "--case", reference).returncode == 0


def test_a_case_that_does_not_exist_is_said(caselog: Caselog) -> None:
    unknown = caselog("verify", "--case", "NO-SUCH")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("caselog: there is no case 'NO-SUCH'")


def test_a_database_without_tables_is_one_line(empty_database_url: str) -> None:
    run = subprocess.run(
        [*caselog_program(), "verify"],
        env=os.environ | {"CASELOG_DATABASE_URL": empty_database_url},
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == "caselog: the database has no caselog tables, or older ones. Run: caselog migrate\n"


def test_rebuild_killed_at_any_moment_leaves_the_old_version_and_then_succeeds(
    database_url: str, environment: dict[str, str], caselog: Caselog
) -> None:
    before = what_stands(database_url)
    execute(database_url, "delete from timer")
    execute(database_url, 'update "case" set provider = %s', "edited")
    ruined = what_stands(database_url)
    for connected_ms in (0, 150):
        process = start_child([*caselog_program(), "rebuild"], env=environment, stderr=subprocess.PIPE)
        try:
            # Its backend is there, and has been for so long: somewhere between its first statement and the swap.
            working = """select 1 from pg_stat_activity where application_name = 'caselog verify'
                         and datname = current_database()
                         and clock_timestamp() - backend_start > %s * interval '1 ms'"""
            while process.poll() is None and not execute(database_url, working, connected_ms):
                pass
            process.send_signal(signal.SIGKILL)
        finally:
            process.wait(DEADLINE_S)
            assert process.stderr is not None
            process.stderr.close()
        assert what_stands(database_url) in (ruined, before)
    rebuilt = caselog("rebuild", "--json")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert json.loads(rebuilt.stdout).keys() == {
        "timer", "log", "case", "report_sum", "callback", "complaint", "assignment",
    }  # fmt: skip
    assert what_stands(database_url) == before
    assert_verified(database_url)


def test_rebuild_of_what_is_not_there_names_what_is(caselog: Caselog) -> None:
    unknown = caselog("rebuild", "casse")
    assert unknown.returncode == 1
    assert "Did you mean 'cases'?" in unknown.stderr
