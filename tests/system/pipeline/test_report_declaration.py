"""A report is one file: the example of docs/reports.md, in a copy of the program, is fed, read and proved."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.oracle.stored import body
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import ROOT, created, event

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.batch import Recording
from caselog.workers.settings import load_settings

EXAMPLE = re.compile(r"```python\n# schema/reports/declarations/(\w+)\.py\n(.*?)```", re.DOTALL)
# What a worker and the command line do, in the copy's own modules.
RECORD = """
import sys, json
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.folding.resolve import Rules
from caselog.schema.sessions.connection import make_engine
from caselog.workers.tasks.aggregator import add_up_reports
from caselog.workers.recording.batch import Recording
from caselog.workers.settings import load_settings
settings = load_settings()
autodiscover()
rules = Rules(zone=settings.zone)
url = settings.database_url.get_secret_value()
engine = make_engine(url)
Recording(engine, event_registry, rules).record([decode(line.encode()) for line in sys.stdin])
engine.dispose()
add_up_reports(url, event_registry, rules)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The program with the example's file added."""
    package = tmp_path / "caselog"
    shutil.copytree(ROOT / "src" / "caselog", package, ignore=shutil.ignore_patterns("__pycache__"))
    found = EXAMPLE.search((ROOT / "docs" / "reports.md").read_text())
    assert found is not None
    name, program = found.groups()
    (package / "schema" / "reports" / "declarations" / f"{name}.py").write_text(program)
    return tmp_path


@pytest.mark.slow
def test_a_report_that_is_added_as_one_file_counts_past_and_future_events(copy: Path, database_url: str) -> None:
    """What was recorded before it came is counted by `rebuild reports`, what comes after by the deltas."""

    def run(*arguments: str, stdin: str = "") -> str:
        environment = os.environ | {
            "CASELOG_DATABASE_URL": database_url, "CASELOG_DATA_DIR": str(copy / "data"), "PYTHONPATH": str(copy),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *arguments], input=stdin, env=environment, cwd=copy, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told(*arguments: str) -> Counter[tuple[str, str]]:
        span = ("--from", "2026-03-01", "--to", "2026-03-31")
        lines = run("-m", "caselog.workers.cli", "report", "complaints_made", *span, "--json", *arguments).splitlines()
        rows = [json.loads(line) for line in lines]
        return Counter({(row["day"], row["category"]): row["made"] for row in rows})

    def complained(case: str, day: int) -> list[dict[str, object]]:
        at = f"2026-03-{day:02d}T11:00:00Z"
        return [
            created(case, f"2026-03-{day:02d}T10:00:00Z", data={"context": {"category": "debt"}}),
            event("complaint", "COMPLAINT_CREATED", case, at, data={"context": {"complaint": "1"}}),
        ]

    autodiscover()
    engine = make_engine(database_url)
    rules = Rules(zone=load_settings().zone)
    Recording(engine, event_registry, rules).record([decode(body(one)) for one in complained("AB-1", 2)])
    engine.dispose()
    assert told() == Counter()
    run("-m", "caselog.workers.cli", "rebuild", "reports")
    assert told() == {("2026-03-02", "debt"): 1}
    later = "".join(body(one).decode() + "\n" for one in (*complained("AB-2", 2), *complained("AB-3", 9)))
    run("-c", RECORD, stdin=later)
    assert told() == {("2026-03-02", "debt"): 2, ("2026-03-09", "debt"): 1}
    assert told("--where", "category=family") == Counter()
    described = json.loads(run("-m", "caselog.workers.cli", "report", "complaints_made", "--describe", "--json"))
    assert [column["column"] for column in described["columns"]] == ["day", "category", "made"]
    run("-m", "caselog.workers.cli", "verify")
    run("-m", "caselog.workers.cli", "rebuild", "reports")
    assert told() == {("2026-03-02", "debt"): 2, ("2026-03-09", "debt"): 1}
