"""What people do with events that wait for their case: try them at once, or discard them; the audit says who and why.

What the command line and the web page stand on, as `caselog.workers.deadletters.requeue` is for dead letters. To look
is `caselog.schema.operations.parked_queries`; its `select` gives what a person confirms, and only that is touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from caselog.events.errors import CaselogError
from caselog.events.phrases import sentence
from caselog.schema.operations import audit, parked_queries
from caselog.schema.operations.parked_queries import Named, ParkedFilter, Waiting
from caselog.schema.operations.pause import find_pause
from caselog.workers.deadletters.requeue import LETTERS, gone_away
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Outcome, Recorded, Requeued
from caselog.workers.servers.database_errors import DatabaseAway

Progress = Callable[[int], object]

# What an outcome is called for an event that waited.
CALLED: Final = {
    Outcome.RECORDED: "recorded",
    Outcome.DUPLICATE: "duplicate",
    Outcome.PARKED: "waiting",
    Outcome.FAILED: "dead",
    Outcome.ELSEWHERE: "elsewhere",
}


class Paused(CaselogError):
    """Recording is paused: a retry by hand would do what the pause is to prevent."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event: `recorded`, `duplicate` (the log had it), `waiting`, `dead` or `elsewhere`.

    `reason` and `message` say why it is a dead letter; they are empty otherwise.
    """

    id: int
    source: str
    event_id: str
    became: str
    reason: str = ""
    message: str = ""


class Retried(msgspec.Struct, kw_only=True):
    """What became of the parked events that were chosen, in events, and of each.

    Where the database went away, or recording was paused, `interrupted` says so and the rest was not tried.
    """

    chosen: int
    events: list[Tried] = msgspec.field(default_factory=list)
    interrupted: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many became what, in the order of `CALLED`."""
        found = Counter(event.became for event in self.events)
        return {called: found[called] for called in CALLED.values()}

    @property
    def dead(self) -> list[Tried]:
        return [event for event in self.events if event.became == CALLED[Outcome.FAILED]]

    @property
    def is_success(self) -> bool:
        """Each is in the log or waits on, and none was left to somebody else."""
        counts = self.counts
        return self.chosen == counts["recorded"] + counts["duplicate"] + counts["waiting"]

    def told(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "chosen": self.chosen,
            **self.counts,
            "interrupted": self.interrupted,
            "events": msgspec.to_builtins(self.events),
        }


def retry(
    engine: Engine,
    recording: Recording,
    chosen: Sequence[Named],
    *,
    wanted: ParkedFilter,
    who: str,
    why: str | None = None,
    progress: Progress = lambda _: None,
) -> Retried:
    """Try parked events at once, whenever they were due. `chosen` are those of `parked_queries.select`.

    Raises `Paused` while recording is paused. Blocks while recorders hold the same cases or actors. An event is in the
    log, parked or a dead letter at any moment, whoever else tries it.
    """
    report = Retried(chosen=len(chosen))
    if not chosen:
        return report
    with engine.begin() as db:
        _refuse_while_paused(db)
        detail = {"filter": wanted, "chosen": len(chosen)}
        cases = parked_queries.cases_of(db, chosen)
        entry = audit.record_naming(db, who=who, action="parked.retry", why=why, detail=detail, cases=cases)

    def within(db: Connection, result: Recorded) -> None:
        counts = Counter(CALLED[one.outcome] for one in result.requeued if one.outcome is not Outcome.ELSEWHERE)
        if counts:
            audit.count(db, entry, counts)

    for batch in _batches(chosen):
        try:
            with engine.connect() as db:
                _refuse_while_paused(db)
                found = parked_queries.take(db, batch)
            result = recording.retry(found, within)
        except Paused as error:
            report.interrupted = str(error)
            return report
        except (DatabaseAway, DBAPIError) as error:
            report.interrupted = gone_away(error)
            return report
        report.events += _tried(batch, result.requeued)
        progress(len(batch))
    return report


def discard(
    engine: Engine,
    chosen: Sequence[Named],
    *,
    wanted: ParkedFilter,
    who: str,
    why: str | None = None,
    progress: Progress = lambda _: None,
) -> int:
    """Delete parked events for ever, and keep in the audit which they were. Returns how many.

    Fewer than chosen are those that are just being recorded or tried, or were so meanwhile. The same event, sent
    again, is an event as any other.
    """
    total = 0
    for batch in _batches(chosen):
        with engine.begin() as db:
            events = parked_queries.discard(db, batch)
            if events:
                says = {"filter": wanted, "discarded": len(events), "events": events}
                audit.record(db, who=who, action="parked.discard", why=why, detail=says)
        total += len(events)
        progress(len(batch))
    return total


def reveal(engine: Engine, ids: Sequence[int], *, give_up_s: float, who: str, why: str | None = None) -> list[Waiting]:
    """These parked events with their bytes, personal data and all; who looked is in the audit."""
    with engine.begin() as db:
        events = list(parked_queries.find(db, ParkedFilter(ids=tuple(ids)), give_up_s=give_up_s))
        if events:
            detail = {"ids": [event.id for event in events]}
            cases = [event.case_reference for event in events]
            audit.record_naming(db, who=who, action="parked.reveal", why=why, detail=detail, cases=cases)
    return events


def _refuse_while_paused(db: Connection) -> None:
    if (pause := find_pause(db)) is not None:
        raise Paused(
            f"recording is {sentence(pause.in_words())} Until it is resumed no parked event is tried: caselog resume"
        )


def _tried(batch: Sequence[Named], became: Sequence[Requeued]) -> list[Tried]:
    """What became of each of a batch; what was gone before it could be tried is elsewhere."""
    found = {one.id: one for one in became}
    return [
        Tried(id=named.id, source=named.source, event_id=named.event_id, became=CALLED[Outcome.ELSEWHERE])
        if (one := found.get(named.id)) is None
        else Tried(
            id=named.id,
            source=named.source,
            event_id=named.event_id,
            became=CALLED[one.outcome],
            reason=one.reason,
            message=one.message,
        )
        for named in batch
    ]


def _batches(chosen: Sequence[Named]) -> Iterator[Sequence[Named]]:
    return (chosen[start : start + LETTERS] for start in range(0, len(chosen), LETTERS))
