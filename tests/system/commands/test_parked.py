"""`caselog parked` from end to end: what waits is seen, tried at once, or discarded, and the audit says so."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from support.oracle.stored import body, count, dead_letters, dump
from support.processes.pipeline import Pipeline, created, event

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.operations import audit
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.settings import load_settings


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def park(engine: Engine, *events: dict[str, Any]) -> None:
    """Record these events, as a recorder does: those whose case is not there are parked."""
    autodiscover()
    recording = Recording(engine, event_registry, make_rules(load_settings()))
    for one in events:
        recording.record([decode(body(one))])


def lines(said: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def test_what_waits_is_listed_by_event_and_by_case_with_when_it_is_given_up(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    redis_pipeline.settings["CASELOG_PARKED_GIVE_UP_S"] = "7200"
    late = [
        event("accept_case", "SPOP", case, id=f"late-{number}", data={"notes": "SECRET"})
        for number, case in enumerate(("AB-1", "AB-1", "AB-2"))
    ]
    park(engine, *late)
    found = lines(redis_pipeline.run("parked", "list", "--json").stdout)
    assert [(one["case_reference"], one["event_id"]) for one in found] == [(e["subject"], e["id"]) for e in late]
    with psycopg.connect(database_url) as db:
        [(is_so,)] = db.execute(
            "select bool_and(parked_at + interval '2 h' = any(%s::timestamptz[])) from parked",
            [[one["give_up_at"] for one in found]],
        )
    assert is_so
    for option, value, many in (
        ("--case", "AB-1", 2), ("--key", "no", 0), ("--source", late[0]["source"], 3), ("--until", "2020-01-01", 0),
        ("--since", "2020-01-01", 3), ("--limit", "1", 1),
    ):  # fmt: skip
        assert len(lines(redis_pipeline.run("parked", "list", option, value, "--json").stdout)) == many, option
    groups = lines(redis_pipeline.run("parked", "list", "--group", "--json").stdout)
    assert [(one["case_reference"], one["events"], one["is_there"]) for one in groups] == [
        ("AB-1", 2, False),
        ("AB-2", 1, False),
    ]
    shown = redis_pipeline.run("parked", "show", str(found[0]["id"]))
    assert (shown.returncode, b"SECRET" in shown.stdout, b"6 characters" in shown.stdout) == (0, False, True)
    shown = redis_pipeline.run("parked", "show", str(found[0]["id"]), "--reveal", "--why", "asked")
    assert b"SECRET" in shown.stdout
    with engine.connect() as db:
        [entry] = audit.list_audit(db)
    assert (entry.action, entry.why, entry.detail) == (
        "parked.reveal",
        "asked",
        {"ids": [found[0]["id"]], "cases": ["AB-1"]},
    )


def test_a_case_or_its_absence_says_what_waits_for_it(redis_pipeline: Pipeline, engine: Engine) -> None:
    park(engine, *(event("accept_case", "SPOP", "AB 1", id=f"late-{number}") for number in range(3)))
    said = rb"3 events wait for this case since \S+Z \(given up from \S+Z on\): caselog parked list --case 'AB 1'\n"
    for command in ("case", "log", "explain"):
        done = redis_pipeline.run(command, "AB 1")
        assert done.returncode == 1
        assert re.fullmatch(rb"caselog: there is no case 'AB 1'\. References are exact\. " + said, done.stderr), done
    assert b"no event waits for it" in redis_pipeline.run("case", "AB-2").stderr
    park(engine, created("AB 1"))
    for command in ("case", "log", "explain"):
        done = redis_pipeline.run(command, "AB 1", "--json")
        assert done.returncode == 0
        json.loads(done.stdout)
        assert re.fullmatch(
            rb"3 events wait for this case since \S+Z \(tried again within seconds\): .*\n", done.stderr
        )
    redis_pipeline.drain_reports()


def test_a_retry_says_what_became_of_each(redis_pipeline: Pipeline, engine: Engine, database_url: str) -> None:
    """Recorded, still waiting and dead: without any worker, whenever they were due."""
    park(engine, *(event("accept_case", "SPOP", case) for case in ("AB-1", "AB-2", "AB-3")))
    park(engine, created("AB-1"))
    with psycopg.connect(database_url) as db:
        db.execute("update parked set due_at = now() + interval '1 h'")
        db.execute("update parked set parked_at = now() - interval '2 d' where case_reference = 'AB-3'")
    done = redis_pipeline.run("parked", "retry", "--all")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"this asks first" in done.stderr
    before = dump(database_url)
    done = redis_pipeline.run("parked", "retry", "--all", "--dry-run", "--json")
    assert len(lines(done.stdout)) == 3
    assert done.stderr == b"3 parked events would be tried; nothing was done\n"
    assert dump(database_url) == before

    done = redis_pipeline.run("parked", "retry", "--all", "--yes", "--why", "now", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, b"")
    assert {name: report[name] for name in ("recorded", "duplicate", "waiting", "dead", "elsewhere")} == {
        "recorded": 1, "duplicate": 0, "waiting": 1, "dead": 1, "elsewhere": 0,
    }  # fmt: skip
    assert [(one["became"], one["reason"]) for one in report["events"]] == [
        ("recorded", ""), ("waiting", ""), ("dead", "unknown_case"),
    ]  # fmt: skip
    assert (count(database_url, "log"), count(database_url, "parked"), len(dead_letters(database_url))) == (2, 1, 1)
    with engine.connect() as db:
        [entry] = audit.list_audit(db)
    assert (entry.action, entry.why, entry.detail["cases"]) == ("parked.retry", "now", ["AB-1", "AB-2", "AB-3"])
    assert {name: entry.detail[name] for name in ("chosen", "recorded", "waiting", "dead")} == {
        "chosen": 3, "recorded": 1, "waiting": 1, "dead": 1,
    }  # fmt: skip
    waits = str(report["events"][1]["id"])
    done = redis_pipeline.run("parked", "retry", waits)  # who names ids is not asked
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, b"1 parked event: 1 still waiting for its case")
    redis_pipeline.drain_reports()


def test_while_recording_is_paused_a_retry_says_so_and_tries_nothing(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    park(engine, event("accept_case", "SPOP", "AB-1"))
    redis_pipeline.run("pause", "--why", "the database moves")
    before = dump(database_url)
    done = redis_pipeline.run("parked", "retry", "--case", "AB-1", "--yes")
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"caselog: recording is paused by .*the database moves.*caselog resume\n", done.stderr)
    assert dump(database_url) == before


def test_what_is_discarded_is_gone_and_the_audit_keeps_its_fingerprint(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    gone = event("accept_case", "SPOP", "AB-1", data={"notes": "SECRET"})
    park(engine, gone, event("accept_case", "SPOP", "AB-2"))
    for what in ("discard", "retry"):
        done = redis_pipeline.run("parked", what, "--case", "AB-404")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"no parked event matches; nothing was done\n", b"")
    done = redis_pipeline.run("parked", "discard")
    assert b"say which: ids, a filter" in done.stderr
    assert redis_pipeline.run("parked", "discard", "999999", "--yes").stderr.startswith(
        b"caselog: there is no parked event 999999"
    )
    assert b"this asks first" in redis_pipeline.run("parked", "discard", "--case", "AB-1").stderr
    assert count(database_url, "parked") == 2
    done = redis_pipeline.run("parked", "discard", "--case", "AB-1", "--yes", "--why", "misspelt")
    assert (done.returncode, done.stdout) == (0, b"1 parked event discarded\n")
    assert count(database_url, "parked") == 1
    with engine.connect() as db:
        [entry] = audit.list_audit(db)
    assert (entry.action, entry.why, entry.detail["filter"]) == ("parked.discard", "misspelt", {"case": "AB-1"})
    [kept] = entry.detail["events"]
    assert (kept["event_id"], kept["fingerprint"]) == (gone["id"], hashlib.sha256(body(gone)).hexdigest())
    assert "SECRET" not in json.dumps(entry.detail)
    park(engine, created("AB-1"))
    assert (count(database_url, "log"), count(database_url, "parked")) == (1, 1)
    redis_pipeline.drain_reports()
