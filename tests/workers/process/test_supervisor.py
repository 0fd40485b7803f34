"""The supervisor, with real child processes and real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from support.processes.patience import DEADLINE_S
from support.servers.children import start_child

SUPERVISE = """
import json, sys
from caselog.workers.process.supervisor import Command, Supervisor
commands = [Command(name, [sys.executable, "-c", code]) for name, code in json.loads(sys.argv[1]).items()]
Supervisor(commands, settled_after_s=60.0, stop_within_s=float(sys.argv[2])).run()
"""
# Each child appends its process number to a file: how the tests see who was started, and when again.
REPORT = "import os, time, signal; open({path!r}, 'a').write(f'{{os.getpid()}}\\n'); "


class Run:
    """A supervisor as a process of its own."""

    def __init__(self, directory: Path, children: dict[str, str], stop_within_s: float) -> None:
        self.directory = directory
        codes = {name: REPORT.format(path=str(directory / name)) + code for name, code in children.items()}
        self.process = start_child(
            [sys.executable, "-c", SUPERVISE, json.dumps(codes), str(stop_within_s)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pids(self, name: str) -> list[int]:
        path = self.directory / name
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """The exit status and all of stderr."""
        self.process.send_signal(number)
        _, complaints = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, complaints


Supervise = Callable[..., Run]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    runs: list[Run] = []

    def start(stop_within_s: float = 10.0, **children: str) -> Run:
        runs.append(Run(tmp_path, children, stop_within_s))
        wait_for(lambda: all(runs[-1].pids(name) for name in children))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()
        for path in tmp_path.iterdir():
            for pid in run.pids(path.name):
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], what: str = "the condition") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {DEADLINE_S:g} s"
        time.sleep(0.02)


def alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_a_child_that_is_killed_is_started_again_and_the_others_go_on(supervise: Supervise) -> None:
    run = supervise(first="time.sleep(60)", second="time.sleep(60)")
    os.kill(run.pids("first")[0], signal.SIGKILL)
    wait_for(lambda: len(run.pids("first")) == 2)
    status, complaints = run.stop()
    assert status == 0
    assert "first was killed by signal 9" in complaints
    assert complaints.count("\n") == 1
    assert len(run.pids("second")) == 1


def test_a_child_that_keeps_failing_is_started_again_ever_more_slowly(supervise: Supervise) -> None:
    run = supervise(hasty="raise SystemExit(3)")
    wait_for(lambda: len(run.pids("hasty")) == 3)
    _, complaints = run.stop()
    assert "hasty exited with status 3" in complaints
    assert "again in 0.5 s\n" in complaints
    assert "again in 1 s\n" in complaints


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_all_children_and_then_the_supervisor(supervise: Supervise, number: signal.Signals) -> None:
    run = supervise(first="time.sleep(60)", second="time.sleep(60)")
    assert run.stop(number) == (0, "")
    assert not alive(run.pids("first") + run.pids("second"))


def test_a_child_that_ignores_sigterm_is_killed_after_its_time(supervise: Supervise, tmp_path: Path) -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); open({path!r}, 'w').write('ready'); time.sleep(60)"
    marker = tmp_path / "marker"
    run = supervise(0.3, stubborn=code.format(path=str(marker)))
    wait_for(marker.exists)
    marker.unlink()
    status, complaints = run.stop()
    assert status == 0
    assert "did not stop within 0.3 s" in complaints
    assert not alive(run.pids("stubborn"))


def test_what_a_killed_child_had_started_itself_ends_with_it(supervise: Supervise, tmp_path: Path) -> None:
    code = "child = os.fork(); open({path!r}, 'a').write(f'{{child}}\\n' if child else ''); time.sleep(60)"
    run = supervise(parent=code.format(path=str(tmp_path / "grandchild")))
    wait_for(lambda: run.pids("grandchild"))
    os.kill(run.pids("parent")[0], signal.SIGKILL)
    wait_for(lambda: not alive(run.pids("grandchild")[:1]))
    run.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_children_end_when_the_supervisor_is_killed(supervise: Supervise) -> None:
    run = supervise(first="time.sleep(60)", second="time.sleep(60)")
    run.process.kill()
    wait_for(lambda: not alive(run.pids("first") + run.pids("second")), "the end of the children")


def test_a_program_that_is_not_there_is_reported_and_tried_again(tmp_path: Path) -> None:
    code = SUPERVISE.replace('[sys.executable, "-c", code]', "[code]")
    process = start_child(
        [sys.executable, "-c", code, json.dumps({"lost": str(tmp_path / "nowhere")}), "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "lost could not be started" in process.stderr.readline()
    assert "lost could not be started" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
