"""Exports in the background as rows: whose turn it is, who holds one, and what becomes of it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, text

from caselog.schema.operations import audit, background_exports
from caselog.schema.operations.background_exports import ATTEMPTS, Export, NoExport
from caselog.schema.reports.catalogue import REPORTS, get_report
from caselog.schema.reports.reading import Reading

READING = Reading(
    report=get_report("case_volume"),
    first=date(2026, 1, 1),
    last=date(2026, 11, 30),
    by="month",
    where={"category": "debt", "source": None},
    now=datetime(2026, 12, 1, 9, 30, 0, 123456, tzinfo=UTC),
    zone=ZoneInfo("Europe/London"),
)


def ask(engine: Engine, reading: Reading = READING) -> Export:
    with engine.begin() as db:
        return background_exports.request(db, reading, form="csv", target="/exports", who="anna")


def look(engine: Engine, export: Export) -> Export:
    with engine.begin() as db:
        return background_exports.get_export(db, export.id)


def claim(engine: Engine) -> Export | None:
    with engine.begin() as db:
        return background_exports.claim(db)


def claimed(engine: Engine) -> Export:
    export = claim(engine)
    assert export is not None
    return export


def done(engine: Engine) -> Export:
    """One that is done."""
    ask(engine)
    export = claimed(engine)
    with engine.begin() as db:
        assert background_exports.finishing(db, export)
        background_exports.finish(db, export, rows=3, size=99)
    return look(engine, export)


def let_the_hold_run_out(engine: Engine, export: Export) -> None:
    with engine.begin() as db:
        db.execute(
            text("update report_export set held_until = clock_timestamp() - interval '1 s' where id = :id"),
            {"id": export.id},
        )


def entries(engine: Engine) -> list[tuple[str, str, str | None, Any]]:
    with engine.begin() as db:
        return [(e.who, e.action, e.why, e.detail["export"]) for e in audit.list_audit(db)]


def removals(engine: Engine) -> list[int]:
    with engine.begin() as db:
        return [export.id for export in background_exports.claim_removals(db)]


def test_what_is_read_is_what_was_asked_with_the_moment_of_asking(engine: Engine) -> None:
    """Whoever reads it and whenever: a retry gives the same answer."""
    export = ask(engine)
    assert look(engine, export).reading == READING
    assert (export.status, export.format, export.target, export.who) == ("queued", "csv", "/exports", "anna")
    assert not export.is_over


def test_a_files_name_says_what_it_is_and_is_safe_everywhere(engine: Engine) -> None:
    export = ask(engine)
    assert export.file_name == f"case_volume_2026-01-01_2026-11-30_{export.id}.csv"
    for name in REPORTS:
        assert re.fullmatch(r"[a-z0-9_]+", name)


def test_a_request_that_is_rolled_back_is_none(engine: Engine) -> None:
    with engine.connect() as db:
        background_exports.request(db, READING, form="csv", target="/exports", who="anna")
        db.rollback()
    assert claim(engine) is None


def test_each_is_begun_by_one_alone_the_oldest_first(engine: Engine) -> None:
    """Also while another transaction is about to begin one and has not committed yet: nobody waits for it."""
    first, second = ask(engine), ask(engine)
    with engine.begin() as db:
        one = background_exports.claim(db)
        other = claimed(engine)
        assert claim(engine) is None
    assert one is not None
    assert (one.id, other.id) == (first.id, second.id)
    assert one.holder != other.holder
    assert (one.status, one.attempts) == ("running", 1)


def test_one_whose_hold_has_run_out_is_begun_anew_and_the_old_holder_has_no_say_any_more(engine: Engine) -> None:
    ask(engine)
    old = claimed(engine)
    with engine.begin() as db:
        assert background_exports.renew(db, old, 500)
    assert look(engine, old).rows == 500
    assert claim(engine) is None
    let_the_hold_run_out(engine, old)
    new = claimed(engine)
    assert (new.id, new.attempts, new.rows) == (old.id, 2, 0)
    assert new.started_at == old.started_at
    with engine.begin() as db:
        assert not background_exports.renew(db, old, 900)
        assert not background_exports.finishing(db, old)
        background_exports.finish(db, old, rows=900, size=1)
        background_exports.fail(db, old, "no", rows=900)
        background_exports.release(db, old)
    assert look(engine, new) == new


def test_nobody_takes_over_or_cancels_while_a_file_is_published(engine: Engine) -> None:
    """Between the file and the word that it is done, the row is locked, whatever the clock says."""
    ask(engine)
    export = claimed(engine)
    let_the_hold_run_out(engine, export)
    with engine.begin() as db:
        assert background_exports.finishing(db, export)
        assert claim(engine) is None
        with engine.connect() as other:
            other.execute(text("set local lock_timeout = '100ms'"))
            with pytest.raises(Exception, match="lock timeout"):
                background_exports.delete(other, export.id, who="ben", why=None)
        background_exports.finish(db, export, rows=7, size=70)
    found = look(engine, export)
    assert (found.status, found.rows, found.bytes, found.failure) == ("done", 7, 70, None)
    assert claim(engine) is None


def test_one_that_is_left_by_a_worker_that_stops_waits_again_as_if_it_had_not_been_begun(engine: Engine) -> None:
    ask(engine)
    export = claimed(engine)
    with engine.begin() as db:
        background_exports.release(db, export)
    assert (look(engine, export).status, look(engine, export).attempts) == ("queued", 0)
    assert claimed(engine).id == export.id


def test_one_that_ends_its_worker_every_time_fails_at_last_and_says_so(engine: Engine) -> None:
    ask(engine)
    for _ in range(ATTEMPTS):
        with engine.begin() as db:
            assert background_exports.give_up(db) == []
        export = claimed(engine)
        with engine.begin() as db:
            assert background_exports.give_up(db) == []
        let_the_hold_run_out(engine, export)
    with engine.begin() as db:
        [given_up] = background_exports.give_up(db)
    assert claim(engine) is None
    assert given_up.status == "failed"
    assert given_up.failure is not None
    assert f"{ATTEMPTS} times" in given_up.failure
    assert "memory" in given_up.failure


def test_deleting_cancels_what_is_not_done_and_the_audit_says_who_and_why(engine: Engine) -> None:
    ready = done(engine)
    running = (ask(engine), claimed(engine))[1]
    queued = ask(engine)
    for export, becomes in ((queued, "cancelled"), (running, "cancelled"), (ready, "deleted")):
        with engine.begin() as db:
            assert background_exports.delete(db, export.id, who="ben", why="asked in error").status == becomes
        assert look(engine, export).is_over
    assert claim(engine) is None
    with engine.begin() as db:
        assert not background_exports.renew(db, running, 10)
    assert entries(engine) == [
        ("ben", "export.delete", "asked in error", ready.id),
        ("ben", "export.cancel", "asked in error", running.id),
        ("ben", "export.cancel", "asked in error", queued.id),
    ]


def test_what_failed_or_was_cancelled_can_be_deleted_and_keeps_its_reason(engine: Engine) -> None:
    failed = (ask(engine), claimed(engine))[1]
    cancelled = (ask(engine), claimed(engine))[1]
    with engine.begin() as db:
        background_exports.fail(db, failed, "no room: make some", rows=1)
        background_exports.delete(db, cancelled.id, who="ben", why=None)
    for export in (failed, cancelled):
        with engine.begin() as db:
            assert background_exports.delete(db, export.id, who="anna", why="in the way").status == "deleted"
        let_the_hold_run_out(engine, export)
    assert look(engine, failed).failure == "no room: make some"
    assert entries(engine)[0] == ("anna", "export.delete", "in the way", cancelled.id)
    assert removals(engine) == [failed.id, cancelled.id]


def test_what_is_gone_cannot_be_deleted_again(engine: Engine) -> None:
    ready = done(engine)
    with engine.begin() as db:
        background_exports.delete(db, ready.id, who="ben", why=None)
    with engine.connect() as db:
        with pytest.raises(NoExport, match=f"export {ready.id} is deleted already"):
            background_exports.delete(db, ready.id, who="ben", why=None)
        with pytest.raises(NoExport, match=r"there is no export 404\. See: caselog exports list"):
            background_exports.delete(db, 404, who="ben", why=None)
    assert len(entries(engine)) == 1


def test_what_is_done_expires_after_its_days_and_the_audit_says_so(engine: Engine) -> None:
    old, young = done(engine), done(engine)
    with engine.begin() as db:
        db.execute(
            text("update report_export set finished_at = now() - interval '7 days 1 hour' where id = :id"),
            {"id": old.id},
        )
        assert background_exports.expire(db, 0) == 0
        assert background_exports.expire(db, 8) == 0
        assert background_exports.expire(db, 7) == 1
    assert (look(engine, old).status, look(engine, young).status) == ("expired", "done")
    assert entries(engine) == [("upkeep", "export.expire", "older than CASELOG_EXPORT_RETENTION_DAYS=7", old.id)]


def test_a_file_is_to_be_removed_until_somebody_says_that_it_is(engine: Engine) -> None:
    """By one worker at a time; one that dies at it is followed by another, later."""
    ready, other = done(engine), done(engine)
    assert removals(engine) == []
    with engine.begin() as db:
        background_exports.delete(db, ready.id, who="ben", why=None)
    assert removals(engine) == [ready.id]
    assert removals(engine) == []
    with engine.begin() as db:
        background_exports.not_removed(db, ready.id, "read-only")
    assert look(engine, ready).failure == "read-only"
    let_the_hold_run_out(engine, ready)
    assert removals(engine) == [ready.id]
    with engine.begin() as db:
        background_exports.removed(db, ready.id)
    let_the_hold_run_out(engine, ready)
    assert removals(engine) == []
    assert look(engine, other).status == "done"


def test_nobody_tidies_up_after_a_running_one_before_its_worker_must_have_noticed(engine: Engine) -> None:
    ask(engine)
    running = claimed(engine)
    with engine.begin() as db:
        background_exports.delete(db, running.id, who="ben", why=None)
    assert removals(engine) == []
    let_the_hold_run_out(engine, running)
    assert removals(engine) == [running.id]


def test_the_newest_are_listed_first(engine: Engine) -> None:
    exports = [ask(engine) for _ in range(3)]
    with engine.begin() as db:
        assert background_exports.list_exports(db, limit=2) == [exports[2], exports[1]]
