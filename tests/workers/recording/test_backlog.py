"""A backlog: work on it begins with its first batch, however much waits behind that."""

from __future__ import annotations

import os
import signal

import pytest
from support.processes.pipeline import Pipeline

from caselog.workers.producers.simulation import simulate

BATCH = 1000
WAITING = 6_000


def seconds_to_first_ack(pipeline: Pipeline) -> float:
    """The processor time that a recorder takes from its start until its first batch is committed and acked.

    Processor time, because the time on the clock tells of what else the machine does. The recorder ends itself there.
    """
    recorder = pipeline.start("recorder", CASELOG_CRASH_AT="recorder.acked")
    _, status, used = os.wait4(recorder.pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, recorder.said()
    recorder.process.returncode = -signal.SIGKILL  # it is known here, and can be asked for only once
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_backlog_starts_to_be_worked_on_as_soon_as_a_single_batch(pipeline: Pipeline) -> None:
    """The first commit costs no more where thousands of messages wait behind it; and it holds one batch.

    With a million messages: benchmarks/first_commit.py.
    """
    events = list(simulate(WAITING // 8, 7))[: BATCH + WAITING]
    pipeline.publish(events[:BATCH], batch_events=1)
    alone_s = seconds_to_first_ack(pipeline)
    first = pipeline.logs()
    assert 0 < first <= BATCH
    pipeline.publish(events[BATCH:], batch_events=1)
    waited_s = seconds_to_first_ack(pipeline)
    assert pipeline.logs() - first <= BATCH
    assert pipeline.queue().ready + (pipeline.queue().unacked or 0) >= WAITING - BATCH
    assert waited_s < alone_s + 1
    pipeline.start("recorder")
    pipeline.recorded(len(events), within_s=300)
