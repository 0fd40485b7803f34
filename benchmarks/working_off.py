"""Running workers on a queue that is full already, and telling how quickly they work it off."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
import psycopg

from caselog.workers.servers.locate import Services
from caselog.workers.settings import child_environment

BENCHMARKS = Path(__file__).parent
POLL_S = 0.02
TERM_WITHIN_S = 20
KILLED_WITHIN_S = 5
GIVE_UP_S = 900
# The workers that work off events.
ROLES = ("recorder", "tasks")
# The sequence is read at no cost, and the outbox holds a row a batch; only when they say that the end may have come is
# the log counted, which the workers would feel.
TAKEN = "select case when is_called then last_value else 0 end from log_id_2_seq"
WAITING = "select (select count(*) from report_outbox) + (select count(*) from parked)"
LEFT = """
    select %s - (select count(*) from log where id > %s) - (select count(*) from dead_letter)
           + (select count(*) from report_outbox) + (select count(*) from parked)
"""
# The first transaction's start and this moment, both by the clock of the database.
BEGAN = "select extract(epoch from min(recorded_at))::float8 from log where id > %s"
NOW = "select extract(epoch from clock_timestamp())::float8"


@contextmanager
def running(
    commands: list[list[str]], services: Services, *, by: signal.Signals = signal.SIGTERM
) -> Iterator[Callable[[], None]]:
    """The workers as processes of their own, stopped afterwards `by` a signal. Gives a check that all of them live."""
    environment = child_environment(services.environment())
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(BENCHMARKS.parent), environment.get("PYTHONPATH"))))
    processes: list[subprocess.Popen[bytes]] = []

    def alive() -> None:
        for command, process in zip(commands, processes, strict=True):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")

    with ExitStack() as stack:
        # Celery leaves a directory of its own behind.
        environment["TMPDIR"] = stack.enter_context(TemporaryDirectory(prefix="caselog-bench-"))
        stack.callback(_stop, processes, by)
        for command in commands:
            said = subprocess.DEVNULL
            with _postponed(signal.SIGTERM):  # which would come between the start and the list
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
                )
        yield alive


@contextmanager
def _postponed(number: signal.Signals) -> Iterator[None]:
    """A signal that comes meanwhile is taken afterwards."""
    came: list[int] = []
    handler = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(number, handler)
    if came:
        signal.raise_signal(number)


def worker_process(role: str) -> psutil.Process:
    """The worker of this role that was started here."""
    for child in psutil.Process().children(recursive=True):
        try:
            if child.cmdline()[-2:] == ["worker", role]:
                return child
        except psutil.Error:
            continue
    raise SystemExit(f"the worker {role} is gone")


def megabytes(process: psutil.Process) -> float:
    """What of it is resident."""
    return float(process.memory_info().rss / 1e6)


def _stop(processes: list[subprocess.Popen[bytes]], by: signal.Signals) -> None:
    for process in processes:
        process.send_signal(by)
    for process in processes:
        try:
            process.wait(TERM_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _kill_children_left_by(process)


def _kill_children_left_by(leader: subprocess.Popen[bytes]) -> None:
    """Celery's pool goes on when its main process ends before it listens for signals, or is killed."""
    deadline_s = time.monotonic() + KILLED_WITHIN_S
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline_s:
            os.killpg(leader.pid, signal.SIGKILL)
            time.sleep(POLL_S)


class WorkedOff(NamedTuple):
    """How many events, between which seconds, and which share of the machine's processors was busy meanwhile."""

    events: int
    began_s: float
    ended_s: float
    busy: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / (self.ended_s - self.began_s)

    def beside(self, other: WorkedOff) -> WorkedOff:
        """Both, which were worked off at the same time and by the same clock."""
        began_s, ended_s = min(self.began_s, other.began_s), max(self.ended_s, other.ended_s)
        return WorkedOff(self.events + other.events, began_s, ended_s, max(self.busy, other.busy))


def worked_off(services: Services, expected: int, alive: Callable[[], None], *, after: int = 0) -> WorkedOff:
    """Wait until so many events are recorded or set aside, and the reports added up.

    From the start of the first transaction, by the database's clock. `after` is the last id that had been given before.
    """
    deadline_s = time.monotonic() + GIVE_UP_S
    begun: tuple[float, float] | None = None
    with psycopg.connect(services.database_url, autocommit=True) as db:
        while True:
            taken = _one(db, TAKEN) - after
            if begun is None and taken > 0:
                begun = _busy_s(), time.monotonic()
            if taken >= expected and _one(db, WAITING) == 0 and _one(db, LEFT, expected, after) == 0:
                busy_s, began_s = begun or (0.0, 0.0)
                busy = (_busy_s() - busy_s) / (time.monotonic() - began_s) / (os.cpu_count() or 1)
                return WorkedOff(expected, _one(db, BEGAN, after), _one(db, NOW), busy)
            alive()
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{expected} events are not worked off after {GIVE_UP_S} seconds")
            time.sleep(POLL_S)


def _busy_s() -> float:
    """Seconds that the processors of this machine have worked since it started, all of them together."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def last_id(services: Services) -> int:
    """The last id that was given to a log; 0 before the first."""
    with psycopg.connect(services.database_url) as db:
        return int(_one(db, TAKEN))


def drained_a_second(depth: Callable[[], int], filled: int, alive: Callable[[], None]) -> float:
    """Wait until the queue is empty; its rate from the moment at which the first messages were gone."""
    while (begun := depth()) >= filled:
        alive()
        time.sleep(POLL_S)
    begun_s = time.perf_counter()
    while depth() > 0:
        alive()
        time.sleep(POLL_S)
    return begun / (time.perf_counter() - begun_s)


def _one(db: psycopg.Connection, query: str, *parameters: int) -> float:
    row = db.execute(query.encode(), parameters).fetchone()
    assert row is not None
    value: float = row[0]
    return value
