"""Exports in the background as users meet them: asked for, watched, killed in the middle, deleted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, eventually

DAYS = ["--from", "2026-01-01", "--to", "2026-12-31"]
# Seconds of work: time enough to be killed in.
MANY = 400_000
HELD_S = 10


def put_rows(pipeline: Pipeline, count: int) -> None:
    with psycopg.connect(pipeline.database_url) as db:
        db.execute(
            """
            insert into report_sum (report, day, category, n1, n2, n3)
            select 'case_volume', date '2026-01-01' + mod(n, 365), 'category ' || n, n, 0, 0
            from generate_series(1, %s) as n
            """,
            [count],
        )


def ran(pipeline: Pipeline, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    done = pipeline.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def asked(pipeline: Pipeline, *arguments: str) -> tuple[int, Path]:
    """The id of a new export, and where its file will be."""
    said = ran(pipeline, "report", "case_volume", *DAYS, "--background", *arguments).stdout.decode()
    found = re.fullmatch(r"export (\d+) is queued: (.+)\n", said)
    assert found is not None, said
    return int(found[1]), Path(found[2])


def shown(pipeline: Pipeline, export_id: int, *arguments: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(pipeline.run("exports", "show", str(export_id), "--json", *arguments).stdout)
    return facts


def status_of(pipeline: Pipeline, export_id: int) -> tuple[str, int, int]:
    with psycopg.connect(pipeline.database_url) as db:
        row = db.execute("select status, rows, attempts from report_export where id = %s", [export_id]).fetchone()
        assert row is not None
        return row


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def begun(pipeline: Pipeline, export_id: int, file: Path) -> None:
    """Wait until some of it is written, and see that none of it is visible."""
    eventually(lambda: status_of(pipeline, export_id)[1] > 0, "some of its rows are done")
    assert status_of(pipeline, export_id)[0] == "running"
    assert [name for name in names(file.parent) if not name.startswith(".")] == []


def test_an_export_is_asked_for_watched_fetched_and_deleted(redis_pipeline: Pipeline) -> None:
    put_rows(redis_pipeline, 500)
    redis_pipeline.start("tasks")
    export_id, file = asked(redis_pipeline, "--format", "csv", "--where", "source=")
    assert file == redis_pipeline.directory / "data/exports" / f"case_volume_2026-01-01_2026-12-31_{export_id}.csv"
    facts = shown(redis_pipeline, export_id, "--wait")
    expected = ran(redis_pipeline, "report", "case_volume", *DAYS, "--format", "csv").stdout
    assert file.read_bytes() == expected
    assert (facts["status"], facts["rows"], facts["bytes"]) == ("done", 500, len(expected))
    assert (facts["parameters"]["from"], facts["parameters"]["where"]) == ("2026-01-01", {"source": None})
    assert facts["file"] == str(file)
    listed = [json.loads(line) for line in ran(redis_pipeline, "exports", "list", "--json").stdout.splitlines()]
    assert listed == [facts]
    assert str(file) in ran(redis_pipeline, "exports", "list").stdout.decode()
    ran(redis_pipeline, "exports", "delete", str(export_id), "--why", "sent already")
    eventually(lambda: not file.exists(), "the file is removed")
    [entry] = ran(redis_pipeline, "audit", "list", "--action", "export", "--json").stdout.splitlines()
    assert (json.loads(entry)["action"], json.loads(entry)["why"]) == ("export.delete", "sent already")
    assert b"is deleted already" in redis_pipeline.run("exports", "delete", str(export_id)).stderr


def test_waiting_for_one_that_fails_says_why_and_has_a_status(redis_pipeline: Pipeline) -> None:
    redis_pipeline.start("tasks")
    exports = redis_pipeline.directory / "data/exports"
    exports.mkdir(parents=True, exist_ok=True)
    (exports / "file").touch()
    target = f"file://{exports}/file/exports"
    export_id, _ = asked(redis_pipeline, "--format", "parquet", "--to-url", target)
    done = redis_pipeline.run("exports", "show", str(export_id), "--wait")
    assert done.returncode == 1
    assert b"Not a directory" in done.stdout
    assert redis_pipeline.run("exports", "show", str(export_id)).returncode == 0


@pytest.mark.slow
def test_killed_in_the_middle_it_is_finished_once_by_another_worker(redis_pipeline: Pipeline) -> None:
    """No message tells the other one: it looks."""
    put_rows(redis_pipeline, MANY)
    worker = redis_pipeline.start("tasks")
    export_id, file = asked(redis_pipeline, "--format", "jsonl")
    begun(redis_pipeline, export_id, file)
    worker.kill()
    assert [name for name in names(file.parent) if name.endswith(".part")] != []
    redis_pipeline.start("tasks")
    redis_pipeline.start("tasks")
    within_s = HELD_S + 2 * DEADLINE_S
    eventually(lambda: status_of(redis_pipeline, export_id) == ("done", MANY, 2), "it is done", within_s)
    assert names(file.parent) == [file.name]
    lines = file.read_bytes().splitlines()
    assert {json.loads(line)["cases"] for line in lines} == set(range(1, MANY + 1))
    assert len(lines) == MANY


@pytest.mark.slow
def test_a_worker_that_was_frozen_while_another_finished_changes_nothing(redis_pipeline: Pipeline) -> None:
    put_rows(redis_pipeline, MANY)
    frozen = redis_pipeline.start("tasks")
    export_id, file = asked(redis_pipeline, "--format", "jsonl")
    begun(redis_pipeline, export_id, file)
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        redis_pipeline.start("tasks")
        within_s = HELD_S + 2 * DEADLINE_S
        eventually(lambda: status_of(redis_pipeline, export_id) == ("done", MANY, 2), "it is done", within_s)
        whole = file.stat()
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    eventually(lambda: "taken over by another worker" in frozen.said(), "it notices")
    assert names(file.parent) == [file.name]
    assert (file.stat().st_ino, file.stat().st_size) == (whole.st_ino, whole.st_size)


@pytest.mark.slow
def test_sigterm_leaves_a_running_export_to_the_next_worker(redis_pipeline: Pipeline) -> None:
    put_rows(redis_pipeline, MANY)
    worker = redis_pipeline.start("tasks")
    export_id, file = asked(redis_pipeline, "--format", "jsonl")
    begun(redis_pipeline, export_id, file)
    assert worker.stop() == 0
    assert status_of(redis_pipeline, export_id) == ("queued", 0, 0)
    assert names(file.parent) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--background"], "--format: a file is written as jsonl, csv, parquet, not table"),
        (["--format", "csv", "--to-url", "/tmp"], "--to-url: goes with --background"),
        (["--background", "--format", "csv", "--output", "x.csv"], "--output: a tasks worker does not write here"),
        (["--background", "--format", "csv", "--bom"], "--background: leave out --plot and --bom"),
        (["--background", "--format", "csv", "--to-url", "s4://bucket"], "exports go to a directory, or to s3://"),
        (["--background", "--format", "csv", "--to-url", "ftp://host/x"], "exports go to a directory, or to s3://"),
        (["--background", "--format", "csv", "--to-url", "/tmp"], "'/tmp' is not in the directory of exports"),
        (["--background", "--format", "csv", "--to-url", "data/exports/../.."], "is not in the directory of exports"),
        (["--background", "--format", "csv", "--to-url", "s3://k:hunter2@bucket"], "may hold no user, password"),
    ],
)
def test_what_cannot_be_exported_is_told_when_it_is_asked_for(
    redis_pipeline: Pipeline, arguments: list[str], said: str
) -> None:
    done = redis_pipeline.run("report", "case_volume", *DAYS, *arguments)
    assert done.returncode in (1, 2)
    assert re.fullmatch(rf"caselog: .*{said}.*\n", done.stderr.decode()), done.stderr
    assert b"hunter2" not in done.stderr
    assert ran(redis_pipeline, "exports", "list", "--json").stdout == b""
