"""Dead letters on the ops page: which a person is about to mend, and that these and no others are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import Engine

from events.errors import CaselogError
from schema import mending
from schema.connection import limit_statements
from schema.deadletters import DeadLetter
from schema.mending import Filter, Group
from workers.health import STATEMENT_TIMEOUT_MS
from workers.mending import Report, discard, requeue
from workers.recording import Recording

# A request should end in seconds; what is more goes by the command line, or in several rounds.
LETTERS_MAX: Final = 2000
LETTERS_SHOWN: Final = 50
_DIGITS: Final = 19


class Changed(CaselogError):
    """The dead letters are not those any more that were shown."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters with one fault, as they are shown before anything is done; `mark` tells them from any others.

    `letters` are those to be mended, by id with their attempts; `total` is how many have the fault. `first` are the
    first of them. `group` is None where there are none.
    """

    fault: str
    group: Group | None
    letters: Mapping[int, int]
    total: int
    first: list[DeadLetter]

    @property
    def mark(self) -> str:
        """The last id and a digest of all: what has come since is not meant, and does not matter."""
        digest = hashlib.sha256(repr(sorted(self.letters.items())).encode()).hexdigest()
        return f"{max(self.letters, default=0)}.{digest}"


class MendingDesk:
    """Looks at the dead letters of a fault, and requeues or discards them."""

    def __init__(self, engine: Engine, make_recording: Callable[[], Recording]) -> None:
        """`make_recording` is called at the first requeue: it imports the apps, which may fail."""
        self._engine = engine
        self._make_recording = make_recording
        self._recording: Recording | None = None
        self._lock = threading.Lock()

    def choose(self, fault: str, *, last: int | None = None) -> Chosen:
        """What would be mended, up to the id `last` where it is given: the dry run."""
        wanted = Filter(fault=fault)
        with self._engine.connect() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            selected = {at: tried for at, tried in mending.select(db, wanted).items() if last is None or at <= last}
            return Chosen(
                fault=fault,
                group=next(iter(mending.groups(db, wanted, limit=1)), None),
                letters=dict(islice(selected.items(), LETTERS_MAX)),
                total=len(selected),
                first=list(mending.find(db, wanted, limit=LETTERS_SHOWN)),
            )

    def requeue(self, fault: str, mark: str, *, who: str, why: str | None) -> Report:
        """Try those again that were shown. Raises `Changed`, and does nothing, where some are not so any more."""
        chosen = self._confirmed(fault, mark)
        with self._lock:  # of requeues from pages one at a time: each takes connections and locks
            if self._recording is None:
                self._recording = self._make_recording()
            return requeue(self._engine, self._recording, chosen, wanted=Filter(fault=fault), who=who, why=why)

    def discard(self, fault: str, mark: str, *, who: str, why: str | None) -> int:
        """Delete those for ever that were shown; how many. Raises `Changed` as `requeue` does."""
        return discard(self._engine, self._confirmed(fault, mark), wanted=Filter(fault=fault), who=who, why=why)

    def _confirmed(self, fault: str, mark: str) -> Mapping[int, int]:
        last, _, _ = mark.partition(".")
        is_number = last.isascii() and last.isdigit() and len(last) < _DIGITS
        chosen = self.choose(fault, last=int(last) if is_number else 0)
        if chosen.mark != mark:
            raise Changed("these dead letters changed since they were shown: nothing was done. Look at them again")
        return chosen.letters
