"""One server program that `caselog up` owns: started, watched, stopped, and found again when its owner was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from caselog.events.errors import SettingsError
from caselog.workers.process.supervisor import die_with_parent

# Nothing of the caller's environment reaches a server: PGDATA, PGOPTIONS or a locale would change what it does.
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}
_POLL_S = 0.02
_KILLED_WITHIN_S = 5.0


@dataclass(frozen=True)
class Program:
    """How one server is run."""

    name: str
    argv: Sequence[str]
    directory: Path  # where it runs; must be open to `user_id`
    log: Path
    is_ready: Callable[[], bool]
    stop_signal: signal.Signals
    user_id: int | None = None  # user and group; None: as we are
    ready_within_s: float = 60.0  # PostgreSQL replays its log after a crash
    stop_within_s: float = 30.0


class ServerProcess:
    """A running server. It is stopped by the kernel when this process dies (Linux), and by `stop` otherwise."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._should_run = False

    def start(self) -> None:
        """Start it and wait until it accepts connections. Raises `SettingsError` with the end of its log."""
        program, self._should_run = self.program, True
        with program.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the programs of our own wheels, arguments as a list
                program.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=program.directory,
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C at the terminal is for the supervisor, which stops servers last
                preexec_fn=die_with_parent(program.stop_signal),  # noqa: PLW1509 - safe here, see die_with_parent
                **as_user(program.user_id, program.user_id),
            )
        try:
            self._wait_until_ready(time.monotonic() + program.ready_within_s)
        except BaseException:
            self._end()
            raise

    def _wait_until_ready(self, deadline: float) -> None:
        assert self._process is not None
        while not self.program.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = last_words(self.program.log)
                raise SettingsError(f"the embedded {self.program.name} did not start: {log}")
            time.sleep(_POLL_S)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def has_died(self) -> bool:
        """Whether it should run, and does not: it ended by itself, or could not be started."""
        return self._should_run and (self._process is None or self._process.poll() is not None)

    def stop(self) -> None:
        """Stop it cleanly; kill it when that takes too long. May block for `stop_within_s`. Harmless when stopped."""
        self._should_run = False
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(self.program.stop_signal)
        try:
            process.wait(self.program.stop_within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stop_left_over(pid_file: Path, words: Sequence[str], stop_signal: signal.Signals, stop_within_s: float) -> None:
    """Stop the server that a killed owner left behind, if the process in `pid_file` is that server.

    The number may belong to any other process by now, so its command line must hold each of `words`.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    deadline = time.monotonic() + stop_within_s
    number: int = stop_signal
    while all(word in command_line(pid) for word in words):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        number = 0  # once is enough: after that only ask whether it is still there
        if time.monotonic() > deadline:
            number, deadline = signal.SIGKILL, time.monotonic() + stop_within_s
        time.sleep(_POLL_S)


def kill_children_left_over(directory: Path, title: str) -> None:
    """Kill the processes that work in `directory` under this title, and wait until they are gone. Linux; else nothing.

    For what a server forked, after the server itself was killed: a child that is busy does not notice.
    """
    deadline = time.monotonic() + _KILLED_WITHIN_S
    while left := [pid for pid in _working_in(directory) if command_line(pid).startswith(title)]:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:  # one that waits for a disk dies when the disk answers
            return
        time.sleep(_POLL_S)


def _working_in(directory: Path) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is none of ours
            if (entry / "cwd").samefile(directory):
                yield int(entry.name)


def command_line(pid: int) -> str:
    """The command line of a process, its arguments parted by spaces; empty where there is no such process."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    arguments = ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False).stdout  # noqa: S603 - only a number


class Identity(TypedDict):
    """The arguments of `subprocess` that say as whom a program runs."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def as_user(user_id: int | None, group_id: int | None) -> Identity:
    """Run as this user and this group, and with none of our other groups; None: as we are."""
    if user_id is None:
        return {"user": None, "group": None, "extra_groups": None}
    return {"user": user_id, "group": group_id, "extra_groups": []}


def last_words(log: Path) -> str:
    """The last lines of a log, in one line."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{' | '.join(line.strip() for line in lines[-3:]) or 'it said nothing'} (see {str(log)!r})"
