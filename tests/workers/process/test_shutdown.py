"""Told to stop, a worker ends in time whatever it was doing just then."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from support.processes.patience import DEADLINE_S, allowance_s
from support.processes.pipeline import Pipeline, event, eventually
from support.processes.served import ANNA, Served, bearer

from caselog.schema.recording.store import GATE

# The handler runs on top of the main thread, wherever that is: here it holds the very lock that the handler needs.
PROGRAM = """
import os, signal
import caselog.workers.process.shutdown
from caselog.workers.recording.recorder import Recorder

caselog.workers.process.shutdown.exit_in_time.__defaults__ = (0.5,)
recorder = Recorder("redis://", None, batch_events=1, batch_age_s=1, heartbeat=None, pauses=None, after_commit=None)
recorder.stop_on_signals()
with recorder._stopping._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
"""


def test_a_recorder_told_to_stop_while_it_holds_the_lock_of_its_own_flag_ends_all_the_same() -> None:
    try:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.fail("its handler waits for the code that it interrupted, and nothing ends it")
    assert ended.returncode == 1, ended.stderr
    assert "not stopped in time" in ended.stdout


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_the_status_worker_ends_in_time_while_a_requeue_waits_for_the_database(
    redis_pipeline: Pipeline, number: signal.Signals
) -> None:
    """What an operator asked for waits for a lock for as long as that is held; who is told to stop does not."""
    recorder = redis_pipeline.start("recorder")
    redis_pipeline.publish([event("accept_case", "NO-SUCH", "AB-1")])
    eventually(lambda: redis_pipeline.one("select count(*) from dead_letter") == 1, "a dead letter")
    recorder.stop()
    served = Served(redis_pipeline)
    fault = redis_pipeline.one("select fault from dead_letter")
    form = {"fault": fault, "mark": served.get(f"/dead/requeue?fault={fault}").json()["mark"]}
    waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with psycopg.connect(redis_pipeline.database_url) as holder, ThreadPoolExecutor() as threads:
        holder.execute("select pg_advisory_xact_lock(%s)", [GATE])
        threads.submit(lambda: served.post("/dead/requeue", data=form, headers=bearer(ANNA)))
        eventually(lambda: redis_pipeline.one(waits), "the requeue waits for the gate")
        served.worker.process.send_signal(number)
        served.worker.process.wait(allowance_s(10))
    assert redis_pipeline.one("select count(*) from dead_letter") == 1
