"""Runs worker processes: starts each one again when it dies, and stops them all when this process is told to stop."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_WITHIN_S = 10.0  # docs/design.md "Promises": on SIGTERM the batch in hand is finished within these
RESTART_DELAY_FIRST_S = 0.5
RESTART_DELAY_MOST_S = 30.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Command:
    """One child process: the name that messages give it, and what it runs."""

    name: str
    argv: Sequence[str]


@dataclass
class _Child:
    command: Command
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic seconds, as are all times here
    due_at: float = 0.0
    delay_s: float = RESTART_DELAY_FIRST_S


@dataclass
class Supervisor:
    """Keeps `commands` running until SIGINT, SIGTERM or SIGHUP; then stops them and returns.

    `environment` is the children's; None: ours. `watch` is called about once a second and must be quick; what it
    raises ends the run, after the children were stopped. A child that lived for `settled_after_s` is started again
    after the first, short delay; one that dies sooner waits twice as long each time.
    """

    commands: Sequence[Command]
    environment: Mapping[str, str] | None = None
    watch: Callable[[], None] = lambda: None
    settled_after_s: float = 30.0
    stop_within_s: float = STOP_WITHIN_S
    _children: list[_Child] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Blocks until a stop signal. Must run in the main thread, with no other thread (see `die_with_parent`)."""
        with waking_signals() as signals:
            self.run_until(signals)

    def run_until(self, signals: WakingSignals) -> None:
        """As `run`, for a caller that has taken charge of the signals already and keeps it afterwards."""
        self._children = [_Child(command) for command in self.commands]
        try:
            while not signals.stop_requested:
                now = time.monotonic()
                for child in self._children:
                    self._reap(child, now)
                    if child.process is None and child.due_at <= now:
                        self._start(child, now)
                self.watch()
                signals.wait(min([1.0, *(c.due_at - now for c in self._children if c.process is None)]))
        finally:
            self._stop_all(signals)

    def _start(self, child: _Child, now: float) -> None:
        child.started_at = now
        try:
            child.process = subprocess.Popen(  # noqa: S603 - the commands are the caller's own
                child.command.argv,
                stdin=subprocess.DEVNULL,
                env=None if self.environment is None else dict(self.environment),
                start_new_session=True,  # Ctrl-C at the terminal reaches a child once: from us
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - safe here, see die_with_parent
            )
        except OSError as error:
            self._retry_later(child, now, f"could not be started ({error})")

    def _reap(self, child: _Child, now: float) -> None:
        if child.process is None or child.process.poll() is None:
            return
        _kill_group(child.process)
        status, child.process = child.process.returncode, None
        how = f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"
        self._retry_later(child, now, how)

    def _retry_later(self, child: _Child, now: float, how: str) -> None:
        lived_s = now - child.started_at
        if lived_s >= self.settled_after_s:
            child.delay_s = RESTART_DELAY_FIRST_S
        complain(f"{child.command.name} {how} after {lived_s:.1f} s; starting it again in {child.delay_s:g} s")
        child.due_at = now + child.delay_s
        child.delay_s = min(child.delay_s * 2, RESTART_DELAY_MOST_S)

    def _stop_all(self, signals: WakingSignals) -> None:
        living = [child.process for child in self._children if child.process is not None]
        for process in living:
            process.terminate()
        deadline = time.monotonic() + self.stop_within_s
        while any(process.poll() is None for process in living) and time.monotonic() < deadline:
            signals.wait(deadline - time.monotonic())
        for process in living:
            if process.poll() is None:
                complain(f"process {process.pid} did not stop within {self.stop_within_s:g} s and is killed")
            _kill_group(process)
            process.wait()


class WakingSignals:
    """Remembers that a stop signal came, and wakes `wait` for it and for the death of a child."""

    def __init__(self, reader: int) -> None:
        self.stop_requested = False
        self._reader = reader

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            self.stop_requested = True

    def wait(self, timeout_s: float) -> None:
        """Return at the next signal, or after the timeout."""
        if select.select([self._reader], [], [], max(0.0, timeout_s))[0]:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)


class StopRequested(BaseException):
    """A stop signal came within `raising_signals`."""


@contextmanager
def raising_signals(signals: WakingSignals) -> Iterator[None]:
    """Within, a stop signal raises `StopRequested` at once: for steps that block and can be broken off anywhere."""

    def stop(number: int, frame: FrameType | None) -> None:
        signals.receive(number, frame)
        raise StopRequested

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    try:
        if signals.stop_requested:
            raise StopRequested
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signals.receive)


@contextmanager
def waking_signals() -> Iterator[WakingSignals]:
    """Within, stop signals set a flag instead of ending the process: nothing is interrupted half-way."""
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    signals = WakingSignals(reader)
    earlier = {number: signal.signal(number, signals.receive) for number in (*STOP_SIGNALS, signal.SIGCHLD)}
    earlier_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(earlier_fd)
        for number, handler in earlier.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn` that has the kernel send the child this signal when we die, kill -9 included. None outside Linux.

    A `preexec_fn` is dangerous in a process with several threads, since it runs between fork and exec. Our supervisors
    have one thread, and this function makes two system calls through a library that is already loaded. The other ways
    are worse: a wrapper program doubles the processes, and watching the parent needs every child's help.
    The kernel's watch is on the *thread* that started the child, which is one more reason to have only one.
    """
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # we died before the call: nobody would send the signal any more
            os._exit(1)

    return arm


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"caselog: {message}\n")
    sys.stderr.flush()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what a dead child itself had started: it would go on without it. Each child leads a group of its own."""
    with suppress(ProcessLookupError, PermissionError):  # macOS says "permission" of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
