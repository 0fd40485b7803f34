"""With the URL of a standby every command that only reads gives what it gives on the primary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.recorded import printed, recorded
from support.servers.standby import Standby
from typer.testing import CliRunner

from caselog.workers.cli import app
from caselog.workers.producers.simulation import simulate

pytestmark = pytest.mark.slow
YEAR = ("--from", "2026-01-01", "--to", "2026-12-31", "--format", "jsonl")
READING = (
    ("case", "AB-1"),
    ("case", "AB-1", "--as-of", "2026-03-02T10:30:00Z"),
    ("case", "AB-1", "--known-at", "2030-01-01T00:00:00Z"),
    ("log", "AB-1"),
    ("log", "AB-1", "--json"),
    ("explain", "AB-1"),
    ("search", "ab1"),
    ("codes", "--check"),
    *(("export", what, "--format", form) for what in ("cases", "logs", "timers") for form in ("jsonl", "csv")),
    ("report", "--list"),
    ("report", "outcomes", *YEAR),
    ("report", "handling_time", *YEAR),
    ("report", "outcome_extract", *YEAR),
    ("dead", "list", "--json"),
    ("dead", "list", "--group", "--json"),
    ("dead", "requeue", "--all", "--dry-run"),
    ("dead", "discard", "--all", "--dry-run"),
    ("parked", "list", "--json"),
    ("exports", "list", "--json"),
    ("audit", "list", "--json"),
    ("migrate",),
)


@pytest.fixture(scope="module")
def primary(make_database: Callable[[str], str], template: str) -> Iterator[str]:
    events = [
        *simulate(10, 3),
        created("AB-1"),
        event("case", "CASE_VIEWED", "AB-1"),
        event("case", "NO_SUCH_CODE", "AB-1"),
        event("case", "CASE_VIEWED", "NOT-THERE"),
    ]
    with recorded(make_database, template, events) as url:
        yield url


@pytest.fixture(scope="module")
def standby(primary: str) -> Iterator[str]:
    with Standby(primary) as server:
        yield server.url


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_what_only_reads_works_with_the_url_of_a_standby(primary: str, standby: str, words: tuple[str, ...]) -> None:
    eventually(lambda: printed(standby, "export", "logs", "--format", "csv"), "it has replayed")
    done = CliRunner().invoke(app, words, env={"CASELOG_DATABASE_URL": standby, "CASELOG_DATABASE_DIRECT_URL": standby})
    assert (done.exit_code, done.stdout_bytes) == (0, printed(primary, *words)), done.output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("export", "dead"), "the audit says who did it"),
        (("verify",), "its session has temporary tables"),
        (("rebuild",), "it writes"),
        (("pause", "--why", "to see"), "it writes"),
    ],
    ids=["export dead", "verify", "rebuild", "pause"],
)
def test_what_writes_is_refused_there_in_one_line(
    standby: str, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    away = "redis://127.0.0.1:1/0"
    refused = Pipeline(tmp_path, standby, away, away).run(*words)
    assert (refused.returncode, refused.stdout) == (1, b""), why
    assert refused.stderr.startswith(b"caselog: PostgreSQL")
    assert b"this session is read-only" in refused.stderr
    assert refused.stderr.count(b"\n") == 1
