"""Mending dead letters: try them again after a fix, or discard them, and write down who did so and why.

What the command line and the web page stand on. To look is `caselog.schema.operations.dead_letter_queries`: `find`,
`groups`, and `select`, whose answer is what a person confirms and what `requeue` and `discard` are given, so that
nothing else is touched:

    chosen = mending.select(db, Filter(reason="unknown_code"))
    report = requeue(engine, recording, chosen, wanted=..., who="anna", why="the code is registered now")

Neither needs a broker. Both work in transactions of `LETTERS` dead letters at most, each all or nothing with its part
of the audit: interrupted anywhere, what was committed stays, and the same call again does the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from caselog.events.folding.identity import differences
from caselog.events.model.message import Event, decode
from caselog.schema.operations import audit, dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Discarded, Filter
from caselog.schema.recording import history, suspects
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.workers.process import crash_points
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Outcome, Recorded, Requeued
from caselog.workers.servers.database_errors import DatabaseAway

# A letter has up to 256 KiB, so that a transaction's letters are 64 MiB at most.
LETTERS: Final = 250
UPKEEP: Final = "upkeep"
# A run leaves the rest to the next one: no task may hold a worker's thread for long.
TIDIED: Final = 10_000

Progress = Callable[[int], object]


class Report(msgspec.Struct, kw_only=True):
    """What became of the dead letters that were chosen, in letters. `failures` says why each failed again.

    `duplicates` were in the log already and are dead letters no more; `elsewhere` were requeued or discarded by
    somebody else meanwhile. Where the database went away, `interrupted` says so and the rest was not tried.
    """

    chosen: int
    recorded: int = 0
    duplicates: int = 0
    parked: int = 0
    elsewhere: int = 0
    failures: list[Requeued] = msgspec.field(default_factory=list)
    interrupted: str | None = None

    @property
    def is_success(self) -> bool:
        """Each is recorded, or waits for its case, or was recorded before."""
        return self.chosen == self.recorded + self.duplicates + self.parked


def requeue(
    engine: Engine,
    recording: Recording,
    chosen: Mapping[int, int],
    *,
    wanted: Filter,
    who: str,
    why: str | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Try dead letters again; each event takes its place in time, and is in the log or a dead letter at any moment.

    `chosen` are those of `caselog.schema.operations.dead_letter_queries.select`; `wanted` is what was asked for, as the
    audit says it. `progress` is called with the letters done since its last call. Blocks while recorders hold the same
    cases or actors. Does not raise where the database goes away after the beginning: the report says so.
    """
    report = Report(chosen=len(chosen))
    if not chosen:
        return report
    with engine.begin() as db:
        order = _by_time(db, chosen)
        detail = {"filter": wanted, "chosen": len(chosen)}
        cases = dead_letter_queries.cases_of(db, order)
        entry = audit.record_naming(db, who=who, action="dead.requeue", why=why, detail=detail, cases=cases)
    report.elsewhere = len(chosen) - len(order)  # gone before the first was tried

    def within(db: Connection, result: Recorded) -> None:
        counts = Counter(letter.outcome.value for letter in result.requeued if letter.outcome is not Outcome.ELSEWHERE)
        if counts:
            audit.count(db, entry, counts)
        crash_points.reach("requeue.before_commit")

    for ids in _batches(order):
        try:
            with engine.connect() as db:
                found = [*dead_letter_queries.find(db, Filter(ids=ids))]
            result = recording.requeue([letter for letter in found if letter.attempts == chosen[_id(letter)]], within)
        except (DatabaseAway, DBAPIError) as error:
            report.interrupted = gone_away(error)
            return report
        crash_points.reach("requeue.committed")
        _add(report, result.requeued, len(ids))
        progress(len(ids))
    return report


def discard(
    engine: Engine,
    chosen: Sequence[int] | Mapping[int, int],
    *,
    wanted: Filter,
    who: str,
    why: str | None = None,
    progress: Progress = lambda _: None,
) -> int:
    """Delete dead letters for ever, and keep in the audit which they were. Returns how many.

    Fewer than chosen are those that somebody else requeued or discarded meanwhile. The same bytes, sent again, are a
    dead letter again.
    """
    detail = {"filter": wanted}
    return _discard(engine, list(chosen), "dead.discard", who=who, why=why, detail=detail, progress=progress)


def reveal(engine: Engine, ids: Sequence[int], *, who: str, why: str | None = None) -> list[DeadLetter]:
    """These dead letters with their bytes, personal data and all, oldest first; who looked is in the audit."""
    with engine.begin() as db:
        letters = list(dead_letter_queries.find(db, Filter(ids=tuple(ids))))
        if letters:
            detail = {"ids": [letter.id for letter in letters]}
            cases = [letter.case_reference for letter in letters]
            audit.record_naming(db, who=who, action="dead.reveal", why=why, detail=detail, cases=cases)
    return letters


def tidy(engine: Engine, *, retention_days: int) -> int:
    """Remove dead letters that were recorded since, and those older than the days to keep them. Returns how many.

    0 days: they are kept for ever. What is removed is in the audit.
    """
    recorded = _recorded_since(engine)
    why = "the same event was sent again and is in the log"
    removed = _discard(engine, recorded, "dead.recorded", who=UPKEEP, why=why)
    if retention_days:
        with engine.connect() as db:
            old = dead_letter_queries.older_than(db, retention_days, limit=TIDIED)
        why = f"older than CASELOG_DEAD_LETTER_RETENTION_DAYS={retention_days}"
        removed += _discard(engine, old, "dead.expire", who=UPKEEP, why=why)
    with engine.begin() as db:
        suspects.forget_old(db)
    return removed


def gone_away(error: DatabaseAway | DBAPIError) -> str:
    """What to say of work that ended because the database went away, in a line. Any other error is raised."""
    if isinstance(error, DBAPIError) and not (isinstance(error, OperationalError) or error.connection_invalidated):
        raise error
    return " ".join(str(getattr(error, "orig", error)).split())


def _recorded_since(engine: Engine) -> list[int]:
    """The ids of dead letters whose very event is in the log; another event of its name is none (decision 0080)."""
    found: list[int] = []
    last = 0
    with engine.connect() as db:
        while letters := dead_letter_queries.with_logged_names(db, after=last, limit=LETTERS):
            last = _id(letters[-1])
            events = {_id(letter): decode(letter.raw).events[0] for letter in letters}
            named = {at: event for at, event in events.items() if isinstance(event, Event)}
            logs = history.logs_of(db, [(event.source, event.id) for event in named.values()])
            found += [
                at
                for at, event in named.items()
                if (log := logs.get((event.source, event.id))) is not None and not differences(event, log)
            ]
    return found


def _discard(
    engine: Engine,
    chosen: Sequence[int],
    action: str,
    *,
    who: str,
    why: str | None,
    detail: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda _: None,
) -> int:
    total = 0
    for ids in _batches(chosen):
        with engine.begin() as db:
            letters: list[Discarded] = dead_letter_queries.discard(db, ids)
            if letters:
                # Sent again, they are new.
                names = [(one.source, one.event_id) for one in letters]
                suspects.forget(db, [(source, name) for source, name in names if source and name])
                says = {**detail, "discarded": len(letters), "letters": letters}
                audit.record(db, who=who, action=action, why=why, detail=says)
        total += len(letters)
        progress(len(ids))
    return total


class _When(msgspec.Struct):
    time: Annotated[datetime, msgspec.Meta(tz=True)]


_when: Final = msgspec.json.Decoder(_When)


def _by_time(db: Connection, ids: Iterable[int]) -> list[int]:
    """The letters in the order in which their events happened, unreadable ones last.

    Out of order they would end the same, but each case would be folded again for nearly every event, and what is about
    a case would be parked until its creation had its turn.
    """
    moments: list[tuple[datetime, int]] = []
    for batch in _batches(ids):
        for letter in dead_letter_queries.find(db, Filter(ids=batch)):
            try:
                moments.append((_when.decode(letter.raw).time, _id(letter)))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                moments.append((_NEVER, _id(letter)))
    return [letter_id for _, letter_id in sorted(moments)]


_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def _add(report: Report, became: Sequence[Requeued], tried: int) -> None:
    counts = Counter(letter.outcome for letter in became)
    report.recorded += counts[Outcome.RECORDED]
    report.duplicates += counts[Outcome.DUPLICATE]
    report.parked += counts[Outcome.PARKED]
    report.failures += [letter for letter in became if letter.outcome is Outcome.FAILED]
    report.elsewhere += tried - len(became) + counts[Outcome.ELSEWHERE]


def _batches(ids: Iterable[int]) -> Iterator[tuple[int, ...]]:
    rest = iter(ids)
    while batch := tuple(islice(rest, LETTERS)):
        yield batch


def _id(letter: DeadLetter) -> int:
    assert letter.id is not None
    return letter.id
