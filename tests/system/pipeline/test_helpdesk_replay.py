"""Another organisation's real log through the running pipeline, against an independent reading of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import pytest
from support.oracle.helpdesk_oracle import read
from support.processes.pipeline import ROOT, Pipeline

LOG = ROOT.parent / "shared" / "data" / "helpdesk.xes.gz"


@pytest.mark.unproven  # the fixture knows the bundled apps only; `caselog verify` with this one's proves it below
@pytest.mark.slow
@pytest.mark.skipif(not LOG.exists(), reason=f"the help desk's log is not at {LOG}")
def test_all_tickets_of_the_help_desk_end_as_their_log_says(redis_pipeline: Pipeline, tmp_path: Path) -> None:
    """Logs, last outcomes and daily outcome counts equal those that the oracle counted in the file."""
    redis_pipeline.settings["CASELOG_APPS"] = "examples.helpdesk"
    redis_pipeline.settings["PYTHONPATH"] = str(ROOT)
    path = tmp_path / "helpdesk.jsonl"
    with path.open("wb") as out:
        subprocess.run([sys.executable, "-m", "examples.helpdesk.replay", str(LOG)], cwd=ROOT, stdout=out, check=True)
    redis_pipeline.start("recorder")
    redis_pipeline.start("tasks")
    assert redis_pipeline.run("publish", str(path)).returncode == 0
    waited = redis_pipeline.run("wait")
    assert (waited.returncode, waited.stderr) == (0, b"")

    expected = read(LOG)
    assert (expected.tickets, expected.logs) == (4580, 4580 + 21_348)
    logs = [json.loads(line) for line in redis_pipeline.run("export", "logs").stdout.splitlines()]
    assert len(logs) == expected.logs
    assert sum(log["suppressed"] for log in logs) == expected.suppressed
    cases = [json.loads(line) for line in redis_pipeline.run("export", "cases").stdout.splitlines()]
    assert {case["reference"]: case["outcome_code"] for case in cases} == expected.last_outcome
    assert {case["reference"]: datetime.fromisoformat(case["created_at"]) for case in cases} == expected.created_at
    rows = redis_pipeline.run("report", "outcomes", "--from", "2009-01-01", "--to", "2019-12-31", "--format", "jsonl")
    counted: Counter[tuple[date, str, str, str, str]] = Counter()
    for row in map(json.loads, rows.stdout.splitlines()):
        day = date.fromisoformat(row["day"])
        counted[day, row["key"], row["code"], row["category"], row["organisation"]] += row["outcomes"]
    assert counted == expected.daily_outcomes
    assert redis_pipeline.run("export", "dead").stdout == b""
    assert redis_pipeline.run("verify").returncode == 0
