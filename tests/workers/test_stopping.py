"""Told to stop, a worker ends in time whatever it was doing just then."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The handler runs on top of the main thread, wherever that is: here it holds the very lock that the handler needs.
PROGRAM = """
import os, signal
import workers.stopping
from workers.recorder import Recorder

workers.stopping.exit_in_time.__defaults__ = (0.5,)
recorder = Recorder("redis://", None, batch_events=1, batch_age_s=1, heartbeat=None, pauses=None, after_commit=None)
recorder.stop_on_signals()
with recorder._stopping._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
"""


def test_a_recorder_told_to_stop_while_it_holds_the_lock_of_its_own_flag_ends_all_the_same() -> None:
    try:
        ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail("its handler waits for the code that it interrupted, and nothing ends it")
    assert ended.returncode == 1, ended.stderr
    assert "not stopped in time" in ended.stdout
