"""The work of exports in the background: whatever happens to a worker, each is finished exactly once or says why."""

from __future__ import annotations

import csv
import io
import json
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, eventually
from support.servers.bucket import Bucket

from caselog.schema.migrations.upgrade import head_revision
from caselog.schema.operations import audit, background_exports
from caselog.schema.operations.background_exports import Export
from caselog.schema.reports.catalogue import get_report
from caselog.schema.reports.reading import Reading, read_rows
from caselog.schema.sessions.connection import make_engine
from caselog.workers.rows.targets import BUFFER_BYTES
from caselog.workers.tasks.exporter import CONNECTIONS, Exporter

READING = Reading(
    report=get_report("case_volume"),
    first=date(2026, 1, 1),
    last=date(2026, 12, 31),
    now=datetime(2026, 12, 1, tzinfo=UTC),
    zone=ZoneInfo("Europe/London"),
)
ROWS = 2000
OFTEN_S = 0.02


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database whose report has `ROWS` rows: a megabyte, which is more than any buffer on the way holds."""
    engine = make_engine(database_url, connections=4 * CONNECTIONS)
    put_rows(engine)
    yield engine
    engine.dispose()


def put_rows(engine: Engine) -> None:
    with engine.begin() as db:
        db.execute(
            text(
                """
                insert into report_sum (report, day, category, n1, n2, n3)
                select 'case_volume', date '2026-01-01' + n % 365, repeat('category ', 50) || n, n, 0, 0
                from generate_series(1, :count) as n
                """
            ),
            {"count": ROWS},
        )


def ask(engine: Engine, target: Path | str, form: str = "jsonl", reading: Reading = READING) -> Export:
    with engine.begin() as db:
        return background_exports.request(db, reading, form=form, target=str(target), who="anna")


def look(engine: Engine, export: Export) -> Export:
    with engine.begin() as db:
        return background_exports.get_export(db, export.id)


def change(engine: Engine, export: Export, assignment: str) -> None:
    with engine.begin() as db:
        db.execute(text(f"update report_export set {assignment} where id = :id"), {"id": export.id})


def an_exporter(
    engine: Engine, *, exports: Path | str = "/", retention_days: int = 7, renewed_s: float = OFTEN_S
) -> Exporter:
    return Exporter(engine, exports=str(exports), retention_days=retention_days, renewed_s=renewed_s)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def failure_of(engine: Engine, export: Export) -> str:
    found = look(engine, export)
    assert found.status == "failed"
    assert found.failure is not None
    assert "\n" not in found.failure
    return found.failure


@contextmanager
def in_the_middle(exporter: Exporter, bucket: type[Bucket]) -> Iterator[None]:
    """Within, the exporter has begun to write an export to the bucket, and waits; it has ended after it."""
    bucket.is_open.clear()
    with ThreadPoolExecutor(1) as thread:
        swept = thread.submit(exporter.sweep)
        try:
            assert bucket.is_waited_for.wait(DEADLINE_S)
            yield
        finally:
            bucket.is_open.set()
        swept.result(DEADLINE_S)


# What is exported


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_export_has_the_rows_of_its_report(engine: Engine, tmp_path: Path, form: str) -> None:
    export = ask(engine, tmp_path, form)
    assert an_exporter(engine).sweep() == 1
    found = look(engine, export)
    data = (tmp_path / export.file_name).read_bytes()
    assert (found.status, found.rows, found.bytes, found.failure) == ("done", ROWS, len(data), None)
    assert found.started_at is not None
    assert found.finished_at is not None
    assert export.requested_at <= found.started_at <= found.finished_at
    with engine.connect() as db:
        expected = [dict(zip([c.name for c in READING.columns], row, strict=True)) for row in read_rows(db, READING)]
    plain = [{**row, "day": row["day"].isoformat()} for row in expected]
    if form == "parquet":
        assert pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist() == expected
    elif form == "jsonl":
        assert [json.loads(line) for line in data.splitlines()] == plain
    else:
        as_cells = [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in plain]
        assert list(csv.DictReader(io.StringIO(data.decode()))) == as_cells


def test_a_sweep_does_all_that_waits_and_then_finds_nothing(engine: Engine, tmp_path: Path) -> None:
    exports = [ask(engine, tmp_path) for _ in range(3)]
    exporter = an_exporter(engine)
    assert exporter.sweep() == 3
    assert exporter.sweep() == 0
    assert names(tmp_path) == sorted(export.file_name for export in exports)


def test_how_far_it_is_can_be_seen_while_it_runs(engine: Engine, bucket: type[Bucket]) -> None:
    export = ask(engine, "bucket://b")
    with in_the_middle(an_exporter(engine), bucket):
        eventually(lambda: look(engine, export).rows > 0, "the rows done are told")
        found = look(engine, export)
        assert found.status == "running"
        assert found.rows < ROWS
        assert bucket.objects == {}
    assert look(engine, export).rows == ROWS


# Several workers


def test_several_workers_at_once_do_each_export_once(engine: Engine, tmp_path: Path) -> None:
    exports = [ask(engine, tmp_path) for _ in range(12)]
    together = threading.Barrier(3)

    def work(exporter: Exporter) -> int:
        together.wait(DEADLINE_S)
        return exporter.sweep()

    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(work, [an_exporter(engine) for _ in range(3)]))
    assert sum(done) == 12
    assert {(found.status, found.attempts) for found in (look(engine, e) for e in exports)} == {("done", 1)}
    assert names(tmp_path) == sorted(export.file_name for export in exports)


def test_one_process_works_on_one_export_at_a_time_and_tidies_up_meanwhile(
    engine: Engine, tmp_path: Path, bucket: type[Bucket]
) -> None:
    """An export takes one of the threads that the other tasks need too."""
    old = ask(engine, tmp_path)
    exporter = an_exporter(engine)
    exporter.sweep()
    ask(engine, "bucket://b")
    with in_the_middle(exporter, bucket):
        waiting = ask(engine, tmp_path)
        with engine.begin() as db:
            background_exports.delete(db, old.id, who="ben", why=None)
        assert exporter.sweep() == 0
        assert look(engine, waiting).status == "queued"
        assert names(tmp_path) == []
    assert look(engine, waiting).status == "done"


# Workers that die or stop


def test_what_a_dead_worker_left_is_removed_by_the_one_that_begins_anew(engine: Engine, tmp_path: Path) -> None:
    export = ask(engine, tmp_path)
    with engine.begin() as db:
        dead = background_exports.claim(db)
    assert dead is not None
    (tmp_path / f".{export.file_name}.{dead.holder}.part").write_bytes(b'{"half')
    exporter = an_exporter(engine)
    assert exporter.sweep() == 0
    change(engine, export, "held_until = clock_timestamp() - interval '1 s'")
    assert exporter.sweep() == 1
    assert names(tmp_path) == [export.file_name]
    assert (look(engine, export).status, look(engine, export).attempts) == ("done", 2)


@pytest.mark.parametrize("renewed_s", [OFTEN_S, 60.0], ids=["at its next renewal", "when it comes to publish"])
def test_a_worker_that_was_taken_for_dead_publishes_nothing(
    engine: Engine, bucket: type[Bucket], renewed_s: float
) -> None:
    export = ask(engine, "bucket://b")
    with in_the_middle(an_exporter(engine, renewed_s=renewed_s), bucket):
        change(engine, export, "holder = 'another', rows = 5")
    assert (bucket.objects, bucket.uploads) == ({}, 0)
    assert (look(engine, export).status, look(engine, export).rows) == ("running", 5)


def test_a_worker_that_stops_leaves_its_export_to_another(engine: Engine, bucket: type[Bucket]) -> None:
    """The moment of asking, and so the result, stays."""
    export = ask(engine, "bucket://b")
    exporter = an_exporter(engine)
    with in_the_middle(exporter, bucket):
        exporter.stop()
    assert (bucket.objects, bucket.uploads) == ({}, 0)
    assert (look(engine, export).status, look(engine, export).attempts) == ("queued", 0)
    assert exporter.sweep() == 0
    assert an_exporter(engine).sweep() == 1
    assert list(bucket.objects) == [f"b/{export.file_name}"]


def test_a_stop_does_not_wait_for_what_postgresql_is_at(engine: Engine, tmp_path: Path) -> None:
    """The first row of a report may take minutes: a lock stands in for them here."""
    export = ask(engine, tmp_path)
    exporter = an_exporter(engine)
    with engine.begin() as locking, ThreadPoolExecutor(1) as thread:
        locking.execute(text("lock table report_sum"))
        swept = thread.submit(exporter.sweep)
        eventually(lambda: look(engine, export).status == "running", "it runs")
        exporter.stop()
        assert swept.result(DEADLINE_S) == 1
    assert look(engine, export).status == "queued"
    assert names(tmp_path) == []


def test_a_database_that_is_away_is_waited_for(redis_pipeline: Pipeline, engine: Engine, tmp_path: Path) -> None:
    export = ask(engine, tmp_path)
    exporter = an_exporter(engine)
    with redis_pipeline.database_away():
        assert exporter.sweep() == 0
    assert exporter.sweep() == 1
    assert look(engine, export).status == "done"


def test_one_that_another_schema_is_in_the_way_of_waits_for_the_right_version(engine: Engine, tmp_path: Path) -> None:
    """While it is not migrated it is nobody's failure; the same error where the schema is right is the report's."""
    export = ask(engine, tmp_path)
    exporter = an_exporter(engine, exports=tmp_path)
    revision = head_revision()
    with engine.begin() as db:
        db.execute(text("alter table report_sum rename n1 to number_1"))
        db.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(ProgrammingError):
        exporter.sweep()
    assert (look(engine, export).status, look(engine, export).attempts) == ("queued", 0)
    with engine.begin() as db:
        db.execute(text("update alembic_version set version_num = :revision"), {"revision": revision})
    exporter.sweep()
    assert "UndefinedColumn" in failure_of(engine, export)
    with engine.begin() as db:
        db.execute(text("alter table report_sum rename number_1 to n1"))


def test_a_database_that_goes_away_in_the_middle_costs_an_attempt_and_no_more(
    redis_pipeline: Pipeline, engine: Engine, bucket: type[Bucket]
) -> None:
    export = ask(engine, "bucket://b")
    exporter = an_exporter(engine, renewed_s=60)
    with in_the_middle(exporter, bucket), redis_pipeline.database_away():
        bucket.is_open.set()
    assert (bucket.objects, bucket.uploads) == ({}, 0)
    assert look(engine, export).status == "running"
    change(engine, export, "held_until = clock_timestamp() - interval '1 s'")
    assert exporter.sweep() == 1
    assert look(engine, export).status == "done"
    assert len(bucket.objects) == 1


# What fails


def test_a_target_that_cannot_be_written_to_fails_the_export_with_the_reason(engine: Engine, tmp_path: Path) -> None:
    """And not the others."""
    (tmp_path / "file").touch()
    export = ask(engine, tmp_path / "file" / "exports")
    other = ask(engine, tmp_path / "exports")
    assert an_exporter(engine).sweep() == 2
    assert failure_of(engine, export).startswith(f"'{tmp_path}/file")
    assert failure_of(engine, export).endswith(
        "Not a directory. Make room or mend the permissions there, then ask again"
    )
    assert look(engine, other).status == "done"


def test_a_disk_that_is_full_fails_the_export_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    export = ask(engine, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        an_exporter(engine).sweep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failure_of(engine, export).startswith(f"'{tmp_path}': File too large. Make room")
    assert names(tmp_path) == []


def test_what_a_store_refuses_fails_the_export_with_its_words(engine: Engine, bucket: type[Bucket]) -> None:
    export = ask(engine, "bucket://b")
    bucket.fault = PermissionError("Access Denied")
    an_exporter(engine).sweep()
    bucket.fault = None
    assert failure_of(engine, export).startswith("'bucket://b' cannot be used: Access Denied. Check")
    assert (bucket.objects, bucket.uploads) == ({}, 0)


def test_a_report_that_this_version_does_not_have_fails_with_the_reason(engine: Engine, tmp_path: Path) -> None:
    export = ask(engine, tmp_path)
    change(engine, export, "report = 'case_volumes'")
    an_exporter(engine).sweep()
    assert "Did you mean 'case_volume'?" in failure_of(engine, export)


def test_what_postgresql_refuses_fails_with_the_name_of_the_fault(engine: Engine, tmp_path: Path) -> None:
    export = ask(engine, tmp_path)
    with engine.begin() as db:
        db.execute(text("alter table report_sum rename column n2 to n4"))
    an_exporter(engine).sweep()
    assert failure_of(engine, export) == "PostgreSQL refused to read it (UndefinedColumn, 42703): see its log"
    assert names(tmp_path) == []


# What is not kept


def test_deleting_a_running_export_stops_it_at_its_next_renewal(
    engine: Engine, bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when it comes to publish: most of its bytes were never sent."""
    renewed, refusals, is_noted = background_exports.renew, count(1), threading.Event()

    def renew(db: Connection, export: Export, rows: int) -> bool:
        is_held = renewed(db, export, rows)
        if not is_held and next(refusals) > 1:
            is_noted.set()  # whoever asks a second time has taken note of the first refusal
        return is_held

    monkeypatch.setattr(background_exports, "renew", renew)
    export = ask(engine, "bucket://b")
    exporter = an_exporter(engine)
    with in_the_middle(exporter, bucket):
        with engine.begin() as db:
            background_exports.delete(db, export.id, who="ben", why=None)
        assert is_noted.wait(DEADLINE_S)
    assert (bucket.objects, bucket.uploads) == ({}, 0)
    assert bucket.written < 3 * BUFFER_BYTES
    assert look(engine, export).status == "cancelled"
    assert exporter.sweep() == 0
    assert look(engine, export).status == "cancelled"


def test_a_deleted_file_is_removed_by_the_next_sweep(engine: Engine, tmp_path: Path) -> None:
    export, kept = ask(engine, tmp_path), ask(engine, tmp_path)
    exporter = an_exporter(engine)
    exporter.sweep()
    with engine.begin() as db:
        background_exports.delete(db, export.id, who="ben", why=None)
    exporter.sweep()
    assert names(tmp_path) == [kept.file_name]


def test_files_are_deleted_after_the_days_that_are_set_and_the_audit_says_so(engine: Engine, tmp_path: Path) -> None:
    export = ask(engine, tmp_path)
    an_exporter(engine).sweep()
    change(engine, export, "finished_at = now() - interval '1000 days'")
    an_exporter(engine, retention_days=0).sweep()
    assert names(tmp_path) == [export.file_name]
    an_exporter(engine, retention_days=999).sweep()
    assert names(tmp_path) == []
    assert look(engine, export).status == "expired"
    with engine.connect() as db:
        [entry] = audit.list_audit(db)
    assert (entry.who, entry.action, entry.detail["file"]) == ("upkeep", "export.expire", export.file_name)


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(engine: Engine, bucket: type[Bucket]) -> None:
    export = ask(engine, "bucket://b")
    exporter = an_exporter(engine)
    exporter.sweep()
    with engine.begin() as db:
        background_exports.delete(db, export.id, who="ben", why=None)
    bucket.fault = PermissionError("Access Denied")
    exporter.sweep()
    failure = look(engine, export).failure
    assert failure is not None
    assert failure.startswith("its file cannot be removed, which is tried again: 'bucket://b' cannot be used: Access")
    bucket.fault = None
    exporter.sweep()
    assert len(bucket.objects) == 1
    change(engine, export, "held_until = clock_timestamp() - interval '1 s'")
    exporter.sweep()
    assert bucket.objects == {}


@pytest.mark.parametrize("asked_by", ["a directory elsewhere", "a link", "another scheme"])
def test_what_was_asked_for_elsewhere_is_written_nowhere(engine: Engine, tmp_path: Path, asked_by: str) -> None:
    """Whoever wrote the row: the worker has its own setting."""
    exports, elsewhere = tmp_path / "exports", tmp_path / "elsewhere"
    exports.mkdir()
    elsewhere.mkdir()
    (exports / "link").symlink_to(elsewhere)
    links = {"a directory elsewhere": str(elsewhere), "a link": str(exports / "link")}
    export = ask(engine, links.get(asked_by, f"ftp:{elsewhere}"))
    an_exporter(engine, exports=exports).sweep()
    expected = "exports go to a directory, or to s3://" if asked_by == "another scheme" else "set CASELOG_EXPORT_URL"
    assert expected in failure_of(engine, export)
    assert names(elsewhere) == []
    assert names(exports) == ["link"]
