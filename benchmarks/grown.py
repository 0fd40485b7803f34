"""A database with millions of logs, made in minutes: simulated journeys are recorded, then copied in SQL.

Each copy has cases, operators, ids and timers of its own, and everything that is folded from its log with it: cases,
timers, facts and sums. So `caselog verify` finds nothing, as if all of it had been recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg

from caselog.events.model.message import decode
from caselog.events.model.registry import event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.settings import load_settings
from caselog.workers.tasks.aggregator import Aggregator

SEED = 20_000
SPAN = 2 * SEED  # more ids than recording the seed can use up
BATCH = 1000
# Before what is recorded then, whose operators are the same: nothing is to come late.
BEFORE = timedelta(weeks=10 * 52)
_VIEWED = f"""
    case when memory ? 'viewed_timers' then jsonb_set(memory, array['viewed_timers'], (
        select jsonb_agg(timer::bigint + n * {SPAN} order by position)
        from jsonb_array_elements_text(memory->'viewed_timers') with ordinality as viewed(timer, position)
    )) else memory end
"""
_NAME, _ID = "{0} || '-' || n", f"{{0}} + n * {SPAN}"
# Two other letters for each copy: copies of a case lie anywhere among the cases, as new ones do, and not side by side.
_CASE = "chr(65 + n % 26) || chr(65 + (n + ascii(substr({0}, 2))) % 26) || substr({0}, 3) || '-' || n"
# Tables, and the columns that make a copy of a row another row: n is the number of the copy.
COPIED = {
    "log": {"id": _ID, "event_id": _NAME, "case_reference": _CASE, "actor": _NAME, "timer_id": _ID},
    "case": {
        "reference": _CASE, "outcome_code_id": _ID, "search_field": f"replace({_CASE.format('reference')}, '-', '')",
        "last_log_event_id": _NAME, "memory": _VIEWED,
    },
    "timer": {"id": _ID, "actor": _NAME, "case_reference": _CASE},
    "callback": {"log_id": _ID, "case_reference": _CASE},
    "complaint": {"log_id": _ID, "case_reference": _CASE},
    "assignment": {"log_id": _ID, "case_reference": _CASE},
}  # fmt: skip


def grow(database_url: str, logs: int) -> int:
    """Fill an empty database with about so many logs of ten years before. Returns how many there are."""
    seed = [msgspec.json.encode(_earlier(event)) for event in simulate(min(SEED, logs) // 8, 3)][: min(SEED, logs)]
    rules = make_rules(load_settings())
    engine = make_engine(database_url)
    recording = Recording(engine, event_registry, rules)
    for start in range(0, len(seed), BATCH):
        recording.record([decode(b"[" + b",".join(seed[start : start + BATCH]) + b"]")])
    Aggregator(engine, event_registry, rules).add_all_up()
    engine.dispose()
    copies = logs // len(seed)
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("set maintenance_work_mem = '512MB'")
        with without_indexes(db):
            for table, changed in COPIED.items():
                columns = [row[0] for row in db.execute(_COLUMNS, [table]).fetchall()]
                values = [changed.get(name, "{0}").format(f'"{name}"') for name in columns]
                into = ", ".join(f'"{name}"' for name in columns)
                db.execute(
                    f'insert into "{table}" ({into}) select {", ".join(values)} '
                    f'from generate_series(1, {copies - 1}) as n, "{table}"'.encode()
                )
        db.execute(f"update report_sum set n1 = n1 * {copies}, n2 = n2 * {copies}, n3 = n3 * {copies} "
                   "where operator is null".encode())  # fmt: skip
        columns = [row[0] for row in db.execute(_COLUMNS, ["report_sum"]).fetchall()]
        values = [_NAME.format(name) if name == "operator" else name for name in columns]
        db.execute(
            f"insert into report_sum ({', '.join(columns)}) select {', '.join(values)} "
            f"from generate_series(1, {copies - 1}) as n, report_sum where operator is not null".encode()
        )
        db.execute("select setval('log_id_2_seq', (select max(id) from log))")
        db.execute("vacuum analyze")
        db.execute("checkpoint")
    return copies * len(seed)


_COLUMNS = "select column_name from information_schema.columns where table_name = %s order by ordinal_position"


@contextmanager
def without_indexes(db: psycopg.Connection[Any]) -> Iterator[None]:
    """Within, the copied tables have neither indexes nor keys; afterwards as before, each built in one go."""
    keys = db.execute(
        "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint "
        "where contype in ('p', 'u') and conrelid in (select oid from pg_class where relname = any(%s))",
        [list(COPIED)],
    ).fetchall()
    for table, name, _ in keys:
        db.execute(f"alter table {table} drop constraint {name}".encode())
    indexes = db.execute(
        "select indexname, indexdef from pg_indexes where tablename = any(%s)", [list(COPIED)]
    ).fetchall()
    for name, _ in indexes:
        db.execute(f"drop index {name}".encode())
    yield
    for table, name, definition in keys:
        db.execute(f"alter table {table} add constraint {name} {definition}".encode())
    for _, definition in indexes:
        db.execute(definition.encode())


def _earlier(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"time": (datetime.fromisoformat(str(event["time"])) - BEFORE).isoformat()}
