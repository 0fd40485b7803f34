"""What cannot be recorded now: dead letters, parked events, and dead letters that are tried again.

All of it in the batch's own transaction (DESIGN.md, decision 6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection

from events.errors import EventError
from events.fold import Plan
from events.message import Event, decode
from events.sameness import refuse_another, refuse_another_than_parked
from events.traceparent import parse_traceparent
from schema import deadletters, parking, past
from workers import crashing
from workers.entries import Entry, dead_letter, identity, unknown_case, waiting
from workers.recorded import Recorded
from workers.requeued import Outcome, Requeued, requeued
from workers.transactions import Contended


def set_aside(db: Connection, refused: Sequence[tuple[Entry, EventError | None]]) -> Recorded:
    """Write dead letters; an event that the log has already is none, whatever is wrong with it now.

    Another event under a recorded one's (source, id) is one, and says so. None: the event is known to be recorded.
    """
    if not refused:
        return Recorded()
    logs = past.logs_of(db, [identity(entry) for entry, _ in refused if isinstance(entry.item, Event)])
    dead: list[tuple[Entry, EventError]] = []
    for entry, error in refused:
        fault = error
        if isinstance(entry.item, Event) and (log := logs.get(identity(entry))) is not None:
            fault = refuse_another(entry.item, log)
        if fault is not None:
            dead.append((entry, fault))
    result = _write(db, dead)
    result.duplicates = len(refused) - result.dead.total()
    return result


def _write(db: Connection, dead: list[tuple[Entry, EventError]]) -> Recorded:
    """Write new dead letters, and of those that were tried again what is wrong with them now."""
    letters = [dead_letter(entry, error) for entry, error in dead]
    fresh = [letter for letter in letters if letter.id is None]
    again = [letter for letter in letters if letter.id is not None]
    added = deadletters.set_aside(db, fresh) if fresh else []
    if added:
        crashing.reach("recording.dead_letter")
    if again:
        deadletters.fail_again(db, again)
    failed = [requeued(letter, Outcome.FAILED) for letter in again]
    items = [entry.item for entry, _ in dead]
    traces = [parse_traceparent(item.traceparent) for item in items if isinstance(item, Event)]
    return Recorded(
        dead=Counter(letter.reason for letter in added + again),
        dead_traces=[trace.trace_id for trace in traces if trace is not None],
        set_aside=added,
        requeued=failed,
    )


def park(db: Connection, entries: list[Entry], give_up_s: float) -> Recorded:
    """Park what waits for its case, put off what waited before, give up what waited too long."""
    fresh = [entry for entry in entries if entry.parked is None]
    old = [entry for entry in entries if entry.parked is not None and entry.parked.age_s > give_up_s]
    again = [entry for entry in entries if entry.parked is not None and entry.parked.age_s <= give_up_s]
    others = _park_first(db, fresh) if fresh else Recorded()
    if again:
        parking.put_off(db, [identity(entry) for entry in again])
    given_up = set_aside(db, [(entry, unknown_case(entry)) for entry in old])
    unpark(db, old)
    given_up.parked = len(fresh) + len(again) - others.dead.total()
    given_up.add(others)
    return given_up


def _park_first(db: Connection, entries: list[Entry]) -> Recorded:
    """Park events that never were; another one under the (source, id) of a parked event is a dead letter."""
    parked = parking.park(db, [waiting(entry) for entry in entries])
    crashing.reach("recording.parked")
    dead: list[tuple[Entry, EventError]] = []
    for entry in entries:
        if identity(entry) not in parked:
            continue
        if (raw := parked[identity(entry)]) is None:
            raise Contended
        item, before = entry.item, decode(raw).events[0]
        assert isinstance(item, Event)
        assert isinstance(before, Event)
        if (fault := refuse_another_than_parked(item, before)) is not None:
            dead.append((entry, fault))
    return _write(db, dead)


def unpark(db: Connection, entries: list[Entry]) -> None:
    done = [identity(entry) for entry in entries if entry.parked is not None]
    if done:
        parking.unpark(db, done)
        crashing.reach("recording.unparked")


def claim(db: Connection, entries: list[Entry]) -> tuple[list[Entry], list[Requeued]]:
    """The entries without the dead letters that somebody else requeues or has requeued, and what to say of those."""
    letters = [entry.dead for entry in entries if entry.dead is not None]
    if not letters:
        return entries, []
    ours = deadletters.claim(db, letters)
    elsewhere = [requeued(letter, Outcome.ELSEWHERE) for letter in letters if letter.id not in ours]
    return [entry for entry in entries if entry.dead is None or entry.dead.id in ours], elsewhere


def settle(db: Connection, entries: list[Entry], plan: Plan, failed: list[Requeued]) -> list[Requeued]:
    """Delete the dead letters of a batch that are recorded or parked now. Returns what became of each."""
    stay = {letter.id for letter in failed}
    left = [
        (at, entry.dead) for at, entry in enumerate(entries) if entry.dead is not None and entry.dead.id not in stay
    ]
    if not left:
        return []
    deadletters.remove(db, [letter.id for _, letter in left if letter.id is not None])
    became = dict.fromkeys(plan.parked, Outcome.PARKED)
    recorded = {(log.source, log.event_id) for log in plan.logs}
    became |= {at: Outcome.RECORDED for at, _ in left if identity(entries[at]) in recorded}
    return [requeued(letter, became.get(at, Outcome.DUPLICATE)) for at, letter in left]
