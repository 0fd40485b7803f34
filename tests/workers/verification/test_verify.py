"""`verify` finds whatever is not what the log says, and nothing else; `--repair` writes what the log says."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from support.builders.strategies import deliveries, event_sets
from support.oracle.proof import RULES, add_up_reports, assert_verified, found, uncounted, what_differs
from support.oracle.stored import body, dump

from caselog.events.errors import EventRejected
from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.message import decode
from caselog.events.model.registry import BUNDLED_APPS, BaseEvent, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.recording.store import GATE
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sql import tables
from caselog.schema.verification.findings import differences
from caselog.schema.verification.session import CASE
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.batch import Recording
from caselog.workers.verification.rebuild import repair
from caselog.workers.verification.verify import Verification

Json = dict[str, Any]
CASES = 40
EVERY_TABLE = 'log, "case", timer, dead_letter, parked, report_outbox, report_sum, callback, complaint, assignment'


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine) -> Recording:
    autodiscover()
    return Recording(engine, event_registry, RULES)


def record(recording: Recording, events: list[Json], *, seed: int = 0) -> None:
    """The events and a fifth of them twice, shuffled, in batches of any size, until none of them waits."""
    rng = random.Random(seed)
    shuffled = events + rng.sample(events, len(events) // 5)
    rng.shuffle(shuffled)
    while shuffled:
        size = rng.randint(1, 200)
        recording.record([decode(body(*shuffled[:size]))])
        shuffled = shuffled[size:]
    while recording.retry_parked().recorded:
        pass


@pytest.fixture(scope="module")
def recorded(make_database: Callable[[str], str], template: str) -> str:
    """The name of a database with a history, at rest, which nobody touches any more."""
    autodiscover()
    url = make_database(template)
    engine = make_engine(url)
    events = list(simulate(CASES, 3))
    of_nobody = {"id": "robot", "source": "/robot", "type": "case", "data": {"code": "COMPLAINT_FLAG_TOGGLED"}}
    record(
        Recording(engine, event_registry, RULES),
        [*events, next(event for event in events if event["type"] == "means_test") | of_nobody],
    )
    engine.dispose()
    add_up_reports(url)
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def history(make_database: Callable[[str], str], recorded: str) -> Iterator[str]:
    """A database of this test's own with that history."""
    url = make_database(recorded)
    yield url
    with psycopg.connect(
        url.replace(f"/{url.partition('?')[0].rpartition('/')[2]}?", "/postgres?"), autocommit=True
    ) as db:
        db.execute(f"drop database {url.partition('?')[0].rpartition('/')[2]} with (force)".encode())


@pytest.fixture
def to_history(history: str) -> Iterator[Recording]:
    """Records in that database."""
    engine = make_engine(history, connections=4)
    yield Recording(engine, event_registry, RULES)
    engine.dispose()


def execute(database_url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as db:
        cursor = db.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def mend(database_url: str) -> dict[str, int]:
    with Verification(database_url, RULES) as verification:
        for _ in verification.whole(uncounted, marked=True):
            pass
        return repair(verification)


def state(database_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that says anything; left out is when a case's row was last written."""
    rows = dump(database_url)
    at = [column.name for column in tables.case.columns].index("modified_at")
    rows["case"] = [(*row[:at], *row[at + 1 :]) for row in rows["case"]]
    rows["report_sum"] = [row for row in rows["report_sum"] if any(row[-3:])]
    return {name: sorted(many, key=repr) for name, many in rows.items()}


# --- nothing is found at rest ---


def test_a_history_recorded_in_any_order_is_what_its_log_says(history: str) -> None:
    assert execute(history, "select count(*) > 300 from log") == [(True,)]
    assert_verified(history)


@pytest.mark.timeout(300)
def test_any_set_of_events_delivered_anyhow_is_what_its_log_says(database_url: str, recording: Recording) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        execute(database_url, f"truncate {EVERY_TABLE}")
        for batch in data.draw(deliveries(data.draw(event_sets()))):
            recording.record([decode(body(*batch))])
        while recording.retry_parked().recorded:
            pass
        assert_verified(database_url)

    holds()


def test_what_the_outbox_holds_is_under_way_and_no_difference(database_url: str, recording: Recording) -> None:
    record(recording, list(simulate(3, 1)))
    assert execute(database_url, "select count(*) > 0 from report_outbox") == [(True,)]
    assert_verified(database_url)


class Moody(BaseEvent):
    """Its rule refuses what it took before: `angry` says when."""

    key = "moody"
    codes = {
        "DONE": {
            "type": LogType.OUTCOME,
            "level": LogLevel.HIGH,
            "selectable_by": [],
            "description": "d",
            "stops_timer": False,
        }
    }
    angry = False

    def apply(self, case: CaseState, log: Log) -> None:
        case.scope_state = log.code
        if Moody.angry:
            raise EventRejected("not any more")


def test_a_stored_log_that_its_rule_refuses_by_now_stands_without_effect(
    history: str, to_history: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = event_registry.snapshot()
    try:
        event_registry.register(Moody)
        [(reference,)] = execute(history, 'select reference from "case" limit 1')
        event = {"specversion": "1.0", "id": "m", "source": "/m", "type": "moody", "subject": reference, "data": {}}
        to_history.record([decode(body(event | {"time": "2026-01-05T10:00:00Z"}))])
        assert_verified(history)
        monkeypatch.setattr(Moody, "angry", True)
        columns = {difference.column for difference in what_differs(history) if difference.table == "case"}
        assert {"scope_state", "outcome_code"} <= columns
    finally:
        event_registry.restore(before)


# --- whatever is edited by hand is found, named and mended ---

_SOME_CASE = 'reference = (select min(reference) from "case" where billable_time > 0)'
_SOME_TIMER = "id = (select min(id) from timer where case_reference is not null)"
_SOME_OUTCOME = "id = (select min(id) from log where type = 'outcome' and level = 29 and not suppressed)"
_SOME_ROW = "ctid = (select min(ctid) from report_sum where report = 'outcomes' and n1 > 0)"

_SOME_CONTACTS = "ctid = (select min(ctid) from report_sum where report = 'contacts_per_case' and n2 > 0)"


def _other_value(name: str) -> str:
    if name == "memory":
        return """'{"call_started": 7}'"""
    by_type: dict[Any, str] = {str: "'edited'", int: "4711", bool: f"not {name}"}
    return by_type.get(tables.case.c[name].type.python_type, "'2001-01-01'")


CASE_EDITS = [
    (f'update "case" set {name} = {_other_value(name)} where {_SOME_CASE}', "case", name)
    for name in CASE
    if name != "reference"
]
OTHER_EDITS = [
    (f'delete from "case" where {_SOME_CASE}', "case", "(row)"),
    ("""insert into "case" (reference, callback_attempt, billable_time, complaint_flag, search_field, state, created_at)
        values ('NO-SUCH', 0, 0, false, '', 'new', now())""", "case", "(row)"),
    (f"update timer set started_at = started_at - interval '1 minute' where {_SOME_TIMER}", "timer", "started_at"),
    (f"update timer set stopped_at = stopped_at + interval '1 minute' where {_SOME_TIMER}", "timer", "stopped_at"),
    (f"update timer set stopped_at = null where {_SOME_TIMER}", "timer", "stopped_at"),
    (f"update timer set cancelled = not cancelled where {_SOME_TIMER}", "timer", "cancelled"),
    (f"update timer set actor = 'nobody' where {_SOME_TIMER}", "timer", "actor"),
    (f"update timer set case_reference = 'NO-SUCH' where {_SOME_TIMER}", "timer", "case_reference"),
    (f"delete from timer where {_SOME_TIMER}", "timer", "(row)"),
    ("insert into timer values (-1, 'op-01', '2025-01-06', '2025-01-07', false, null)", "timer", "(row)"),
    (f"""insert into timer select id, actor, occurred_at, null, false, null from log
         where {_SOME_OUTCOME} and actor is not null""", "timer", "(row)"),
    ("update log set timer_id = null where id = (select min(id) from log where timer_id is not null)",
     "log", "timer_id"),
    ("update log set timer_id = 1 where id = (select min(id) from log where actor is null)", "log", "timer_id"),
    (f"update log set suppressed = true where {_SOME_OUTCOME}", "log", "suppressed"),
    (f"update log set category = 'edited' where {_SOME_OUTCOME}", "log", "category"),
    (f"update log set provider = 'edited' where {_SOME_OUTCOME}", "log", "provider"),
    (f"update log set organisation = 'edited' where {_SOME_OUTCOME}", "log", "organisation"),
    (f"update log set case_source = 'edited' where {_SOME_OUTCOME}", "log", "case_source"),
    ("update log set category = 'edited' where id = (select min(id) from log where case_reference is null)",
     "log", "category"),
    (f"update report_sum set n1 = n1 + 1 where {_SOME_ROW}", "report_outcomes", "outcomes"),
    (f"delete from report_sum where {_SOME_ROW}", "report_outcomes", "outcomes"),
    ("insert into report_sum values ('outcomes', '2025-01-06', 'no', 'such', null, null, null, null, null, 2, 0, 0)",
     "report_outcomes", "outcomes"),
    ("""insert into report_outbox (deltas, case_references, sums) values
        (1, '{}', '[["outcomes", "2025-01-06", "k", "c", null, null, null, null, null, -1, 0, 0]]')""",
     "report_outcomes", "outcomes"),
    ("update report_sum set n2 = n2 - 1 where ctid = (select min(ctid) from report_sum where report = 'case_volume')",
     "report_case_volume", "web_callback_only"),
    (f"update report_sum set n2 = n2 + 1 where {_SOME_CONTACTS}", "report_contacts_per_case", "contacts"),
    (f"update log set case_created_at = case_created_at - interval '1 day' where {_SOME_OUTCOME}",
     "log", "case_created_at"),
    ("update callback set first_contact_at = now() where log_id = (select min(log_id) from callback)",
     "callback", "first_contact_at"),
    ("delete from callback where log_id = (select max(log_id) from callback)", "callback", "(row)"),
    ("insert into assignment (log_id, case_reference, assigned_at) values (0, 'no such case', now())",
     "assignment", "(row)"),
    ("update assignment set accepted_at = assigned_at where log_id = (select min(log_id) from assignment)",
     "assignment", "accepted_at"),
]  # fmt: skip


# One column of the case stands for all of them, but for whoever has the time.
QUICK_EDITS = CASE_EDITS[:1] + OTHER_EDITS
SLOW_EDITS = [pytest.param(*edit, marks=pytest.mark.slow) for edit in CASE_EDITS[1:]]


@pytest.mark.parametrize(("edit", "table", "column"), [*QUICK_EDITS, *SLOW_EDITS])
def test_an_edit_by_hand_is_found_and_named_and_mended(history: str, edit: str, table: str, column: str) -> None:
    """The one value that was edited is told, and after the repair every table is as it was."""
    before = state(history)
    execute(history, edit)
    assert state(history) != before

    told = what_differs(history)
    assert [(difference.table, difference.column) for difference in told] == [(table, column)]
    mend(history)

    assert state(history) == before
    assert_verified(history)


def test_a_difference_names_the_log_entry_that_gave_the_value(history: str) -> None:
    [(reference, log_id, key, code, moment)] = execute(
        history,
        f"""select reference, log.id, log.key, log.code, log.occurred_at
            from "case" join log on log.id = outcome_code_id where {_SOME_CASE}""",
    )
    execute(history, 'update "case" set outcome_code = null where reference = %s', reference)
    [difference] = what_differs(history)
    assert (difference.case, difference.stored, difference.fresh) == (reference, None, code)
    assert difference.log is not None
    assert (difference.log.id, difference.log.key, difference.log.code) == (log_id, key, code)
    assert difference.log.occurred_at == moment


def test_a_log_whose_case_nothing_creates_is_found_and_its_case_is_not_thrown_away(history: str) -> None:
    [(reference,)] = execute(history, f'select reference from "case" where {_SOME_CASE}')
    execute(history, "delete from log where code = 'CASE_CREATED' and case_reference = %s", reference)
    told = [difference for difference in what_differs(history) if difference.table == "log"]
    assert {(difference.case, difference.column) for difference in told} == {(reference, "case_reference")}
    mend(history)
    assert execute(history, 'select 1 from "case" where reference = %s', reference) == [(1,)]


def test_everything_wrong_at_once_is_mended(history: str) -> None:
    before = state(history)
    execute(
        history,
        """delete from "case"; delete from timer; delete from report_sum;
                        update log set timer_id = null, suppressed = not suppressed, category = 'x', provider = null""",
    )
    mend(history)
    assert_verified(history)
    assert state(history) == before


def test_two_processes_find_what_one_finds(history: str) -> None:
    execute(
        history, 'delete from timer where id % 3 = 0; update "case" set level = 1; update log set suppressed = true'
    )

    def told(processes: int) -> set[str]:
        return {repr(finding) for finding in found(history, apps=BUNDLED_APPS, processes=processes)}

    assert len(told(1)) > 40
    assert told(2) == told(1)


def test_one_case_is_proved_with_the_timers_that_touch_it(history: str) -> None:
    [(reference, timer)] = execute(
        history,
        f'select reference, timer.id from "case" join timer on case_reference = reference where {_SOME_CASE} limit 1',
    )
    execute(history, 'update "case" set level = 7')
    execute(history, "update timer set cancelled = true where id = %s", timer)
    with Verification(history, RULES) as verification:
        told = [d for finding in verification.case(reference, marked=True) for d in differences(finding)]
        assert {(d.table, d.name, d.column) for d in told} == {
            ("case", reference, "level"), ("timer", timer, "cancelled"),
        }  # fmt: skip
        repair(verification)
    still = what_differs(history)
    assert still
    assert all(difference.table == "case" and difference.case != reference for difference in still)


# --- while a recorder works ---


@contextmanager
def recording_meanwhile(recording: Recording, events: list[Json]) -> Iterator[threading.Event]:
    """Records in small batches in another thread; the event tells that all of it is recorded."""
    done, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            for start in range(0, len(events), 7):
                recording.record([decode(body(*events[start : start + 7]))])
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        thread.join()
    assert not failures


def test_verify_finds_nothing_while_a_recorder_works(database_url: str, recording: Recording) -> None:
    events = list(simulate(60, 4))
    random.Random(1).shuffle(events)
    with recording_meanwhile(recording, events) as done:
        rounds = 0
        while not done.is_set() or rounds == 0:
            assert_verified(database_url)
            rounds += 1


def test_edits_are_mended_while_a_recorder_works(history: str, to_history: Recording) -> None:
    [(before,)] = execute(history, "select count(*) from log")
    events = list(simulate(80, 9))
    random.Random(2).shuffle(events)
    with recording_meanwhile(to_history, events) as done:
        rounds = 0
        while not done.is_set() or rounds == 0:
            # Alone: an edit takes its locks in whatever order, and might find itself in a deadlock with the recorder.
            execute(
                history,
                f"""select pg_advisory_xact_lock({GATE});
                   update "case" set provider = 'edited', billable_time = 1 where hashtext(reference) % 3 = 0;
                   update log set suppressed = true, category = 'edited' where id % 11 = 0;
                   update report_sum set n1 = n1 + 1 where code = 'SPOP'""",
            )
            mend(history)
            rounds += 1
    while to_history.retry_parked().recorded:
        pass
    mend(history)
    assert_verified(history)
    handled = "select (select count(*) from log) + (select count(*) from dead_letter) + (select count(*) from parked)"
    assert execute(history, handled) == [(len(events) + before,)]


@pytest.mark.slow
@pytest.mark.unproven  # its log is made by SQL
def test_memory_does_not_grow_with_the_log(database_url: str) -> None:
    """Ten times the logs, all of one actor and each with a difference, in no more memory."""
    autodiscover()

    def peak_bytes(logs: int) -> int:
        execute(
            database_url,
            """
            insert into log (id, source, event_id, key, code, type, level, actor, occurred_at, timer_id)
            select n, '/m', n::text, 'timer', case n %% 2 when 1 then 'TIMER_STARTED' else 'TIMER_CANCELLED' end,
                   'system', 11, 'op-1', timestamptz '2026-01-05' + n * interval '1 second', 1
            from generate_series((select coalesce(max(id), 0) + 1 from log), %s) as n
            """,
            logs,
        )
        with Verification(database_url, RULES) as verification:
            tracemalloc.start()
            many = sum(1 for _ in verification.whole(uncounted))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert many >= logs
        return peak

    small = peak_bytes(5_000)
    assert peak_bytes(50_000) < 1.5 * small
