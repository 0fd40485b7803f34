"""What stands in a database, in the words of the reference, so that the two can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection

from caselog.events.model.state import Log
from caselog.schema.recording import store
from support.oracle.reference import Identity, Outcome

# Rows that their first two columns do not tell apart.
_UNORDERED = ("report_sum", "callback", "complaint", "assignment")
_TABLES = ("log", "case", "timer", "dead_letter", "parked", "report_outbox", "audit", "report_export", *_UNORDERED)


def insert_logs(db: Connection, logs: Sequence[Log]) -> None:
    """Append to the log, as a batch does."""
    with store.inserting_logs(db, logs):
        pass


def body(*events: dict[str, Any]) -> bytes:
    """The bytes of a message: one event, or a batch."""
    return json.dumps(events[0] if len(events) == 1 else events, ensure_ascii=False).encode()


def dump(database_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, all columns."""
    with psycopg.connect(database_url) as db:
        return {
            name: db.execute(
                f'select * from "{name}" order by {f"{name}::text" if name in _UNORDERED else "1, 2"}'.encode()
            ).fetchall()
            for name in _TABLES
        }


def count(database_url: str, table: str) -> int:
    return len(dump(database_url)[table])


def dead_letters(database_url: str) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as db:
        return db.execute("select * from dead_letter order by id").fetchall()


def what_stands(database_url: str) -> Outcome:
    """Logs, cases, timers, dead letters, parked events and the report; ids of logs told by (source, event_id)."""
    with psycopg.connect(database_url, row_factory=dict_row) as db:
        db.execute("set timezone = 'UTC'")
        return outcome_of(
            logs=db.execute("select * from log").fetchall(),
            cases=db.execute('select * from "case"').fetchall(),
            timers=db.execute("select * from timer").fetchall(),
            dead=db.execute("select * from dead_letter").fetchall(),
            parked=db.execute("select * from parked").fetchall(),
            report=db.execute(
                "select *, n1 as outcomes from report_sum where report = 'outcomes' and n1 <> 0"
            ).fetchall(),
        )


def outcome_of(
    *,
    logs: Iterable[dict[str, Any]],
    cases: Iterable[dict[str, Any]],
    timers: Iterable[dict[str, Any]],
    dead: Iterable[dict[str, Any]],
    parked: Iterable[dict[str, Any]],
    report: Iterable[dict[str, Any]],
) -> Outcome:
    """Rows in the reference's words."""
    logs = list(logs)
    identities: dict[int, Identity] = {row["id"]: (row["source"], row["event_id"]) for row in logs}
    outcome = Outcome()
    for row in logs:
        same = ("key", "code", "type", "level", "actor", "role", "actor_provider", "notes", "context", "occurred_at")
        derived = ("suppressed", "category", "provider", "organisation", "case_source")
        timer = None if row["timer_id"] is None else identities[row["timer_id"]]
        entry = {name: row[name] for name in (*same, *derived)}
        outcome.logs[identities[row["id"]]] = entry | {"case": row["case_reference"], "timer": timer}
    for row in cases:
        left_out = ("modified_at", "last_log_time", "last_log_source", "last_log_event_id", "memory")
        case = {name: value for name, value in row.items() if name not in left_out}
        if case["outcome_code_id"] is not None:
            case["outcome_code_id"] = identities[case["outcome_code_id"]]
        outcome.cases[case["reference"]] = case
    for row in timers:
        plain = {name: row[name] for name in ("actor", "started_at", "stopped_at", "cancelled")}
        outcome.timers[identities[row["id"]]] = plain | {"case": row["case_reference"]}
    outcome.refused = {(row["source"], row["event_id"]): row["reason"] for row in dead}
    outcome.waiting = {(row["source"], row["event_id"]) for row in parked}
    outcome.outcomes = Counter(
        {
            (
                row["day"], row["key"], row["code"], row["category"], row["provider"], row["organisation"],
                row["source"],
            ): row["outcomes"]
            for row in report
        }
    )  # fmt: skip
    return outcome


def assert_same(stands: Outcome, expected: Outcome) -> None:
    """Compare part by part, so that a difference is short to read. `seconds` of a timer is no column: it is billed."""
    timers = {who: {k: v for k, v in t.items() if k != "seconds"} for who, t in expected.timers.items()}
    assert stands.refused == expected.refused
    assert stands.waiting == expected.waiting
    assert stands.logs.keys() == expected.logs.keys()
    for identity, log in expected.logs.items():
        assert stands.logs[identity] == log, identity
    assert stands.timers == timers
    assert stands.cases == expected.cases
    assert stands.outcomes == expected.outcomes
