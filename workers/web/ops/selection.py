"""Dead letters and parked events on the ops page: which a person is about to mend, and that these and no others are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import Engine

from caselog.events.errors import CaselogError
from caselog.schema.operations import dead_letter_queries, parked_queries
from caselog.schema.operations.dead_letter_queries import Filter, Group
from caselog.schema.operations.parked_queries import CaseWaited, Named, ParkedFilter, Waiting
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.sessions.connection import limit_statements
from caselog.workers.deadletters import parked
from caselog.workers.deadletters.parked import Retried
from caselog.workers.deadletters.requeue import Report, discard, requeue
from caselog.workers.health.checks import STATEMENT_TIMEOUT_MS
from caselog.workers.recording.batch import Recording

# A request should end in seconds; what is more goes by the command line, or in several rounds.
LETTERS_MAX: Final = 2000
LETTERS_SHOWN: Final = 50
_DIGITS: Final = 19


class Changed(CaselogError):
    """The dead letters, or the parked events, are not those any more that were shown."""


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
        return _mark(self.letters, sorted(self.letters.items()))


class ChosenParked(msgspec.Struct, frozen=True, kw_only=True):
    """The events that wait for one case, as `Chosen`; how often each was tried is no part of the mark.

    `waited` is None where there are none.
    """

    case: str
    waited: CaseWaited | None
    events: list[Named]
    total: int
    first: list[Waiting]

    @property
    def mark(self) -> str:
        ids = sorted(event.id for event in self.events)
        return _mark(ids, ids)


class Selection:
    """Looks at the dead letters of a fault, or the events parked for a case; requeues, retries or discards them."""

    def __init__(self, engine: Engine, make_recording: Callable[[], Recording], *, give_up_s: float) -> None:
        """`make_recording` is called at the first requeue: it imports the apps, which may fail."""
        self._engine = engine
        self._make_recording = make_recording
        self._give_up_s = give_up_s
        self._recording: Recording | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Leave the database, as far as something was requeued."""
        if self._recording is not None:
            self._recording.close()

    def choose(self, fault: str, *, last: int | None = None) -> Chosen:
        """What would be mended, up to the id `last` where it is given: the dry run."""
        wanted = Filter(fault=fault)
        with self._engine.connect() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            selected = {
                at: tried for at, tried in dead_letter_queries.select(db, wanted).items() if last is None or at <= last
            }
            return Chosen(
                fault=fault,
                group=next(iter(dead_letter_queries.groups(db, wanted, limit=1)), None),
                letters=dict(islice(selected.items(), LETTERS_MAX)),
                total=len(selected),
                first=list(dead_letter_queries.find(db, wanted, limit=LETTERS_SHOWN)),
            )

    def requeue(self, fault: str, mark: str, *, who: str, why: str | None) -> Report:
        """Try those again that were shown. Raises `Changed`, and does nothing, where some are not so any more."""
        chosen = self._confirmed(fault, mark)
        with self._lock:  # of requeues from pages one at a time: each takes connections and locks
            return requeue(self._engine, self._road(), chosen, wanted=Filter(fault=fault), who=who, why=why)

    def discard(self, fault: str, mark: str, *, who: str, why: str | None) -> int:
        """Delete those for ever that were shown; how many. Raises `Changed` as `requeue` does."""
        return discard(self._engine, self._confirmed(fault, mark), wanted=Filter(fault=fault), who=who, why=why)

    def choose_parked(self, case: str, *, last: int | None = None) -> ChosenParked:
        """What would be tried or discarded, up to the id `last` where it is given: the dry run."""
        wanted = ParkedFilter(case=case)
        with self._engine.connect() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            selected = [event for event in parked_queries.select(db, wanted) if last is None or event.id <= last]
            return ChosenParked(
                case=case,
                waited=next(iter(parked_queries.by_case(db, give_up_s=self._give_up_s, case=case)), None),
                events=selected[:LETTERS_MAX],
                total=len(selected),
                first=list(parked_queries.find(db, wanted, give_up_s=self._give_up_s, limit=LETTERS_SHOWN)),
            )

    def retry_parked(self, case: str, mark: str, *, who: str, why: str | None) -> Retried:
        """Try those that were shown at once. Raises `Changed` as `requeue`, and `Paused` while recording is."""
        chosen = self._confirmed_parked(case, mark)
        with self._lock:
            return parked.retry(self._engine, self._road(), chosen, wanted=ParkedFilter(case=case), who=who, why=why)

    def discard_parked(self, case: str, mark: str, *, who: str, why: str | None) -> int:
        """Delete those for ever that were shown; how many. Raises `Changed` as `requeue` does."""
        chosen = self._confirmed_parked(case, mark)
        return parked.discard(self._engine, chosen, wanted=ParkedFilter(case=case), who=who, why=why)

    def _road(self) -> Recording:
        """To be called by one thread at a time."""
        if self._recording is None:
            self._recording = self._make_recording()
        return self._recording

    def _confirmed_parked(self, case: str, mark: str) -> list[Named]:
        chosen = self.choose_parked(case, last=_last(mark))
        if chosen.mark != mark:
            raise Changed("these parked events changed since they were shown: nothing was done. Look at them again")
        return chosen.events

    def _confirmed(self, fault: str, mark: str) -> Mapping[int, int]:
        chosen = self.choose(fault, last=_last(mark))
        if chosen.mark != mark:
            raise Changed("these dead letters changed since they were shown: nothing was done. Look at them again")
        return chosen.letters


def _mark(ids: Iterable[int], told: object) -> str:
    digest = hashlib.sha256(repr(told).encode()).hexdigest()
    return f"{max(ids, default=0)}.{digest}"


def _last(mark: str) -> int:
    """The last id that a mark is about; 0 where it is none of ours."""
    last, _, _ = mark.partition(".")
    return int(last) if last.isascii() and last.isdigit() and len(last) < _DIGITS else 0
