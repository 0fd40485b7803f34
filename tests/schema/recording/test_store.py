"""Each statement of the store, on a real PostgreSQL: what it gives back, and how two recorders meet."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from support.oracle.stored import insert_logs
from support.processes.patience import DEADLINE_S

from caselog.events.model.state import CaseState, Log, TimerState
from caselog.schema.recording import history, store
from caselog.schema.sql.copy import broke

pytestmark = pytest.mark.unproven  # these write rows without a fold

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
_ids = itertools.count(1)


def a_log(event_id: str, *, minute: int = 0, source: str = "/test", **fields: Any) -> Log:
    at = NINE + timedelta(minutes=minute)
    defaults: dict[str, Any] = {"key": "case", "code": "CASE_VIEWED", "type": "system", "level": 11}
    return Log(id=next(_ids), source=source, event_id=event_id, occurred_at=at, **(defaults | fields))


def a_case(reference: str = "AB-1", **columns: Any) -> CaseState:
    return CaseState(reference=reference, source="PHONE", created_at=NINE, **columns)


def a_full_case() -> CaseState:
    """A case that has a value in every column, none of them the default."""
    later = [NINE + timedelta(minutes=minute) for minute in range(1, 6)]
    return CaseState(
        reference="É-1", category="debt", source="WEB", organisation="org", outcome_code="SPOP", outcome_code_id=2**40,
        level=29, requires_action_by=None, requires_action_at=later[0], callback_attempt=2, provider="prov-1",
        provider_assigned_at=later[1], provider_viewed=later[2], provider_accepted=later[3], provider_closed=later[4],
        billable_time=2**40, complaint_flag=True, eligibility_state="yes", scope_state="in", from_case="old",
        search_field="É1 Ann", created_at=NINE, last_log=(later[4], "/test", "é"), last_outcome="2026-03-02 a b ",
        viewed_timers=(3, 4), call_started=True, open_complaints=("", "c-1"), called_back=True,
        callback_code="CB1",
    )  # fmt: skip


# --- what is written is what is read ---


def test_a_case_comes_back_as_it_was_written(engine: Engine) -> None:
    """Every column, what the fold remembers included; inserted first, then updated."""
    full = a_full_case()
    for field in CaseState.__struct_fields__:
        if field not in ("reference", "requires_action_by"):
            assert getattr(full, field) != getattr(CaseState(reference="É-1"), field), f"{field} proves nothing"
    with engine.begin() as db:
        store.insert_cases(db, [full, a_case()])
        assert store.lock_cases(db, ["É-1", "AB-1", "NO"]) == {"É-1": full, "AB-1": a_case()}
    plain = CaseState(reference="É-1", source="SMS", created_at=NINE)
    with engine.begin() as db:
        store.update_cases(db, [plain])
    with engine.begin() as db:
        assert store.lock_cases(db, ["É-1"]) == {"É-1": plain}


def test_a_log_comes_back_as_it_was_written(engine: Engine) -> None:
    full = a_log(
        "1", case="AB-1", actor="op-1", role="operator", actor_provider="prov-1", notes="two\nlines",
        context={"a": [1, None, {"é": "\\u00e9"}]}, patch=[{"op": "add"}], extensions={"traceparent": "00-1"},
        timer_id=5, suppressed=True, category="debt", provider="prov-2", organisation="org", case_source="WEB",
    )  # fmt: skip
    plain = a_log("2", case="AB-1")
    with engine.begin() as db:
        insert_logs(db, [full, plain])
        logs = history.case_logs(db, ["AB-1", "AB-2"])
    assert sorted(logs["AB-1"], key=lambda log: log.event_id) == [full, plain]
    assert logs["AB-2"] == []


def test_only_what_is_derived_of_a_log_is_ever_rewritten(engine: Engine) -> None:
    log = a_log("1", case="AB-1", notes="as written")
    changed = {"timer_id": 9, "suppressed": True, "category": "c", "provider": "p", "organisation": "o"}
    with engine.begin() as db:
        insert_logs(db, [log])
        for name, value in changed.items():
            setattr(log, name, value)
        log.notes = "changed"
        store.rewrite_logs(db, [log])
        [stands] = history.case_logs(db, ["AB-1"])["AB-1"]
    assert stands.notes == "as written"
    assert {name: getattr(stands, name) for name in changed} == changed


def test_timers_run_until_they_are_stopped(engine: Engine) -> None:
    timer = TimerState(id=7, actor="op-1", started_at=NINE, case="AB-1")
    with engine.begin() as db:
        store.insert_timers(db, [timer, TimerState(id=8, actor="op-2", started_at=NINE)])
        assert store.running_timers(db, ["op-1", "nobody"]) == {"op-1": timer}
        timer.stopped_at, timer.cancelled = NINE + timedelta(minutes=1), True
        store.update_timers(db, [timer])
        assert store.running_timers(db, ["op-1"]) == {}
        assert history.timers(db, [7, 99]) == [timer]
        store.delete_timers(db, [7])
        assert history.timers(db, [7, 8]) == [TimerState(id=8, actor="op-2", started_at=NINE)]


def test_an_actor_has_one_running_timer(engine: Engine) -> None:
    """The database itself refuses a second one, whatever the fold should think."""
    with pytest.raises(IntegrityError, match="timer_running_idx"), engine.begin() as db:
        store.insert_timers(db, [TimerState(id=n, actor="op-1", started_at=NINE) for n in (1, 2)])


def test_the_clock_is_the_databases_and_ids_are_fresh_and_ascend(engine: Engine) -> None:
    with engine.begin() as db:
        now, first = store.clock_and_ids(db, 3)
        again, second = store.clock_and_ids(db, 3)
        assert now == again == db.execute(text("select now()")).scalar_one()
        _, none = store.clock_and_ids(db, 0)
    assert [*first, *second] == sorted({*first, *second})
    assert (len(first), none) == (3, [])


# --- exactly once ---


def test_a_batch_that_holds_an_event_of_the_log_is_told(engine: Engine) -> None:
    """Source and id together tell events apart."""
    with engine.begin() as db:
        insert_logs(db, [a_log("1"), a_log("2"), a_log("1", source="/other")])
    with engine.connect() as db:
        insert_logs(db, [a_log("3")])
        with pytest.raises(IntegrityError) as raised:
            insert_logs(db, [a_log("4"), a_log("2")])
        assert broke(raised.value) in store.TAKEN
    with engine.begin() as db:
        asked = [("/test", "1"), ("/test", "5"), ("/other", "2"), ("/other", "1")]
        assert store.recorded_events(db, asked) == {("/test", "1"), ("/other", "1")}


def test_of_two_transactions_that_create_a_case_the_second_is_told(engine: Engine) -> None:
    """It waits for the first to end, then is told; where the first is rolled back, it creates the case."""
    for reference, first_commits in (("AB-1", True), ("AB-2", False)):
        first = engine.connect()
        transaction = first.begin()
        store.insert_cases(first, [a_case(reference)])

        def second(reference: str = reference) -> bool:
            try:
                with engine.begin() as db:
                    store.insert_cases(db, [a_case(reference), a_case(f"{reference}-other")])
            except IntegrityError as error:
                return broke(error) not in store.TAKEN
            return True

        with ThreadPoolExecutor(1) as threads:
            created = threads.submit(second)
            _until_somebody_waits(engine)
            assert not created.done()
            (transaction.commit if first_commits else transaction.rollback)()
            assert created.result(timeout=DEADLINE_S) is not first_commits
        first.close()


@pytest.mark.parametrize("locks_actors", [True, False])
def test_recorders_with_overlapping_batches_never_deadlock(engine: Engine, *, locks_actors: bool) -> None:
    """Whatever the order in which a batch names its actors and cases, the locks are taken in one order."""
    names = [f"{letter}{n}" for letter in ("a", "B", "é") for n in range(10)]
    with engine.begin() as db:
        store.insert_cases(db, [a_case(name) for name in names])
    together = threading.Barrier(2)

    def record(order: list[str]) -> None:
        together.wait(timeout=DEADLINE_S)
        for _ in range(40):
            with engine.begin() as db:
                if locks_actors:
                    store.lock_actors(db, order)
                cases = store.lock_cases(db, order)
                assert len(cases) == len(names)
                for case in cases.values():
                    case.billable_time += 1
                store.update_cases(db, cases.values())

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(record, [names, names[::-1]]))
    with engine.begin() as db:
        assert {case.billable_time for case in store.lock_cases(db, names).values()} == {80}


def test_an_actor_is_locked_until_the_transaction_ends(engine: Engine) -> None:
    first = engine.connect()
    transaction = first.begin()
    store.lock_actors(first, ["op-1", "op-2"])

    def second() -> None:
        with engine.begin() as db:
            store.lock_actors(db, ["op-2", "op-3"])

    with ThreadPoolExecutor(1) as threads:
        locked = threads.submit(second)
        _until_somebody_waits(engine)
        assert not locked.done()
        transaction.commit()
        locked.result(timeout=DEADLINE_S)
    first.close()


def _until_somebody_waits(engine: Engine) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    query = text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
    while datetime.now(UTC) < deadline:
        with engine.begin() as db:
            if db.execute(query).scalar_one():
                return
    raise AssertionError("nobody waits for a lock")


# --- what late events look up ---

# Of one actor, in order; some at one instant, where source and then id decide, by code points.
_STORY = [("/a", "1", 0), ("/B", "9", 1), ("/a", "10", 1), ("/a", "9", 1), ("/é", "1", 1), ("/a", "2", 2)]


def _story() -> list[Log]:
    logs = [a_log(event_id, source=source, minute=minute, actor="op-1") for source, event_id, minute in _STORY]
    assert logs == sorted(logs, key=lambda log: log.order_key)
    for log, log_id in zip(logs, sorted((log.id for log in logs), reverse=True), strict=True):
        log.id = log_id  # ids tell nothing of the order
    return logs


def test_the_last_log_of_an_actor_is_the_last_in_order(engine: Engine) -> None:
    logs = _story()
    with engine.begin() as db:
        for arrived, log in enumerate(logs[3:] + logs[:3]):
            insert_logs(db, [log, a_log(f"other {arrived}", minute=9, actor="op-2")])
            expected = logs[min(3 + arrived, len(logs) - 1)].order_key
            assert history.last_logs(db, ["op-1", "nobody"]) == {"op-1": expected}


def test_a_stretch_of_an_actors_log_has_both_its_ends(engine: Engine) -> None:
    logs = _story()
    stretches: list[history.Stretch] = []
    for first, last in itertools.combinations_with_replacement(range(len(logs)), 2):
        stretches.append(("op-1", logs[first].order_key, logs[last].order_key))
    open_ended: list[history.Stretch] = [("op-1", log.order_key, None) for log in logs]
    with engine.begin() as db:
        insert_logs(db, [*reversed(logs), a_log("other", minute=1, actor="op-2")])
        found = history.actor_logs(db, [*stretches, *open_ended, ("nobody", logs[0].order_key, None)])
    pairs = itertools.combinations_with_replacement(range(len(logs)), 2)
    assert found == [logs[a : b + 1] for a, b in pairs] + [logs[n:] for n in range(len(logs))] + [[]]


def test_the_next_log_of_some_codes_comes_after_the_moment_itself(engine: Engine) -> None:
    logs = _story()
    logs[3].key, logs[3].code = "suspend_case", "TERM"
    moments = [("op-1", log.order_key) for log in logs] + [("nobody", logs[0].order_key)]
    with engine.begin() as db:
        insert_logs(db, logs)
        found = history.next_logs(db, moments, [("suspend_case", "TERM"), ("timer", "TIMER_CANCELLED")])
        assert found == [logs[3].order_key] * 3 + [None] * 4
        assert history.next_logs(db, moments, []) == [None] * 7


def test_a_timer_covers_its_first_and_last_instant(engine: Engine) -> None:
    """Of several that cover an instant, the one whose start is the first in order, not the first recorded."""
    late, early = a_log("2", minute=5, actor="op-1"), a_log("1", minute=5, actor="op-1")
    first = a_log("0", minute=1, actor="op-1")
    minute = [NINE + timedelta(minutes=n) for n in range(10)]
    timers = [
        TimerState(id=first.id, actor="op-1", started_at=minute[1], stopped_at=minute[3]),
        TimerState(id=late.id, actor="op-1", started_at=minute[5]),
        TimerState(id=early.id, actor="op-1", started_at=minute[5], stopped_at=minute[5]),
    ]
    with engine.begin() as db:
        insert_logs(db, [late, early, first])
        store.insert_timers(db, timers)
        found = history.covering_starts(db, [("op-1", moment) for moment in minute] + [("op-2", minute[1])])
    expected = (
        dict.fromkeys((1, 2, 3), first.order_key) | {5: early.order_key} | dict.fromkeys(range(6, 10), late.order_key)
    )
    assert found == {("op-1", minute[n]): key for n, key in expected.items()}
