"""What other rules made is said, withheld and rebuilt; and two versions of caselog on one database, both ways."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.oracle.proof import RULES, add_up_reports, uncounted, what_differs
from support.oracle.stored import body, count
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, Worker, created, event, eventually
from support.processes.served import Served
from test_upgrade import REVISIONS, execute, take_back

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.migrations.upgrade import head_revision, migrate
from caselog.schema.recording.outdated import find_outdated
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.verification.rebuild import rebuild_outdated

ROOT = Path(__file__).parents[3]
REPORT = ("report", "outcomes", "--from", "2026-03-01", "--to", "2026-03-31", "--format", "csv")
# The newest migration of a version to come.
NEXT = """
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    {change}
"""


def outdated(database_url: str) -> list[str]:
    engine = make_engine(database_url)
    try:
        with engine.connect() as db:
            return [one.part for one in find_outdated(db)]
    finally:
        engine.dispose()


def record(pipeline: Pipeline) -> None:
    """A case and an outcome that counts, recorded and added up; no worker is left."""
    recorder = pipeline.start("recorder")
    pipeline.publish([created("AB-1"), event("decline_help", "DESP", "AB-1")])
    pipeline.recorded(2)
    recorder.stop()
    pipeline.drain_reports()


@pytest.fixture
def aged(redis_pipeline: Pipeline) -> Pipeline:
    """A database with logs that was of the version before the rules changed, and has been migrated."""
    record(redis_pipeline)
    take_back(redis_pipeline.database_url, "0010")
    migrate(redis_pipeline.database_url)
    return redis_pipeline


def test_an_empty_database_has_nothing_outdated(empty_database_url: str) -> None:
    migrate(empty_database_url)
    assert outdated(empty_database_url) == []


def test_a_database_of_the_first_version_is_rebuilt_by_its_migration(redis_pipeline: Pipeline) -> None:
    """From before there were reports: its figures are those of the log, not noughts."""
    record(redis_pipeline)
    right = redis_pipeline.run(*REPORT)
    assert right.stdout.count(b"DESP") == 1
    take_back(redis_pipeline.database_url, "0001")
    migrated = redis_pipeline.run("migrate", "--rebuild")
    assert (migrated.returncode, migrated.stdout.splitlines()[-1]) == (0, b"rebuilt from the log")
    assert redis_pipeline.run(*REPORT).stdout == right.stdout
    assert redis_pipeline.run("verify").returncode == 0
    assert redis_pipeline.run("migrate", "--rebuild").stdout.splitlines()[-1] == b"nothing is to be rebuilt"


@pytest.mark.parametrize("revision", [one for one in REVISIONS if "0011" <= one < REVISIONS[-1]])
def test_what_a_migration_leaves_wrong_it_notes(database_url: str, revision: str) -> None:
    """A roll-out that is taken back, to whichever revision, and made again: a figure is right, or it is withheld."""
    engine = make_engine(database_url)
    autodiscover()
    Recording(engine, event_registry, RULES).record([decode(body(*simulate(cases=20, seed=7)))])
    engine.dispose()
    add_up_reports(database_url)
    take_back(database_url, revision)
    migrate(database_url)
    assert outdated(database_url) == (["reports"] if what_differs(database_url) else [])
    rebuild_outdated(database_url, RULES, (), uncounted)
    assert outdated(database_url) == []


def test_a_migration_alone_says_what_is_left_to_do(redis_pipeline: Pipeline) -> None:
    record(redis_pipeline)
    take_back(redis_pipeline.database_url, "0010")
    migrated = redis_pipeline.run("migrate")
    assert migrated.returncode == 0
    assert b"cases, reports, timers outdated" in migrated.stderr
    assert b"run: caselog rebuild" in migrated.stderr


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_a_report_that_would_be_wrong_says_so_instead_of_a_figure(aged: Pipeline, form: str) -> None:
    asked = aged.run(*REPORT[:-1], form)
    assert (asked.returncode, asked.stdout) == (1, b"")
    assert b"run: caselog rebuild" in asked.stderr
    aged.run("rebuild")
    assert b"DESP" in aged.run(*REPORT[:-1], form).stdout


def test_a_report_that_would_be_wrong_is_withheld_over_http(aged: Pipeline) -> None:
    """On the page, as CSV and as JSON; and the check rebuild is red until it is done."""
    served = Served(aged)
    path = "/reports/outcomes?from=2026-03-01&to=2026-03-31&format="
    for form in ("html", "csv", "json"):
        asked = served.get(path + form)
        assert asked.status_code == 503
        assert "caselog rebuild" in asked.text
        assert "DESP" not in asked.text
    check = served.get("/healthcheck.json").json()["rebuild"]
    assert check["status"] is False
    assert "caselog rebuild" in check["hint"]
    aged.run("rebuild")
    assert "DESP" in served.get(path + "csv").text
    eventually(lambda: served.get("/healthcheck.json").json()["rebuild"]["status"], "the check is green again")


def test_a_rebuild_of_one_part_writes_all_that_is_outdated(aged: Pipeline) -> None:
    """Reports are counted from what cases and timers say."""
    execute(aged.database_url, 'update "case" set outcome_code = null')
    written = aged.run("rebuild", "reports", "--json")
    assert json.loads(written.stdout)["case"] == 1
    assert outdated(aged.database_url) == []
    assert aged.run("verify").returncode == 0


def test_a_rebuild_killed_before_the_reports_are_added_up_leaves_them_outdated(aged: Pipeline) -> None:
    killed = aged.run("rebuild", CASELOG_CRASH_AT="rebuild.swapped")
    assert killed.returncode != 0
    assert outdated(aged.database_url) == ["reports"]
    assert aged.run(*REPORT).returncode == 1
    assert aged.run("rebuild").returncode == 0
    assert outdated(aged.database_url) == []


def test_what_is_repaired_is_not_outdated_any_more(aged: Pipeline) -> None:
    execute(aged.database_url, 'update "case" set outcome_code = null')
    assert aged.run("verify", "--repair", "--yes").returncode == 0
    assert outdated(aged.database_url) == []


def test_a_roll_out_is_taken_back_and_made_again(aged: Pipeline) -> None:
    """To the schema that the version before knows, with its log; and forward, to be rebuilt again."""
    aged.run("rebuild")
    nonsense = aged.run("migrate", "--back-to", "0815")
    assert (nonsense.returncode, nonsense.stdout) == (1, b"")
    assert b"there is no revision '0815' before " in nonsense.stderr
    taken = aged.run("migrate", "--back-to", "0010", "--why", "too slow", CASELOG_OPERATOR="anna")
    assert (taken.returncode, taken.stdout.startswith(b"taken back from ")) == (0, True)
    again = aged.run("migrate", "--back-to", "0010")
    assert (again.returncode, again.stdout) == (0, b"at revision 0010 already\n")
    assert aged.one("select nextval('log_id_seq') > 2")
    assert aged.one("select count(cases) from report_outbox") == 0
    assert aged.run("migrate", "--rebuild", CASELOG_OPERATOR="ben").stdout.splitlines()[-1] == b"rebuilt from the log"
    assert aged.run("verify").returncode == 0
    head = str(head_revision())
    entries = map(json.loads, aged.run("audit", "list", "--json", "--action", "migrate").stdout.splitlines())
    assert [(one["who"], one["action"], one["why"], one["detail"]) for one in entries] == [
        ("ben", "migrate", None, {"from": "0010", "to": head}),
        ("anna", "migrate.back", "too slow", {"from": head, "to": "0010"}),
    ]


def test_where_the_older_schema_has_no_audit_it_is_said(aged: Pipeline) -> None:
    done = aged.run("migrate", "--back-to", "0002")
    assert (done.returncode, done.stdout.endswith(b"and rebuild\n")) == (0, True)
    assert b"caselog: this is not in the audit, which a database at revision 0002 does not have yet\n" in done.stderr
    assert aged.run("migrate", "--rebuild").returncode == 0


# --- two versions ---


class Newer:
    """A copy of this code with one migration more: a version to come, beside this one."""

    def __init__(self, directory: Path, pipeline: Pipeline) -> None:
        self._directory = directory
        self._pipeline = pipeline
        self._package = directory / "caselog"
        shutil.copytree(ROOT / "src" / "caselog", self._package, ignore=shutil.ignore_patterns("__pycache__"))

    def comes_with(self, change: str) -> None:
        text = NEXT.format(head=head_revision(), change=change)
        (self._package / "schema" / "migrations" / "versions" / "9999_next.py").write_text(text)

    def replaces(self, old: str, new: str) -> None:
        """In its code, the migrations aside."""
        for path in self._directory.rglob("*.py"):
            if "versions" not in path.parts and old in (text := path.read_text()):
                path.write_text(text.replace(old, new))

    def argv(self, *arguments: str) -> list[str]:
        # The command line looks for apps in the current directory, which must not be that of this version.
        return ["env", "-C", str(self._directory), sys.executable, "-m", "caselog.workers.cli", *arguments]

    def environment(self) -> dict[str, str]:
        return self._pipeline.environment(PYTHONPATH=str(self._directory))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment(),
            capture_output=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )


@pytest.fixture
def newer(tmp_path: Path, redis_pipeline: Pipeline) -> Newer:
    return Newer(tmp_path / "newer", redis_pipeline)


@pytest.fixture
def newer_workers() -> Iterator[list[Worker]]:
    """What a test starts of the newer version it puts in here; all are stopped at the end."""
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.kill()


def test_a_version_that_is_behind_migrates_nothing_and_records_on(redis_pipeline: Pipeline, newer: Newer) -> None:
    """A roll-out that is taken back: the old version's migration says so and exits with 0, and its workers start."""
    newer.comes_with("op.execute('create table of_the_next_version (id int)')")
    done = newer.run("migrate")
    assert (done.returncode, done.stdout) == (0, f"migrated from {head_revision()} to 9999\n".encode())
    refused = redis_pipeline.run("migrate", "--back-to", "0010")
    assert (refused.returncode, b"run this with the newer one" in refused.stderr) == (1, True)
    again = redis_pipeline.run("migrate", "--rebuild")
    assert (again.returncode, again.stdout) == (0, b"at revision 9999 already\n")
    [line] = again.stderr.decode().splitlines()
    assert "at revision 9999, to which a newer caselog migrated it" in line
    redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    redis_pipeline.drain_reports()
    # And forward again.
    assert newer.run("migrate").stdout == b"at revision 9999 already\n"
    assert newer.run("verify").returncode == 0


def test_recorders_of_other_rules_record_nothing_more_once_it_is_migrated(
    redis_pipeline: Pipeline, newer: Newer, newer_workers: list[Worker], tmp_path: Path
) -> None:
    """The newer rules' recorder takes what the older one gives back; nothing is lost, or a dead letter."""
    newer.comes_with("op.execute('alter sequence log_id_2_seq rename to log_id_3_seq')")
    newer.replaces("log_id_2_seq", "log_id_3_seq")
    old = redis_pipeline.start("recorder")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    assert newer.run("migrate").returncode == 0
    redis_pipeline.publish([event("decline_help", "DESP", "AB-1")])
    eventually(lambda: "deploy the newer one" in old.said(), "it says what to do")
    assert redis_pipeline.logs() == 1
    newer_workers.append(Worker(newer.argv("worker", "recorder"), newer.environment(), tmp_path / "newer.log"))
    eventually(lambda: redis_pipeline.logs() == 2, "the newer recorder has it", 2 * DEADLINE_S)
    assert old.is_running()
    assert count(redis_pipeline.database_url, "dead_letter") == 0
    # For the proof at the end, which is this version's.
    execute(redis_pipeline.database_url, "alter sequence log_id_3_seq rename to log_id_2_seq")
    redis_pipeline.drain_reports()
