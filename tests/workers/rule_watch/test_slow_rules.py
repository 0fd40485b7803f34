"""A rule that takes long, or never returns, costs its own event: nothing else waits for ever (decision 99)."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine
from support.builders.plain_code import FIELDS
from support.oracle.stored import body, count, dead_letters
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, Worker, eventually

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import Message, decode
from caselog.events.model.registry import BaseEvent, EventRegistry, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.operations import dead_letter_queries as letters
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.sessions.connection import make_engine
from caselog.workers.deadletters.requeue import requeue
from caselog.workers.health.liveness import judge
from caselog.workers.recording.batch import Recording
from caselog.workers.roles.up import caselog_program
from caselog.workers.rule_watch.guard import Folding
from caselog.workers.rule_watch.limits import is_overdue
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.telemetry.heartbeat import read_beats

Json = dict[str, Any]

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
RULES = Rules(zone=ZoneInfo("Europe/London"))
LIMIT_S = 1
# Twice the limit, and what a busy machine takes besides.
PATIENT_S = 4 * DEADLINE_S
_numbers = itertools.count(1)


class Wordless(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class SlowCheck(BaseEvent):
    """As its context says, it sleeps where it is asked what it says itself."""

    key = "slow_check"
    codes = {"DONE": FIELDS}

    def check(self, code: str | None, context: Mapping[str, Any]) -> None:  # noqa: ARG002 - as it is called
        time.sleep(context.get("sleeps_s", 0))


class Slow(BaseEvent):
    """Its rule does as its context says: computes, sleeps, or does either for ever and catches what is raised."""

    key = "slow"
    codes = {"DONE": FIELDS}
    is_mended = False

    def apply(self, case: CaseState, log: Log) -> None:
        if self.is_mended:
            return
        how = log.context.get("how")
        if how == "forks":
            os.fork()
        if how == "says no word":
            raise Wordless
        if how == "says too much":
            raise ValueError("x" * 10_000_000)
        if how == "sets what no index holds":
            case.category = "x" * 1_000
        deadline_s = time.thread_time() + log.context.get("computes_s", 0)
        while time.thread_time() < deadline_s:
            pass
        while log.context.get("for_ever"):
            with suppress(Exception):
                time.sleep(0.01)


@pytest.fixture
def registry() -> Iterator[EventRegistry]:
    autodiscover()
    before = event_registry.snapshot()
    event_registry.register(Slow)
    event_registry.register(SlowCheck)
    yield event_registry
    event_registry.restore(before)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, connections=4)
    yield engine
    engine.dispose()


@pytest.fixture
def recording(engine: Engine, registry: EventRegistry) -> Recording:
    return Recording(engine, registry, RULES, folding=Folding(limit_s=LIMIT_S))


def event(key: str, code: str | None = None, *, minute: int = 0, subject: str = "AB-1", **context: Any) -> Json:
    number = str(next(_numbers))
    return {
        "specversion": "1.0",
        "id": number,
        "source": "/test",
        "type": key,
        "subject": subject,
        "time": (NINE + timedelta(minutes=minute)).isoformat(),
        # Notes of its own: a repetition would be suppressed, and its rule not called.
        "data": {"context": context, "notes": number} | ({} if code is None else {"code": code}),
    }


def created(subject: str = "AB-1") -> Json:
    return event("case", "CASE_CREATED", minute=-60, subject=subject)


def message(*events: Json) -> Message:
    return decode(body(*events))


def suspects(database_url: str) -> int:
    with psycopg.connect(database_url) as db:
        row = db.execute("select count(*) from suspect").fetchone()
    assert row is not None
    return int(row[0])


def assert_set_aside(database_url: str, event_id: str, happened: str = "took too long") -> None:
    [letter] = dead_letters(database_url)
    assert (letter["reason"], letter["event_id"]) == ("failed", event_id)
    # Two recorders may be at it at once, each with its strike: a lease is shorter than a rule may take.
    assert re.search(f"{happened}, [2-4] times", letter["message"])
    assert "Mend the rule and requeue" in letter["message"]
    assert suspects(database_url) == 1  # should its message come again


def test_what_a_rule_may_take_is_its_own_processor_time_and_waiting_is_told_from_a_busy_machine() -> None:
    assert is_overdue(held_s=31, computed_s=30, queued_s=0, limit_s=30)
    assert not is_overdue(held_s=29, computed_s=29, queued_s=0, limit_s=30)
    assert is_overdue(held_s=31, computed_s=0.1, queued_s=0, limit_s=30)  # it sleeps
    assert not is_overdue(held_s=300, computed_s=25, queued_s=275, limit_s=30)  # it gets a twelfth of a processor
    assert not is_overdue(held_s=100, computed_s=25, queued_s=0, limit_s=30)
    assert is_overdue(held_s=120, computed_s=25, queued_s=0, limit_s=30)  # it computes and sleeps, by turns


@pytest.mark.parametrize("poison", [{"computes_s": 3600}, {"for_ever": True}])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_rule_that_does_not_return_is_a_dead_letter_and_the_events_around_it_are_recorded(
    database_url: str, recording: Recording, poison: Json, *, in_thread: bool
) -> None:
    bad = event("slow", minute=1, **poison)
    batch = [created(), event("slow"), bad, event("slow", minute=2), created("AB-2"), event("slow", subject="AB-2")]

    def record() -> None:
        recorded = recording.record([message(*batch)])
        assert (recorded.recorded, dict(recorded.dead)) == (5, {"failed": 1})

    if in_thread:
        thread = threading.Thread(target=record)
        thread.start()
        thread.join(PATIENT_S)
        assert not thread.is_alive()
    else:
        record()
    assert count(database_url, "log") == 5
    assert_set_aside(database_url, bad["id"])


def test_a_batch_of_many_slow_rules_is_halved_and_recorded(database_url: str, recording: Recording) -> None:
    """Each is quick enough by itself; together they take longer than the session may stand still."""
    batch = [created(), *(event("slow", minute=n, computes_s=LIMIT_S / 4) for n in range(10))]
    recorded = recording.record([message(*batch)])
    assert (recorded.recorded, dict(recorded.dead)) == (11, {})
    assert suspects(database_url) == 0


def test_a_batch_of_many_slow_checks_is_halved_and_recorded(database_url: str, recording: Recording) -> None:
    """What an event says itself is asked before anything is loaded, and takes its time likewise."""
    batch = [created(), *(event("slow_check", minute=n, sleeps_s=LIMIT_S / 4) for n in range(10))]
    recorded = recording.record([message(*batch)])
    assert (recorded.recorded, dict(recorded.dead)) == (11, {})
    assert suspects(database_url) == 0


def test_a_rule_that_forks_makes_no_second_worker(database_url: str, recording: Recording) -> None:
    bad = event("slow", minute=1, how="forks")
    recorded = recording.record([message(created(), event("slow"), bad, event("slow", minute=2))])
    assert (recorded.recorded, dict(recorded.dead)) == (3, {"failed": 1})
    assert_set_aside(database_url, bad["id"])
    [letter] = dead_letters(database_url)
    assert "os.fork" in letter["message"]
    with suppress(ChildProcessError):  # the copies have ended; nobody else would take note of it
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("says no word", "raised Wordless: (its text cannot be had: SystemExit)"),
        ("says too much", "(of 10,000,000 characters)"),
        ("sets what no index holds", "set case.category to something else than a text of at most 100 characters"),
    ],
)
def test_what_else_a_rule_does_is_its_events_dead_letter_alone(
    database_url: str, recording: Recording, how: str, words: str
) -> None:
    recorded = recording.record([message(created(), event("slow", how=how), event("slow", minute=2))])
    assert (recorded.recorded, dict(recorded.dead)) == (2, {"failed": 1})
    [letter] = dead_letters(database_url)
    assert words in letter["message"]
    assert len(letter["message"]) < 20_000


def test_a_database_that_ends_the_session_meanwhile_is_not_to_blame(database_url: str, registry: EventRegistry) -> None:
    """Its limit is as long as ours: whichever is first, the event is to blame."""
    engine = make_engine(database_url, connections=1, idle_s=1)
    bad = event("slow", for_ever=True)
    recorded = Recording(engine, registry, RULES, folding=Folding(limit_s=1.5)).record([message(created(), bad)])
    engine.dispose()
    assert (recorded.recorded, dict(recorded.dead)) == (1, {"failed": 1})
    assert_set_aside(database_url, bad["id"])


def test_a_late_event_of_a_case_whose_stored_rules_hang_is_a_dead_letter(
    database_url: str, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "is_mended", True)
    recording.record([message(created(), event("slow", minute=5, for_ever=True), created("AB-2"))])
    monkeypatch.setattr(Slow, "is_mended", False)
    late = event("accept_case", "SPOP", minute=1)
    recorded = recording.record([message(event("accept_case", "SPOP", subject="AB-2"), late)])
    assert (recorded.recorded, dict(recorded.dead)) == (1, {"failed": 1})
    assert_set_aside(database_url, late["id"])
    monkeypatch.setattr(Slow, "is_mended", True)  # the proof at the end folds it


def test_a_parked_event_whose_rule_hangs_is_a_dead_letter_and_parked_no_more(
    database_url: str, recording: Recording
) -> None:
    bad = event("slow", for_ever=True)
    recording.record([message(bad)])
    recording.record([message(created())])
    assert recording.retry_parked().dead == {"failed": 1}
    assert count(database_url, "parked") == 0
    assert_set_aside(database_url, bad["id"])


def test_a_requeued_dead_letter_whose_rule_still_hangs_fails_again_and_is_recorded_once_it_is_mended(
    database_url: str, engine: Engine, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.record([message(created(), event("slow", for_ever=True))])
    for mended in (False, True):
        monkeypatch.setattr(Slow, "is_mended", mended)
        wanted = Filter(reason="failed")
        with engine.connect() as db:
            chosen = letters.select(db, wanted)
        report = requeue(engine, recording, chosen, wanted=wanted, who="anna")
        assert (report.recorded, len(report.failures)) == ((1, 0) if mended else (0, 1))
    assert dead_letters(database_url) == []
    assert suspects(database_url) == 0


def test_before_the_migration_a_process_remembers_for_itself(database_url: str, recording: Recording) -> None:
    """A recorder may be newer than the schema; it goes on, and its poison ends all the same."""
    with psycopg.connect(database_url) as db:
        db.execute("drop table suspect")
    recorded = recording.record([message(created(), event("slow", for_ever=True), event("slow", minute=1))])
    assert (recorded.recorded, dict(recorded.dead)) == (2, {"failed": 1})


def test_progress_is_reported_while_a_batch_is_folded(engine: Engine, registry: EventRegistry) -> None:
    steps: list[float] = []
    told: list[str] = []
    folding = Folding(limit_s=30, progress=lambda: steps.append(time.monotonic()), tell=told.append)
    batch = [created(), *(event("slow", minute=n, computes_s=0.5) for n in range(9))]
    Recording(engine, registry, RULES, folding=folding).record([message(*batch)])
    assert len(steps) >= 3
    assert told[0].startswith("folding for ")


# --- as processes ---

APP = """
import asyncio, os, re, signal, time
from caselog.events import BaseEvent, LogLevel, LogType, event_registry


class Hangs(BaseEvent):
    key = "hangs"
    codes = {"DONE": {"type": LogType.OUTCOME, "level": LogLevel.HIGH, "selectable_by": [], "description": "d",
                      "stops_timer": False}}

    def apply(self, case, log):
        how = log.context.get("how")
        if how == "waits" and not os.path.exists(log.context["file"]):
            open(log.context["file"] + ".at it", "w").close()
            while not os.path.exists(log.context["file"]):
                time.sleep(0.05)
        while how == "computes":
            pass
        while how == "catches":
            try:
                while True:
                    pass
            except BaseException:
                pass
        if how == "sleeps":
            time.sleep(3600)
        if how == "ends":
            os._exit(0)
        if how == "closes":
            os.closerange(3, 200)
        if how == "closes sockets":
            for file in range(3, 200):
                link = f"/proc/self/fd/{file}"
                if os.path.islink(link) and os.readlink(link).startswith("socket:"):
                    os.close(file)
        if how == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "cancels":
            raise asyncio.CancelledError
        if how == "interrupts":
            raise KeyboardInterrupt
        if how == "in C":  # holds Python's lock: no thread and no handler runs
            sum(range(10**13))


event_registry.register(Hangs)
"""


@pytest.fixture
def hanging(redis_pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """A pipeline with an app whose rules hang, and a limit of a second."""
    (tmp_path / "hanging").mkdir()
    (tmp_path / "hanging" / "__init__.py").touch()
    (tmp_path / "hanging" / "events.py").write_text(APP)
    redis_pipeline.settings |= {
        "PYTHONPATH": str(tmp_path),
        "CASELOG_APPS": "hanging,caselog.events.apps.legalaid",
        "CASELOG_FOLD_LIMIT_S": str(LIMIT_S),
    }
    return redis_pipeline


@pytest.mark.slow
@pytest.mark.unproven  # a rule that hangs does so for the proof, too
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["computes", "sleeps", "catches", "in C"])
def test_a_supervised_recorder_gets_past_a_rule_that_hangs(hanging: Pipeline, how: str) -> None:
    """Interrupted, or where nothing can interrupt it, replaced: with the event remembered from process to process."""
    bad = event("hangs", how=how)
    hanging.start("recorder", "--processes", "2")
    hanging.publish([created(), bad, event("hangs", minute=1), created("AB-2"), event("hangs", subject="AB-2")])
    eventually(lambda: dead_letters(hanging.database_url), "the event is a dead letter", within_s=PATIENT_S)
    hanging.publish([event("hangs", minute=2)])
    eventually(lambda: count(hanging.database_url, "log") == 5, "the others are recorded", within_s=PATIENT_S)
    assert_set_aside(hanging.database_url, bad["id"])


@pytest.mark.slow
@pytest.mark.unproven  # the proof would end, too
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["ends", "crashes", "closes", "closes sockets"])
def test_a_supervised_recorder_gets_past_a_rule_that_ends_its_process(hanging: Pipeline, how: str) -> None:
    bad = event("hangs", how=how)
    hanging.start("recorder", "--processes", "2")
    hanging.publish([created(), bad, event("hangs", minute=1), created("AB-2"), event("hangs", subject="AB-2")])
    eventually(lambda: dead_letters(hanging.database_url), "the event is a dead letter", within_s=PATIENT_S)
    hanging.publish([event("hangs", minute=2)])
    eventually(lambda: count(hanging.database_url, "log") == 5, "the others are recorded", within_s=PATIENT_S)
    assert_set_aside(hanging.database_url, bad["id"], "ended their process")


@pytest.mark.unproven  # whoever proves it may not raise them, either
@pytest.mark.parametrize("how", ["cancels", "interrupts"])
def test_a_rule_that_raises_what_ends_others_is_its_events_fault_at_once(hanging: Pipeline, how: str) -> None:
    """No `except Exception` catches it; it would end the recorder, and come again with its event."""
    recorder = hanging.start("recorder")
    hanging.publish([created(), event("hangs", how=how), event("hangs", minute=1)])
    eventually(lambda: dead_letters(hanging.database_url), "the event is a dead letter")
    eventually(lambda: count(hanging.database_url, "log") == 2, "the others are recorded")
    [letter] = dead_letters(hanging.database_url)
    assert letter["reason"] == "failed"
    raised = "CancelledError" if how == "cancels" else "KeyboardInterrupt"
    assert letter["message"].startswith(f"applying 'hangs'/'DONE' raised {raised}")
    assert recorder.is_running()


@pytest.mark.timeout(300)
def test_a_recorder_killed_twice_within_the_same_rule_condemns_nobody(hanging: Pipeline, tmp_path: Path) -> None:
    """Whoever kills it from outside is not the event's fault: after the third time alone it would be taken for one."""
    slept = event("hangs", how="waits", file=str(tmp_path / "goes on"))
    called = tmp_path / "goes on.at it"
    hanging.settings["CASELOG_FOLD_LIMIT_S"] = "30"
    hanging.publish([created(), slept, event("hangs", minute=1)])
    for times in (1, 2):
        recorder = hanging.start("recorder")
        eventually(called.exists, "the rule is called")
        recorder.kill()
        called.unlink()
        eventually(partial(_has_ended, hanging.database_url, times), "that is written down")
    (tmp_path / "goes on").touch()
    hanging.start("recorder")
    eventually(lambda: count(hanging.database_url, "log") == 3, "all are recorded")
    assert dead_letters(hanging.database_url) == []
    assert suspects(hanging.database_url) == 0


@pytest.mark.timeout(300)
def test_ctrl_c_ends_a_requeue_within_a_rule_and_is_not_its_fault(hanging: Pipeline, tmp_path: Path) -> None:
    """And the event, condemned as it was, is tried at once."""
    file = tmp_path / "goes on"
    called = tmp_path / "goes on.at it"
    recorder = hanging.start("recorder")
    hanging.publish([created(), event("hangs", how="waits", file=str(file))])
    eventually(lambda: dead_letters(hanging.database_url), "the event is a dead letter", within_s=PATIENT_S)
    recorder.stop()
    before = dead_letters(hanging.database_url)
    called.unlink()
    argv = [*caselog_program(), "dead", "requeue", str(before[0]["id"])]
    requeue = Worker(argv, hanging.environment() | {"CASELOG_FOLD_LIMIT_S": "30"}, tmp_path / "requeue.log")
    try:
        eventually(called.exists, "the rule is called")
        os.kill(requeue.pid, signal.SIGINT)
        eventually(lambda: not requeue.is_running(), "it has ended")
        assert dead_letters(hanging.database_url) == before
    finally:
        requeue.kill()
    file.touch()
    subprocess.run(argv, env=hanging.environment(), check=True, capture_output=True)
    assert (dead_letters(hanging.database_url), count(hanging.database_url, "log")) == ([], 2)


def _has_ended(database_url: str, times: int) -> bool:
    with psycopg.connect(database_url) as db:
        return db.execute("select endings from suspect").fetchall() == [(times,)]


def _said(client: Redis) -> str:
    """What health says of recorders that prove no work for two seconds."""
    vitals = judge("recorder", read_beats(client), limit_s=2)
    assert "database" not in f"{vitals.value} {vitals.hint}"
    return vitals.value


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["computes", "in C"])
def test_sigterm_ends_a_recorder_in_time_while_a_rule_hangs_and_health_says_that_it_folds(
    hanging: Pipeline, how: str
) -> None:
    recorder = hanging.start("recorder", CASELOG_FOLD_LIMIT_S="30")
    hanging.publish([created()])
    hanging.recorded(1)
    hanging.publish([event("hangs", how=how)])
    if how == "computes":
        with Redis.from_url(redis_py_url(hanging.settings["CASELOG_REDIS_URL"])) as client:
            said = partial(_said, client)
            eventually(lambda: "is folding for" in said(), "health says that it folds, without work for 2 s")
        eventually(lambda: "folding takes long" in recorder.said(), "its log says so, too")
    else:
        eventually(lambda: hanging.queue().unacked == 1, "it has the event in hand")
        busy_until_s = time.monotonic() + 2
        eventually(lambda: time.monotonic() > busy_until_s, "it hangs in it")
    recorder.stop(within_s=10)
    assert "waits for the database" not in recorder.said()


@pytest.mark.slow
@pytest.mark.unproven  # as above
@pytest.mark.timeout(600)
def test_the_first_process_of_a_container_is_replaced_all_the_same(hanging: Pipeline, tmp_path: Path) -> None:
    """From inside, the kernel lets nobody kill it: so it is not the recorder itself."""
    contained = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
    if subprocess.run([*contained, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a namespace of processes")
    argv = [*contained, *caselog_program(), "worker", "recorder"]
    container = Worker(argv, hanging.environment(), tmp_path / "container.log")
    try:
        hanging.publish([created(), event("hangs", how="in C")])
        eventually(lambda: dead_letters(hanging.database_url), "the event is a dead letter", within_s=PATIENT_S)
        assert container.said().count("cannot be interrupted") >= 2
    finally:
        container.kill()
