"""`rebuild` writes projections anew while recorders record; interrupted anywhere, the old ones stay in force."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from support.builders.strategies import deliveries, event_sets
from support.oracle.proof import RULES, add_up_reports, assert_verified, uncounted, what_differs
from support.oracle.stored import body, count, dump, what_stands
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import created, event, eventually

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.recording.store import GATE
from caselog.schema.sessions.connection import make_engine
from caselog.schema.verification import rebuild as rebuilding
from caselog.schema.verification import session as proof
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.verification.rebuild import UnknownPart, get_parts, rebuild, repair
from caselog.workers.verification.verify import Verification

Json = dict[str, Any]
TESTS = Path(__file__).parents[2]
EVERYTHING = ("timers", "cases", "reports")
RUIN = """
    delete from "case" where hashtext(reference) % 2 = 0;
    update "case" set billable_time = 1, provider = 'edited', category = 'edited', memory = '{}';
    delete from timer where id % 2 = 0;
    update timer set stopped_at = started_at, case_reference = null;
    update log set timer_id = null, suppressed = true, category = 'edited' where id % 3 = 0;
    delete from report_sum where code = 'REFSP';
    update report_sum set n1 = 100;
    delete from callback where log_id % 2 = 0;
    update assignment set provider = 'edited', viewed_at = now();
    insert into complaint (log_id, case_reference, created_at, holding_letter_due_at, closing_due_at, voided)
    values (0, 'NO-SUCH', now(), now(), now(), false);
"""
RUIN_CASES = """
    delete from "case" where hashtext(reference) % 2 = 0;
    update "case" set billable_time = 1, provider = 'edited', category = 'edited', memory = '{}';
    update log set suppressed = true, category = 'edited' where id % 3 = 0;
    delete from report_sum;
"""
EVERY_TABLE = 'log, "case", timer, dead_letter, parked, report_outbox, report_sum, callback, complaint, assignment'
# A rebuild that is killed at a named point: while it folds, or when all is written and nothing is committed.
KILLED = """
import os, signal, sys
from contextlib import contextmanager
from support.oracle.proof import RULES
from caselog.events.model.registry import autodiscover
from caselog.schema.verification import rebuild as rebuilding
from caselog.workers.verification.rebuild import rebuild
from caselog.workers.verification.verify import Verification

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def dying(what, total):
    yield die

@contextmanager
def uncounted(what, total):
    yield lambda logs: None

url, point = sys.argv[1:]
autodiscover()
if point == "writing":
    write = rebuilding.write
    rebuilding.write = lambda *given: die(write(*given))
with Verification(url, RULES) as verification:
    rebuild(verification, ("timers", "cases", "reports"), dying if point == "folding" else uncounted)
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine) -> Recording:
    autodiscover()
    return Recording(engine, event_registry, RULES)


@pytest.fixture
def history(database_url: str, recording: Recording) -> str:
    """A database with a history, at rest."""
    recording.record([decode(body(*simulate(40, 3)))])
    add_up_reports(database_url)
    return database_url


def execute(database_url: str, statement: str) -> None:
    with psycopg.connect(database_url) as db:
        db.execute(statement.encode())


def run(database_url: str, *parts: str) -> dict[str, int]:
    with Verification(database_url, RULES) as verification:
        return rebuild(verification, parts or EVERYTHING, uncounted)


def tables_that_differ(database_url: str) -> set[str]:
    """The tables of findings, and `reports` for what the aggregator writes."""
    tables = {difference.table for difference in what_differs(database_url)}
    return {name if name in {"timer", "log", "case"} else "reports" for name in tables}


def test_what_is_ruined_is_written_anew(history: str) -> None:
    before = what_stands(history)
    execute(history, RUIN)
    assert what_stands(history) != before
    assert all(run(history).values())
    assert what_stands(history) == before
    assert_verified(history)


def test_a_category_that_is_put_right_takes_with_it_what_its_case_added(history: str) -> None:
    """The reports by the present category had followed the wrong one; no log differs."""
    before = report_sums(history)
    execute(history, "update \"case\" set category = 'edited' where category is not null")
    run(history, "reports")
    ruined = report_sums(history)
    assert {row[0] for row in ruined ^ before} == {"case_volume", "contacts_per_case"}
    assert run(history, "cases")["case"]
    assert report_sums(history) == before
    assert_verified(history)


def test_a_case_that_was_lost_and_is_created_again_takes_with_it_what_it_had_added(
    database_url: str, recording: Recording
) -> None:
    """While its row is gone, its logs count under no category; whoever creates it again tells the reports."""
    recording.record([decode(body(created("AB-1"), event("suspend_case", "TERM", "AB-1")))])
    add_up_reports(database_url)
    execute(database_url, 'delete from "case"')
    recording.record([decode(body(created("AB-1", "2026-03-02T12:00:00Z", data={"context": {"category": "debt"}})))])
    add_up_reports(database_url)
    contacts = {row[4]: row[-2] for row in report_sums(database_url) if row[0] == "contacts_per_case"}
    assert contacts == {"debt": 1}
    run(database_url)
    assert_verified(database_url)


def report_sums(database_url: str) -> set[tuple[Any, ...]]:
    """The rows of sums that are not nothing."""
    return {row for row in dump(database_url)["report_sum"] if any(row[-3:])}


def test_tables_that_were_emptied_are_written_anew(history: str) -> None:
    before = what_stands(history)
    execute(history, 'truncate "case", timer, report_sum')
    run(history)
    assert what_stands(history) == before
    assert_verified(history)


def test_what_is_right_is_not_written(history: str) -> None:
    before = dump(history)
    assert not any(run(history).values())
    assert dump(history) == before


@pytest.mark.unproven  # edits rows by hand and leaves some
@pytest.mark.parametrize(
    ("part", "left"),
    [
        ("timers", {"case", "log", "reports"}),  # of the log, the flags are left
        ("cases", {"timer", "log"}),  # of the log, the timers are left; reports follow the cases' flags
    ],
)
def test_one_part_is_written_anew_and_the_others_stay(history: str, part: str, left: set[str]) -> None:
    execute(history, RUIN)
    run(history, part)
    assert tables_that_differ(history) == left


def test_parts_one_after_the_other_are_the_whole(history: str) -> None:
    before = what_stands(history)
    execute(history, RUIN)
    for part in random.Random(1).sample(EVERYTHING, 3):
        run(history, part)
    assert what_stands(history) == before
    assert_verified(history)


def test_the_report_is_counted_anew_and_counts_what_is_under_way_once(history: str, recording: Recording) -> None:
    recording.record([decode(body(*simulate(5, 99)))])
    assert count(history, "report_outbox")
    execute(history, "delete from report_sum where code = 'REFSP'; update report_sum set n1 = 0")
    run(history, "reports")
    assert count(history, "report_outbox") == 0
    assert_verified(history)


def test_parts_are_known_by_name() -> None:
    assert get_parts([]) == EVERYTHING
    assert get_parts(["reports", "timers"]) == ("timers", "reports")
    with pytest.raises(UnknownPart, match="Did you mean 'cases'"):
        get_parts(["case"])


# --- while recorders record ---


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rebuilt_while_recorders_record_everything_is_what_the_log_says(
    history: str, recording: Recording, seed: int
) -> None:
    """Two recorders record shuffled events, the same ones, while the ruined projections are rebuilt again and again."""
    events = list(simulate(60, seed))
    failures: list[BaseException] = []
    done = [threading.Event(), threading.Event()]

    def record(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        shuffled = rng.sample(events, len(events))
        try:
            while shuffled:
                size = rng.randint(1, 15)
                recording.record([decode(body(*shuffled[:size]))])
                shuffled = shuffled[size:]
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)
        done[number].set()

    threads = [threading.Thread(target=record, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    rounds = 0
    while not all(event.is_set() for event in done):
        # Alone: an edit takes its locks in whatever order, and might find itself in a deadlock with a recorder.
        edit = "update \"case\" set provider = 'edited' where hashtext(reference) % 3 = 0"
        execute(history, f"select pg_advisory_xact_lock({GATE}); {edit}")
        execute(history, "update report_sum set n1 = 100 where code = 'REFSP'")
        run(history)
        rounds += 1
    for thread in threads:
        thread.join()
    assert not failures
    assert rounds > 1
    while recording.retry_parked().recorded:
        pass
    run(history)
    assert_verified(history)
    handled = what_stands(history)
    for one in events:
        identity = (one["source"], one["id"])
        assert identity in handled.logs or identity in handled.refused or identity in handled.waiting


@pytest.mark.parametrize("proved", ["everything", "one case"])
def test_a_timer_that_is_ended_twice_at_the_last_moment_ran_on_before(
    database_url: str, recording: Recording, proved: str
) -> None:
    """Both ends are new, so what was proved of what came after them was proved with the timer still running."""
    anna: Json = {"data": {"actor": {"id": "anna", "role": "operator"}}}
    started = event("timer", "TIMER_STARTED", None, "2026-03-02T11:00:00Z", **anna)
    under_it = event("case", "CASE_CREATED", "AB-1", "2026-03-02T11:02:00Z", **anna)
    recording.record([decode(body(created("AB-2"), started, under_it))])
    execute(database_url, "update \"case\" set provider = 'edited'")
    with Verification(database_url, RULES) as verification:
        if proved == "everything":
            found = verification.whole(uncounted, marked=True)
        else:
            found = verification.case("AB-1", marked=True)
        assert list(found)
        cancelled = event("timer", "TIMER_CANCELLED", None, "2026-03-02T11:01:00Z", **anna)
        stopped = event("stop_call_me_back", "CBC", "AB-2", "2026-03-02T11:01:01Z", **anna)
        recording.record([decode(body(cancelled, stopped))])
        repair(verification)
    if proved == "one case":
        execute(database_url, "update \"case\" set provider = null where reference = 'AB-2'")
    assert_verified(database_url)


def test_what_was_billed_is_caught_up_with_by_the_timers_of_the_cases_alone(
    database_url: str, recording: Recording
) -> None:
    """While the gate is closed recorders wait, and there may be millions of timers."""
    anna: Json = {"data": {"actor": {"id": "anna", "role": "operator"}}}
    recording.record([decode(body(*simulate(40, 3)))])
    started = event("timer", "TIMER_STARTED", None, "2026-03-02T11:00:00Z", **anna)
    recording.record([decode(body(started, event("case", "CASE_CREATED", "AB-1", "2026-03-02T11:01:00Z", **anna)))])
    execute(database_url, "update timer set stopped_at = started_at where case_reference = 'AB-1'")
    with Verification(database_url, RULES) as verification:
        assert list(verification.whole(uncounted, marked=True))
        stopped = event("stop_call_me_back", "CBC", "AB-1", "2026-03-02T11:01:40Z", **anna)
        recording.record([decode(body(stopped))])
        verification.session.execute("set enable_seqscan = off")  # which a long table of timers would do
        before = timers_read(verification.session)
        with rebuilding.marked_snapshot(verification.session):
            assert verification.catch_up() == 1
        assert timers_read(verification.session) - before < count(database_url, "timer") / 4
        repair(verification)
    assert_verified(database_url)
    with psycopg.connect(database_url) as db:
        billed = db.execute("select billable_time from \"case\" where reference = 'AB-1'").fetchone()
    assert billed == (100,)


def timers_read(session: proof.Session) -> int:
    """How many rows of timers were read so far, by whatever way."""
    session.execute("select pg_stat_force_next_flush()")
    session.execute("select pg_stat_clear_snapshot()")
    row = session.execute(
        "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where relname = 'timer'"
    ).fetchone()
    assert row is not None
    read: int = row[0]
    return read


def test_repairing_one_case_leaves_the_billed_time_of_another_whose_log_lost_its_timer(
    database_url: str, recording: Recording
) -> None:
    """Only what touches the one case was proved: the other's logs may not lead to its timers."""
    bert: Json = {"data": {"actor": {"id": "bert", "role": "operator"}}}
    recording.record([
        decode(body(
            created("AB-1"),
            event("timer", "TIMER_STARTED", None, "2026-03-02T11:00:00Z", **bert),
            event("case", "CASE_CREATED", "AB-2", "2026-03-02T11:01:00Z", **bert),
            event("stop_call_me_back", "CBC", "AB-2", "2026-03-02T11:01:40Z", **bert),
        ))
    ])  # fmt: skip
    execute(database_url, "update \"case\" set provider = 'edited' where reference = 'AB-1'")
    execute(database_url, "update log set timer_id = null where case_reference = 'AB-2'")
    with Verification(database_url, RULES) as verification:
        assert list(verification.case("AB-1", marked=True))
        recording.record([decode(body(event("case", "CASE_VIEWED", "AB-2", "2026-03-02T12:00:00Z")))])
        repair(verification)
    with psycopg.connect(database_url) as db:
        billed = db.execute("select billable_time from \"case\" where reference = 'AB-2'").fetchone()
    assert billed == (100,)
    run(database_url)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ruin", [RUIN_CASES, RUIN])
def test_what_is_recorded_between_the_fold_and_the_swap_is_in_the_new_version(
    database_url: str, recording: Recording, monkeypatch: pytest.MonkeyPatch, ruin: str
) -> None:
    """Any events at the last moment, late ones among them, for cases and timers of which some are wrong."""
    closed, last_moment = rebuilding.gate_closed, list[list[Json]]()

    def crowded(session: proof.Session) -> Any:
        for batch in last_moment:
            recording.record([decode(body(*batch))])
        return closed(session)

    monkeypatch.setattr(rebuilding, "gate_closed", crowded)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        execute(database_url, f"truncate {EVERY_TABLE}")
        delivered = data.draw(deliveries(data.draw(event_sets(most=40))))
        middle = len(delivered) // 2
        for batch in delivered[:middle]:
            recording.record([decode(body(*batch))])
        execute(database_url, ruin)
        last_moment[:] = delivered[middle:]
        run(database_url)
        assert_verified(database_url)

    holds()


def test_while_the_gate_is_closed_recorders_wait_and_then_go_on(history: str, recording: Recording) -> None:
    logs = count(history, "log")
    done = threading.Event()

    def record() -> None:
        recording.record([decode(body(*simulate(2, 50)))])
        done.set()

    thread = threading.Thread(target=record)
    with closing(proof.open_session(history)) as session, rebuilding.gate_closed(session):
        thread.start()
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while session.execute(waiting).fetchone() == (0,):
            assert thread.is_alive()
        assert not done.is_set()
    thread.join(DEADLINE_S)
    assert done.is_set()
    assert count(history, "log") > logs


@pytest.mark.unproven  # edits rows by hand and leaves some
def test_a_recorder_that_stands_still_holds_up_nobody_for_long(history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap gives up, says so, and has written nothing."""
    monkeypatch.setattr(rebuilding, "GATE_WAIT_MS", 20)
    execute(history, RUIN)
    before = dump(history)
    with psycopg.connect(history) as batch:
        batch.execute("select pg_advisory_xact_lock_shared(%s)", (GATE,))
        with pytest.raises(rebuilding.Busy, match="nothing was written"):
            run(history)
    assert dump(history) == before


# --- interrupted, and two at once ---


def test_a_second_rebuild_says_that_one_is_under_way(history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "REBUILD_WAIT_MS", 100)
    refused = pytest.raises(rebuilding.Busy, match="under way")
    with closing(proof.open_session(history)) as session, rebuilding.only_one(session), refused:
        run(history)
    run(history)


@pytest.mark.parametrize("point", ["folding", "writing"])
def test_killed_twice_it_leaves_the_old_version_in_force_and_then_succeeds(history: str, point: str) -> None:
    before = what_stands(history)
    execute(history, RUIN)
    ruined = dump(history)
    environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    for _ in range(2):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, history, point],
            env=environment, capture_output=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert dump(history) == ruined
    run(history)
    assert what_stands(history) == before
    assert_verified(history)


def test_nothing_of_a_rebuild_stays_in_the_database(history: str) -> None:
    """The tables, indexes and comments are the migrations' own, and no other is left."""
    listing = "select relname, relkind, oid from pg_class where relname not like 'pg_%' order by 3"

    def relations() -> list[tuple[Any, ...]]:
        with psycopg.connect(history) as db:
            return db.execute(listing).fetchall()

    before = relations()
    execute(history, RUIN)
    run(history)
    # The server drops the temporary tables of a session when it sees that it was closed.
    eventually(lambda: relations() == before, "the tables are those of before")
