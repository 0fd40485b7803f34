"""What cannot be recorded now: dead letters, parked events, and dead letters that are tried again.

All of it in the batch's own transaction (docs/design.md "Parked events and dead letters").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection

from caselog.events.errors import EventError, IdentityTaken
from caselog.events.folding.fold import Plan
from caselog.events.folding.identity import refuse_another, refuse_another_than_parked
from caselog.events.model.message import Event, decode
from caselog.events.model.traceparent import parse_traceparent
from caselog.schema.recording import dead_letters, history, parking
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.workers.continuity.comparison import Letter
from caselog.workers.process import crash_points
from caselog.workers.recording.outcome import Outcome, Recorded, Requeued, requeued, retried
from caselog.workers.rule_watch.entry import Entry, dead_letter, identity, parked_name, unknown_case, waiting
from caselog.workers.servers.database_errors import Contended


def set_aside(db: Connection, refused: Sequence[tuple[Entry, EventError | None]]) -> Recorded:
    """Write dead letters; an event that the log has already is none, whatever is wrong with it now.

    Another event under a recorded one's (source, id) is one, and says so. None: the event is known to be recorded.
    """
    if not refused:
        return Recorded()
    logs = history.logs_of(db, [identity(entry) for entry, _ in refused if isinstance(entry.item, Event)])
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
    added = dead_letters.set_aside(db, fresh) if fresh else []
    if added:
        crash_points.reach("recording.dead_letter")
    if again:
        dead_letters.fail_again(db, again)
    failed = [requeued(letter, Outcome.FAILED) for letter in again] + [
        retried(entry.parked, Outcome.FAILED, reason=letter.reason, message=letter.message)
        for (entry, _), letter in zip(dead, letters, strict=True)
        if entry.parked is not None
    ]
    # What waited before is counted since then.
    fresh_of = {letter.raw: one for one, letter in zip(dead, letters, strict=True) if one[0].parked is None}
    items = [entry.item for entry, _ in dead]
    traces = [parse_traceparent(item.traceparent) for item in items if isinstance(item, Event)]
    return Recorded(
        dead=Counter(letter.reason for letter in added + again),
        dead_traces=[trace.trace_id for trace in traces if trace is not None],
        set_aside=added,
        requeued=failed,
        stored=[_name(letter, *fresh_of[letter.raw]) for letter in added if letter.raw in fresh_of],
    )


def _name(letter: DeadLetter, entry: Entry, error: EventError) -> Letter:
    is_own = isinstance(entry.item, Event) and not isinstance(error, IdentityTaken)
    return Letter(dead_letters.fingerprint(letter.raw), letter.source, letter.event_id, is_own)


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
    crash_points.reach("recording.parked")
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
    result = _write(db, dead)
    result.stored += [name for entry in entries if (name := identity(entry)) not in parked]
    return result


def unpark(db: Connection, entries: list[Entry]) -> None:
    done = [name for entry in entries if (name := parked_name(entry)) is not None]
    if done:
        parking.unpark(db, done)
        crash_points.reach("recording.unparked")


def claim(db: Connection, entries: list[Entry]) -> tuple[list[Entry], list[Requeued]]:
    """The entries without the dead letters that somebody else requeues or has requeued, and what to say of those."""
    letters = [entry.dead for entry in entries if entry.dead is not None]
    if not letters:
        return entries, []
    ours = dead_letters.claim(db, letters)
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
    dead_letters.remove(db, [letter.id for _, letter in left if letter.id is not None])
    became = dict.fromkeys(plan.parked, Outcome.PARKED)
    recorded = {(log.source, log.event_id) for log in plan.logs}
    became |= {at: Outcome.RECORDED for at, _ in left if identity(entries[at]) in recorded}
    return [requeued(letter, became.get(at, Outcome.DUPLICATE)) for at, letter in left]


def claim_parked(db: Connection, entries: list[Entry]) -> set[tuple[str, str]]:
    """The names of the parked events of a batch that somebody else tries, discards or makes due: they are left alone.

    To be called once the batch has its locks (`caselog.schema.recording.parking.claim`).
    """
    parked = [entry.parked for entry in entries if entry.parked is not None]
    if not parked:
        return set()
    return {(event.source, event.event_id) for event in parked} - parking.claim(db, parked)


def settle_parked(
    db: Connection, entries: list[Entry], theirs: set[tuple[str, str]], plan: Plan, failed: list[Requeued]
) -> list[Requeued]:
    """Forget the parked events of a batch that do not wait any more. Returns what became of each that did not fail."""
    if not any(entry.parked for entry in entries):
        return []
    waits = set(plan.parked)
    ours = [
        (at, entry) for at, entry in enumerate(entries) if entry.parked is not None and parked_name(entry) not in theirs
    ]
    unpark(db, [entry for at, entry in ours if at not in waits])
    dead = {event.id for event in failed}
    recorded = {(log.source, log.event_id) for log in plan.logs}
    became = [
        retried(entry.parked, Outcome.ELSEWHERE)
        for entry in entries
        if entry.parked is not None and parked_name(entry) in theirs
    ]
    for at, entry in ours:
        assert entry.parked is not None
        if entry.parked.id in dead:
            continue
        if parked_name(entry) in recorded:
            became.append(retried(entry.parked, Outcome.RECORDED))
        else:
            became.append(retried(entry.parked, Outcome.PARKED if at in waits else Outcome.DUPLICATE))
    return became
