"""The watcher of a worker: a process that ends the worker where a rule hangs, and sees where a rule ended the worker.

    python -m caselog.workers.rule_watch.watcher PID FD

`FD` is the memory in which the worker says what its rules are at (workers/rule_watch/shared_memory.py); on its standard
input come a line of JSON with what it has to know, then each signal that the worker gets, as a byte; and its end when
the worker ends. A rule that hangs in C holds Python's lock: no thread of the worker runs, no handler of a signal. So it
is from here that the event is remembered as a suspect and the worker killed, for its supervisor to start another
(decision 99). Likewise where the worker ended while rules were called: by `os._exit`, a crash in C, the kernel out of
memory.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Final

from caselog.workers.rule_watch.limits import is_overdue, queued_s
from caselog.workers.rule_watch.shared_memory import IS_ACTIVE, POSITION, STEPS, THREAD, Shared

LOOK_S: Final = 0.5
# So much longer than the worker itself takes to interrupt a rule, which is better: nothing else has to be done again.
GRACE_S: Final = 10.0
# A worker that can still run ends itself after 8 seconds (workers/process/shutdown.py).
STOP_WITHIN_S: Final = 9.0
CONNECT_TIMEOUT_S: Final = 5
_STATE: Final = 0
_USER_TICKS: Final = 11
_STOPPED: Final = ("T", "t")
# A zombie waits for its parent; where there is no such process, or no /proc, there is no state.
_ENDED: Final = ("Z", "X", "")


def watch(shared: Shared, database_url: str, limit_s: float) -> None:
    """Start the watcher of this process, which ends with it.

    In the main thread it is told of each signal, too, from below Python.
    """
    reader, writer = os.pipe()
    _started.append(
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "caselog.workers.rule_watch.watcher", str(os.getpid()), str(shared.file)],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            pass_fds=[shared.file],
            start_new_session=True,  # who ends the worker's whole group is to leave it the time to see that
        )
    )
    os.close(reader)
    told = {"database_url": database_url, "limit_s": limit_s}
    os.write(writer, json.dumps(told).encode() + b"\n")
    if threading.current_thread() is threading.main_thread():
        os.set_blocking(writer, False)
        earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if earlier != -1:  # somebody listens already: an event loop
            signal.set_wakeup_fd(earlier)


# Kept, so that nobody waits for them: they end after us.
_started: Final[list[subprocess.Popen[bytes]]] = []


def main(pid: int, file: int) -> None:
    """Watch that process until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = _first_line()
    hand = _Hand(pid, Shared(file), told["limit_s"])
    stops_at_s = float("inf")
    last_s = time.monotonic()
    listens = [0]
    while True:
        if select.select(listens, [], [], LOOK_S)[0]:
            heard = os.read(0, 4096)
            if not heard:  # the worker has ended; or a rule has closed its end of this, and all else with it
                listens = []
            if {signal.SIGTERM, signal.SIGINT} & set(heard):
                stops_at_s = min(stops_at_s, time.monotonic() + STOP_WITHIN_S)
        if not listens and _has_ended(pid):
            if hand.is_held() and stops_at_s == float("inf"):
                _say(f"worker process {pid} ended within a rule")
                _remember(told["database_url"], hand, "a worker's process ended within its rule", is_ending=True)
            return
        now_s = time.monotonic()
        # While the watcher itself had no time, nobody knows whether the worker had any.
        passed_s, last_s = min(now_s - last_s, 2 * LOOK_S), now_s
        if now_s >= stops_at_s:
            _end(pid, "it did not stop in time")
        if hand.hangs(passed_s):
            why = f"its rule had not returned after {hand.held_s:.0f} s, and its process was replaced"
            _remember(told["database_url"], hand, why)
            _end(pid, f"a rule has not returned after {hand.held_s:.0f} s and cannot be interrupted")


class _Hand:
    """What the worker has in hand, and for how long."""

    def __init__(self, pid: int, shared: Shared, limit_s: float) -> None:
        self.shared = shared
        self.held_s = 0.0
        self._pid = pid
        self._limit_s = limit_s
        self._overdue_s = 0.0
        self._steps = (-1, -1)
        self._ticks = 0
        self._queued_s = 0.0

    def is_held(self) -> bool:
        """Whether rules are called just now."""
        return bool(self.shared.cells[IS_ACTIVE])

    def hangs(self, passed_s: float) -> bool:
        """Whether one rule is overdue, and has been so for longer than the worker would need to interrupt it."""
        cells = self.shared.cells
        state, ticks = _thread(self._pid, cells[THREAD])
        queued = queued_s(self._pid, cells[THREAD])
        steps = (cells[STEPS], cells[POSITION])
        if not cells[IS_ACTIVE] or steps != self._steps:
            self._steps, self._ticks, self._queued_s = steps, ticks, queued
            self.held_s = self._overdue_s = 0.0
            return False
        if state in _STOPPED:
            return False
        self.held_s += passed_s
        computed_s = (ticks - self._ticks) / os.sysconf("SC_CLK_TCK")
        if is_overdue(self.held_s, computed_s, queued - self._queued_s, self._limit_s):
            self._overdue_s += passed_s
        return self._overdue_s >= GRACE_S


def _first_line() -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    told: dict[str, Any] = json.loads(line.strip() or b"{}")
    if not told:
        raise SystemExit(0)  # the worker ended before it could say anything
    return told


def _thread(pid: int, thread: int) -> tuple[str, int]:
    """The state of a thread and its processor time in ticks; where there is no /proc, it never computes."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - quick
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[_STATE], int(fields[_USER_TICKS]) + int(fields[_USER_TICKS + 1])


def _has_ended(pid: int) -> bool:
    state, _ = _thread(pid, pid)
    return state in _ENDED


def _remember(database_url: str, hand: _Hand, why: str, *, is_ending: bool = False) -> None:
    """Write down whose rule it is. Whatever fails, the worker is ended all the same: it does nothing any more."""
    from caselog.schema.recording import suspects  # noqa: PLC0415 - it is seldom needed, and most of what this process would hold
    from caselog.schema.sessions.connection import limit_statements, make_engine  # noqa: PLC0415

    try:
        engine = make_engine(database_url, application="caselog watcher", connections=1)
        with engine.begin() as db:
            limit_statements(db, CONNECT_TIMEOUT_S * 1000)
            suspects.strike(db, hand.shared.suspects(), why, is_ending=is_ending)
        engine.dispose()
    except Exception as error:  # noqa: BLE001 - see above
        _say(f"the suspects could not be written down: {type(error).__name__}")


def _end(pid: int, why: str) -> None:
    _say(f"worker process {pid} is killed: {why}")
    os.kill(pid, signal.SIGKILL)
    raise SystemExit(0)


def _say(message: str) -> None:
    sys.stderr.write(f"caselog: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
