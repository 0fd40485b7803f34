"""Keeping an eye on rules while a batch is folded: how long each takes, and an end to the one that never returns.

A thread of this process looks on twice a second, interrupts a rule that takes too long, and says meanwhile that the
worker folds. It reaches what Python runs, and what sleeps in the main thread; for what hangs in C the watcher, a
process of its own, replaces this one (workers/rule_watch/watcher.py, decision 99).
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from types import FrameType
from typing import Final

import msgspec

from caselog.events.errors import CaselogError, Interrupted
from caselog.events.folding.fold import STORED
from caselog.schema.sessions.connection import IDLE_IN_BATCH_S
from caselog.workers.process.logs import get_logger
from caselog.workers.rule_watch.entry import Entry
from caselog.workers.rule_watch.limits import is_overdue, queued_s
from caselog.workers.rule_watch.shared_memory import CELLS_BYTES, IS_ACTIVE, NOBODYS, POSITION, STEPS, THREAD, Shared

LOOK_S: Final = 0.5
# A batch takes a tenth of a second; what folds for longer than this is said to.
TELL_AFTER_S: Final = 2.0
LOG_EVERY_S: Final = 10.0
INTERRUPTED_BY: Final = signal.SIGUSR1

assert STORED == NOBODYS


class Overdue(Interrupted):
    """Raised within a rule that takes too long."""


class TooLong(CaselogError):
    """A batch has been folded for longer than its session may stand still."""


class Fault(msgspec.Struct, frozen=True):
    """What took too long: an event's own rule, or (None) the whole batch or a stored log's rule. `why` in words."""

    entry: Entry | None
    why: str


class Folding:
    """Watches the rules of one batch after the other. From one thread at a time."""

    def __init__(
        self,
        *,
        limit_s: float = IDLE_IN_BATCH_S,
        progress: Callable[[], object] = lambda: None,
        tell: Callable[[str], object] = lambda _: None,
        shared: Shared | None = None,
    ) -> None:
        """`progress` is called twice a second between rules, `tell` with what is being done, where it is long.

        `shared` is what a watcher sees; None: there is none.
        """
        self.limit_s = limit_s
        self.took_s = 0.0
        self.fault: Fault | None = None
        self.alive: Callable[[], object] = lambda: None
        self._progress = progress
        self._tell = tell
        self._shared = shared
        self.cells = memoryview(bytearray(CELLS_BYTES)).cast("q") if shared is None else shared.cells
        self._lock = threading.Lock()
        self._entries: Sequence[Entry] = ()
        self._thread = 0
        self._began_s = self._computed_s = 0.0
        self.is_due = False
        self._held = _Held()
        self._sent = False
        self._has_forked = False
        self._open: dict[int, object] = {}

    @contextmanager
    def rules(self, entries: Sequence[Entry], *, session: int | None = None) -> Iterator[None]:
        """Within, rules are called, each announced by `watch`. Raises `Overdue` or `TooLong`; `fault` says why.

        `session`: the file of the database's session, which no rule may close.
        """
        cells = self.cells
        files = [] if self._shared is None else [file for file in (self._shared.file, session) if file is not None]
        self._open = {file: _what_is(file) for file in files}
        self._entries = entries
        self._thread = threading.get_ident()
        self._began_s, self._computed_s = time.monotonic(), time.thread_time()
        self.is_due = self._has_forked = False
        self._held = _Held()
        cells[POSITION], cells[THREAD] = NOBODYS, threading.get_native_id()
        cells[STEPS] += 1
        cells[IS_ACTIVE] = 1
        _onlooker.add(self)
        try:
            yield
        finally:
            try:
                self._end()
            except Overdue:  # it was sent right before the rule returned
                self._end()
                raise
        if self._has_forked:
            raise Overdue

    def _end(self) -> None:
        if any(_what_is(file) != what for file, what in self._open.items()):
            # A rule has closed what this process has open, so nothing that it does is right any more. It ends, and the
            # watcher sees that it did so within rules; whose, is found when each of these events is tried alone.
            self.cells[POSITION] = NOBODYS
            os.kill(os.getpid(), signal.SIGKILL)
        self.took_s = time.monotonic() - self._began_s
        with self._lock:
            self.cells[IS_ACTIVE] = 0
            if self._sent:
                self._sent = False
                _raise_in(self._thread, None)
        _onlooker.remove(self)

    def name(self, entries: Sequence[Entry]) -> None:
        """Say which events the positions are, for the watcher: once a batch."""
        if self._shared is not None:
            self._shared.name(list(map(_name, entries)))

    def watch(self, position: int) -> None:
        """The rules of this event are called now; `STORED`: those of a stored log. Raises `TooLong`."""
        cells = self.cells
        cells[POSITION] = position
        if position < 0:
            cells[STEPS] += 1
        if self.is_due:
            self.step()

    def step(self) -> None:
        """Between two rules, where the onlooker has looked since the last one. Raises `TooLong`."""
        self.is_due = False
        self._progress()
        self.alive()
        if time.monotonic() - self._began_s < self.limit_s:
            return
        alone = len(self._entries) == 1
        # One event alone cannot be halved: it has the time that it needs, as far as that is its own.
        if not alone or time.thread_time() - self._computed_s >= self.limit_s:
            self.fault = Fault(None, f"folding it took more than {self.limit_s:g} s")
            raise TooLong(self.fault.why)

    def look(self, passed_s: float) -> None:
        """What the onlooker does, after so many seconds of its own: interrupt what is overdue, say what goes on."""
        with self._lock:
            if not self.cells[IS_ACTIVE]:
                return
            self.is_due = True
            held = self._held
            held.take(
                (self.cells[STEPS], self.cells[POSITION]),
                _computed_s(self._thread),
                queued_s("self", self.cells[THREAD]),
                passed_s,
            )
            if is_overdue(held.held_s, held.computed_s, held.queued_s, self.limit_s) and held.may_interrupt():
                self.fault = self._blame(held)
                self._sent = True
                _interrupt(self._thread)
        if held.folding_s >= TELL_AFTER_S:
            self._tell(f"folding for {held.folding_s:.0f} s")
            if held.may_log():
                get_logger().warning("folding takes long", seconds=round(held.folding_s), events=len(self._entries))

    def forked(self, *, is_child: bool) -> None:
        """A rule of this thread has made a copy of the process, which would go on as a second worker: it ends at once.

        In the parent the event is to blame, when its rules have returned.
        """
        if not self.cells[IS_ACTIVE] or self._thread != threading.get_ident():
            return
        if is_child:
            os._exit(1)
        if not self._has_forked:
            self._has_forked = True
            self.fault = Fault(self._in_hand(), "its rule made a copy of the worker's process (os.fork)")

    def is_interrupted_in(self, thread: int) -> bool:
        return self._sent and self._thread == thread

    def _blame(self, held: _Held) -> Fault:
        entry = self._in_hand()
        whose = "its rule" if entry is not None else "the rule of a log of its case"
        if held.computed_s >= self.limit_s:
            return Fault(entry, f"{whose} took more than {self.limit_s:g} s of processor time")
        return Fault(entry, f"{whose} had not returned after {held.held_s:.0f} s")

    def _in_hand(self) -> Entry | None:
        """The event whose own rule is called just now; None: a stored log's is."""
        position = self.cells[POSITION]
        return self._entries[position] if 0 <= position < len(self._entries) else None


class _Held:
    """How long one rule has been at it, by the onlooker's own steps: while a process is stopped, none are made."""

    def __init__(self) -> None:
        self.folding_s = self.held_s = self.computed_s = self.queued_s = 0.0
        self._steps = (-1, NOBODYS)
        self._computed_before_s = self._queued_before_s = 0.0
        self._interrupt_again_s = 0.0
        self._log_again_s = TELL_AFTER_S

    def take(self, steps: tuple[int, int], computed_s: float, queued_s: float, passed_s: float) -> None:
        self.folding_s += passed_s
        if steps != self._steps:
            self._steps, self._computed_before_s, self._queued_before_s = steps, computed_s, queued_s
            self.held_s = self.computed_s = self.queued_s = self._interrupt_again_s = 0.0
            return
        self.held_s += passed_s
        self.computed_s = computed_s - self._computed_before_s
        self.queued_s = queued_s - self._queued_before_s

    def may_interrupt(self) -> bool:
        """Again after two seconds: a rule may catch whatever is raised in it."""
        if self.held_s < self._interrupt_again_s:
            return False
        self._interrupt_again_s = self.held_s + 2
        return True

    def may_log(self) -> bool:
        if self.folding_s < self._log_again_s:
            return False
        self._log_again_s = self.folding_s + LOG_EVERY_S
        return True


class _Onlooker:
    """The thread that looks on: one a process, from the first batch on."""

    def __init__(self) -> None:
        self._foldings: set[Folding] = set()
        self._runs = False
        self._lock = threading.Lock()

    def add(self, folding: Folding) -> None:
        self._foldings.add(folding)
        if not self._runs:
            with self._lock:
                if not self._runs:
                    self._runs = True
                    os.register_at_fork(
                        after_in_child=lambda: self._forked(is_child=True),
                        after_in_parent=lambda: self._forked(is_child=False),
                    )
                    threading.Thread(target=self._run, name="onlooker", daemon=True).start()

    def remove(self, folding: Folding) -> None:
        self._foldings.discard(folding)

    def _forked(self, *, is_child: bool) -> None:
        for folding in tuple(self._foldings):
            folding.forked(is_child=is_child)

    def _run(self) -> None:
        last_s = time.monotonic()
        while True:
            time.sleep(LOOK_S)
            now_s = time.monotonic()
            # After a stop of the whole process, much time has passed in which no rule had any.
            passed_s, last_s = min(now_s - last_s, 2 * LOOK_S), now_s
            for folding in tuple(self._foldings):
                try:
                    folding.look(passed_s)
                except Exception as error:  # noqa: BLE001 - whatever it is, nobody else looks on
                    get_logger().warning("a look at what is folded failed", error=f"{type(error).__name__}: {error}")

    def may_raise_in(self, thread: int) -> bool:
        return any(one.is_interrupted_in(thread) for one in tuple(self._foldings))


_onlooker: Final = _Onlooker()
_takes_signals = False


def take_interrupts() -> None:
    """Have signals interrupt rules of the main thread: they reach what sleeps, too. To be called in that thread."""
    global _takes_signals  # noqa: PLW0603 - once, when a process starts

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if _onlooker.may_raise_in(threading.get_ident()):
            raise Overdue

    signal.signal(INTERRUPTED_BY, interrupt)
    _takes_signals = True


def _interrupt(thread: int) -> None:
    if _takes_signals and thread == threading.main_thread().ident:
        signal.pthread_kill(thread, INTERRUPTED_BY)
    else:
        _raise_in(thread, Overdue)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have Python raise it in that thread, at its next instruction; None: what was not raised yet is not."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


def _computed_s(thread: int) -> float:
    """The processor time of that thread, in seconds; where no clock tells it, that of the process."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _what_is(file: int) -> object:
    """What is open under this number; None: nothing."""
    try:
        found = os.fstat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_name: Final = attrgetter("item.source", "item.id")
