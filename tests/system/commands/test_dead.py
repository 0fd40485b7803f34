"""`caselog dead` from end to end: what it asks, says and does, and that a kill at any moment loses nothing."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine
from support.oracle.stored import body, count, dead_letters, dump
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import ROOT, Pipeline, created, event, eventually
from support.servers.children import start_child

from caselog.schema.recording import dead_letters as deadletters
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.sessions.connection import make_engine
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.tasks.wakeup import UPKEEP, WakeUp

HOSTILE = "\x1b]0;owned\x07[red]x[/red]\u202e\nfake row"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def set_aside(engine: Engine, *events: dict[str, Any], reason: str = "unknown_code") -> None:
    """Dead letters of these events, as a recorder leaves them that knows neither of their codes."""
    with engine.begin() as db:
        for one in events:
            letter = DeadLetter(
                reason=reason,
                message=f"code {one['data'].get('code')!r} is not registered",
                raw=body(one),
                source=one["source"],
                event_id=one["id"],
                key=one["type"],
                code=one["data"].get("code"),
                case_reference=one["subject"],
            )
            deadletters.set_aside(db, [letter])


def answered(pipeline: Pipeline, answer: bytes, *arguments: str) -> tuple[int, bytes, bytes]:
    """The command with a terminal for its questions, and this answer typed: status, stdout and what was asked."""
    ours, theirs = pty.openpty()
    with start_child(
        [*caselog_program(), *arguments],
        env=pipeline.environment(),
        cwd=ROOT,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        asked = b""
        while b"[y/N]" not in asked:
            asked += os.read(ours, 1000)
        os.write(ours, answer + b"\n")
        assert process.stdout is not None
        said = process.stdout.read()
        status = process.wait(DEADLINE_S)
    os.close(ours)
    return status, said, asked


def test_requeued_events_are_recorded_and_what_failed_again_is_reported_with_its_reason(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    set_aside(engine, created("AB-1"), event("accept_case", "SPOP", "AB-1"), event("accept_case", "SPOB", "AB-1"))
    set_aside(engine, event("accept_case", "SPOP", "AB-2"), reason="failed")
    done = redis_pipeline.run("dead", "requeue", "--reason", "unknown_code", "--yes", "--why", "new", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, b"")
    assert (report["chosen"], report["recorded"], report["failed"]) == (3, 2, 1)
    [failure] = report["failures"]
    assert failure["reason"] == "unknown_code"
    assert "Did you mean 'SPOP'?" in failure["message"]
    [left, other] = dead_letters(database_url)
    assert (failure["id"], left["attempts"], other["attempts"]) == (left["id"], 2, 1)

    done = redis_pipeline.run("dead", "requeue", str(left["id"]), str(other["id"]))  # who names ids is not asked
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (1, b"")
    assert said.startswith("2 dead letters: 1 parked until its case is created, 1 failed again\n")
    assert re.search(rf"{left['id']} .*unknown_code.*SPOB", said)
    done = redis_pipeline.run("dead", "requeue", "--key", "no-such-key", "--yes")
    assert (done.returncode, done.stdout) == (0, b"no dead letter matches; nothing was done\n")
    assert (count(database_url, "log"), count(database_url, "parked")) == (2, 1)
    redis_pipeline.drain_reports()


def test_a_dry_run_says_how_many_and_which_and_changes_nothing(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    set_aside(engine, created("AB-1"), event("accept_case", "SPOP", "AB-1"), created("AB-2"))
    before = dump(database_url)
    for what in ("requeue", "discard"):
        done = redis_pipeline.run("dead", what, "--case", "AB-1", "--dry-run", "--json")
        assert [json.loads(line)["case_reference"] for line in done.stdout.splitlines()] == ["AB-1", "AB-1"]
        assert (
            done.stderr
            == f"2 dead letters would be {what}{'d' if what == 'requeue' else 'ed'}; nothing was done\n".encode()
        )
        assert done.returncode == 0
    assert dump(database_url) == before


@pytest.mark.parametrize("what", ["requeue", "discard"])
def test_what_was_not_confirmed_is_not_done(
    what: str, redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    set_aside(engine, created("AB-1"), created("AB-2"))
    before = dump(database_url)
    done = redis_pipeline.run("dead", what, "--all")
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"caselog: this asks first.*nothing was done\. Add --yes.*\n", done.stderr)
    done = redis_pipeline.run("dead", what)
    assert re.fullmatch(rb"caselog: .*say which: ids, a filter.*or --all.*\n", done.stderr)
    done = redis_pipeline.run("dead", what, "--yes", "999999")
    assert (done.returncode, done.stderr.partition(b" (")[0]) == (1, b"caselog: there is no dead letter 999999")
    status, said, asked = answered(redis_pipeline, b"n", "dead", what, "--all")
    assert (status, said) == (1, b"")
    assert b"2 dead letters" in asked
    assert dump(database_url) == before
    status, said, _ = answered(redis_pipeline, b"y", "dead", what, "--all")
    assert (status, count(database_url, "dead_letter")) == (0, 0)
    assert said == {"requeue": b"2 dead letters: 2 recorded\n", "discard": b"2 dead letters discarded\n"}[what]
    done = redis_pipeline.run("dead", what, "--all")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"no dead letter matches; nothing was done\n", b"")
    redis_pipeline.drain_reports()


def test_personal_data_is_masked_unless_revealed_and_who_looked_is_in_the_audit(
    redis_pipeline: Pipeline, engine: Engine
) -> None:
    secret = {name: {"secret": "secret"} for name in ("context", "params", "patch")}
    data = {"notes": "secret", **secret, "extra": "secret", "context": {}}
    set_aside(engine, event("accept_case", "SPOB", "AB-1", data=data, own="secret"))
    with engine.begin() as db:
        deadletters.set_aside(db, [DeadLetter(reason="malformed", message="m", raw=b"secret, not JSON")])
        deadletters.set_aside(db, [DeadLetter(reason="malformed", message="m", raw=b'["secret"]')])
    first, second, third = (row["id"] for row in dead_letters(redis_pipeline.database_url))
    ids = [str(first), str(second), str(third)]
    masked = [
        redis_pipeline.run("dead", "show", *ids),
        redis_pipeline.run("dead", "show", "--json", *ids),
        redis_pipeline.run("dead", "list"),
        redis_pipeline.run("dead", "list", "--json"),
    ]
    assert all(done.returncode == 0 and b"secret" not in done.stdout for done in masked)
    shown = [json.loads(line)["raw"] for line in masked[1].stdout.splitlines()]
    event_shown = json.loads(shown[0])
    assert event_shown["data"]["code"] == "SPOB"
    assert event_shown["data"]["notes"] == "*** 6 characters"
    assert event_shown["data"]["context"] == {}
    assert shown[1:] == ["16 bytes, not JSON", "10 bytes, no JSON object"]
    whole = masked[0].stdout.decode()
    copied = whole[whole.index("\n{\n") + 1 : whole.index("\n}\n") + 2]  # as somebody copies it from the terminal
    assert (json.loads(copied), copied) == (event_shown, shown[0])

    done = redis_pipeline.run("dead", "show", "--reveal", "--why", "asked", "--json", *ids[:2], CASELOG_OPERATOR="anna")
    raws = [json.loads(line)["raw"] for line in done.stdout.splitlines()]
    assert json.loads(raws[0])["data"]["notes"] == "secret"
    assert raws[1] == "secret, not JSON"
    assert b"secret" in redis_pipeline.run("export", "dead", CASELOG_OPERATOR="ben").stdout
    done = redis_pipeline.run("audit", "list", "--json", "--action", "dead")
    export, entry = [json.loads(line) for line in done.stdout.splitlines()]
    assert (export["who"], export["action"]) == ("ben", "dead.export")
    assert (entry["who"], entry["action"], entry["why"]) == ("anna", "dead.reveal", "asked")
    assert entry["detail"] == {"ids": [first, second], "cases": ["AB-1"]}


def test_faults_are_listed_the_busiest_first_and_a_fault_can_be_requeued(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    set_aside(engine, event("accept_case", "SPOB", "AB-9"), *(created(f"AB-{number}") for number in range(3)))
    done = redis_pipeline.run("dead", "list", "--group", "--json")
    many, one = (json.loads(line) for line in done.stdout.splitlines())
    assert (many["letters"], many["code"], one["letters"], one["code"]) == (3, "CASE_CREATED", 1, "SPOB")
    assert many["message"] == "code 'CASE_CREATED' is not registered"
    done = redis_pipeline.run("dead", "requeue", "--fault", many["fault"], "--yes")
    assert (done.returncode, count(database_url, "log"), count(database_url, "dead_letter")) == (0, 3, 1)


def test_what_a_sender_wrote_does_no_harm_in_any_list(redis_pipeline: Pipeline, engine: Engine) -> None:
    set_aside(engine, {**event(HOSTILE, HOSTILE, HOSTILE), "source": HOSTILE, "id": HOSTILE})
    for arguments in (
        ["dead", "list"],
        ["dead", "list", "--group"],
        ["dead", "requeue", "--all", "--dry-run"],
        ["dead", "requeue", "--all", "--yes", "--why", HOSTILE],
        ["dead", "discard", "--source", HOSTILE, "--yes", "--why", HOSTILE],
        ["audit", "list"],
    ):
        said = redis_pipeline.run(*arguments, CASELOG_OPERATOR=HOSTILE).stdout.decode()
        assert said
        assert all(char.isprintable() or char == "\n" for char in said)
        if arguments[0] == "dead":
            assert "\nfake row" not in said


@pytest.mark.slow
def test_killed_again_and_again_a_requeue_records_each_event_once(
    redis_pipeline: Pipeline, engine: Engine, database_url: str
) -> None:
    """At whatever instruction the command dies, each event is in the log or a dead letter, and never both."""
    cases = [f"AB-{number}" for number in range(3000)]
    set_aside(engine, *map(created, cases))
    chance = random.Random(7)
    kills = 0
    with psycopg.connect(database_url, autocommit=True) as db:
        while count_of(db, "dead_letter"):
            before = count_of(db, "dead_letter")
            command = start_child(
                [*caselog_program(), "dead", "requeue", "--all", "--yes"],
                env=redis_pipeline.environment(),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while command.poll() is None and kills < 4 and count_of(db, "dead_letter") == before:
                time.sleep(0.001)
            if command.poll() is None and kills < 4:
                time.sleep(chance.random() / 20)
                command.kill()
                kills += 1
            command.wait(DEADLINE_S)
            assert count_of(db, "log") + count_of(db, "dead_letter") == len(cases)
            row = db.execute("select count(*) from log join dead_letter using (event_id)").fetchone()
            assert row == (0,)
        told = db.execute("select sum((detail ->> 'recorded')::int) from audit").fetchone()
    assert kills >= 2
    assert told == (len(cases),)


def count_of(db: psycopg.Connection[Any], table: str) -> int:
    row = db.execute(f"select count(*) from {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_the_tasks_worker_discards_what_is_older_than_the_setting_says(
    redis_pipeline: Pipeline, engine: Engine, database_url: str, redis_url: str
) -> None:
    set_aside(engine, created("AB-1"), created("AB-2"))
    with psycopg.connect(database_url) as db:
        db.execute("update dead_letter set received_at = received_at - interval '8 days' where case_reference = 'AB-1'")
    redis_pipeline.start("tasks", CASELOG_DEAD_LETTER_RETENTION_DAYS="7")
    with Redis.from_url(redis_py_url(redis_url)) as client:
        WakeUp(client)(UPKEEP)
    eventually(lambda: count(database_url, "dead_letter") == 1, "the old one is discarded")
    assert [row["case_reference"] for row in dead_letters(database_url)] == ["AB-2"]
    done = redis_pipeline.run("audit", "list", "--json")
    assert json.loads(done.stdout)["action"] == "dead.expire"
