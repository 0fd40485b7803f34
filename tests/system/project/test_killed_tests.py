"""A run of the tests that is killed leaves no process behind."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually
from support.servers.children import start_child

from caselog.workers.servers.embedded import uninstall

ROOT = Path(__file__).parents[3]
# What such a run has: the servers of the session, workers of a test's own, and a test that does not end.
TEST = """
import os, pathlib, signal

def test_it(redis_pipeline):
    redis_pipeline.start("recorder")
    redis_pipeline.start("tasks")
    pathlib.Path(os.environ["READY_FILE"]).touch()
    signal.pause()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the run has its servers, and leaves what it had no time to tidy up. With a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        yield Path(name)
        for directory in Path(name).glob("caselog-tests-*"):
            uninstall(directory)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_a_killed_run_leaves_no_process(tmp_path: Path, place: Path, number: signal.Signals, jobs: str) -> None:
    """With -9 nobody can tidy up: the kernel tells each process that its parent has gone."""
    module, ready = tmp_path / "test_of_a_run.py", tmp_path / "ready"
    module.write_text(TEST)
    argv = [sys.executable, "-m", "pytest", "-n", jobs, "-p", "no:cacheprovider", "-p", "conftest"]
    argv += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "--basetemp", str(tmp_path / "base")]
    with (tmp_path / "said").open("wb") as said:
        run = start_child(
            [*argv, str(module)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "READY_FILE": str(ready), "TMPDIR": str(place)},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    eventually(lambda: ready.exists() or run.poll() is not None, "the run's own test has begun")
    assert run.poll() is None, (tmp_path / "said").read_text()
    started = psutil.Process(run.pid).children(recursive=True)
    names = {process.name() for process in started}
    assert "postgres" in names
    assert names & {"valkey-server", "redis-server"}
    assert len(started) >= 4
    run.send_signal(number)
    run.wait(DEADLINE_S)
    try:
        eventually(lambda: not any(process.is_running() for process in started), "no process is left")
    finally:
        for process in started:
            if process.is_running():
                process.kill()
