"""Recording a batch: decode, lock and load, resolve, fold, store, commit.

The recorder and the task that tries parked events again share this road. Everything that a batch does is one
transaction; calling `record` again with the same messages changes nothing (DESIGN.md, decisions 3 and 6).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import msgspec
import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from events import facts
from events.afresh import Definitions
from events.errors import CaselogError, EventError, EventFailed
from events.fold import Plan, World, fold
from events.message import Event, Malformed, Message, decode
from events.refold import Past, refold
from events.registry import EventRegistry
from events.resolve import Rules, Screened, failure, screen
from events.sameness import refuse_another, refuse_another_than_parked
from events.traceparent import parse_traceparent
from schema import deadletters, definitions, parking, past, store
from schema.deadletters import DeadLetter
from schema.pausing import find_pause
from schema.reports import outbox
from schema.reports.tally import ReportTally
from workers.entries import Entry, apart, dead_entry, dead_letter, identity, unknown_case, waiting
from workers.loading import Identity, load
from workers.namesakes import turns
from workers.requeued import Outcome, Requeued, requeued

ATTEMPTS: Final = 10
PARKED_EVENTS: Final = 500
# Deadlock and serialization failure: the same transaction succeeds when it is tried again.
_AGAIN: Final = ("40001", "40P01")
# Data exception, integrity violation, program limit exceeded: some row of the batch is to blame, not the world.
_REFUSED_ROW: Final = ("22", "23", "54")


class DatabaseAway(CaselogError):
    """PostgreSQL cannot be used just now; nothing of the batch is known to be written. Try the batch again."""


class Contended(CaselogError):
    """Another recorder recorded an event or created a case of this batch meanwhile: roll back and load again."""


class Recorded(msgspec.Struct):
    """What became of a batch, in events; `dead` by reason. `deltas` were posted, `hastened` parked events are due.

    `dead_traces` are the ids of the traces in which dead letters were sent, as far as they have any; `set_aside` are
    the new ones. What was redelivered is among the `duplicates`, whether it is in the log or a dead letter already.

    For the metrics: `codes` counts what was recorded by (key, code); `ages_s` are its seconds from each event's time to
    the commit, by the database's clock; `transactions_s` is what each transaction took; `refolds` counts the logs of a
    "case" and stretches of an "actor" that late events made us fold anew.

    `requeued` says of each dead letter of the batch what became of it.
    """

    recorded: int = 0
    suppressed: int = 0
    duplicates: int = 0
    parked: int = 0
    dead: Counter[str] = msgspec.field(default_factory=Counter)
    dead_traces: list[str] = msgspec.field(default_factory=list)
    deltas: int = 0
    hastened: int = 0
    set_aside: list[DeadLetter] = msgspec.field(default_factory=list)
    codes: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    ages_s: list[float] = msgspec.field(default_factory=list)
    transactions_s: list[float] = msgspec.field(default_factory=list)
    refolds: Counter[str] = msgspec.field(default_factory=Counter)
    requeued: list[Requeued] = msgspec.field(default_factory=list)

    def add(self, other: Recorded) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


# Called within each transaction with what it does, before it is committed.
Within = Callable[[Connection, Recorded], None]


class Recording:
    """Records events in a database, under one registry and one set of rules."""

    def __init__(
        self,
        engine: Engine,
        registry: EventRegistry,
        rules: Rules,
        *,
        transaction_events: int = 1000,
        give_up_parked_s: float = 86_400,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        """`progress` is called after each step of a batch: however long all of it takes, it is not hanging."""
        self._engine = engine
        self._registry = registry
        self._rules = rules
        self._transaction_events = transaction_events
        self._give_up_parked_s = give_up_parked_s
        self._report_tally = ReportTally(Definitions(registry), rules.zone)
        self._progress = progress
        # The (key, code) whose definitions are known to be kept: a batch that uses no other asks nothing.
        self._kept: set[tuple[str, str]] = set()

    @property
    def engine(self) -> Engine:
        """The database that is recorded in."""
        return self._engine

    def record(self, messages: Sequence[Message]) -> Recorded:
        """Record the events of these messages. When it returns, each is in the log, parked or a dead letter.

        Blocks while other recorders hold the same cases or actors. Raises `DatabaseAway`.
        """
        entries = [
            Entry(item, message, position) for message in messages for position, item in enumerate(message.events)
        ]
        return self._in_transactions(entries)

    def retry_parked(self) -> Recorded:
        """Try parked events that are due again; too old ones become dead letters `unknown_case`.

        While recorders are paused nothing is tried: whatever they were paused for would befall these events, too.
        """
        with _translated(), self._engine.begin() as db:
            due = [] if find_pause(db) is not None else parking.due(db, PARKED_EVENTS)
        messages = [decode(parked.raw) for parked in due]
        return self._in_transactions(
            [Entry(m.events[0], m, 0, parked) for m, parked in zip(messages, due, strict=True)]
        )

    def requeue(self, letters: Sequence[DeadLetter], within: Within | None = None) -> Recorded:
        """Try dead letters again: each leaves in the transaction that records or parks it, or stays with its new fault.

        A letter that is not as it was read, or that somebody else requeues just now, is left alone. Raises
        `DatabaseAway`: what was committed before stays so.
        """
        total = Recorded()
        for batch in apart([dead_entry(letter) for letter in letters]):
            total.add(self._in_transactions(batch, within))
        return total

    def _in_transactions(self, entries: list[Entry], within: Within | None = None) -> Recorded:
        total = Recorded()
        for start in range(0, len(entries), self._transaction_events):
            batch = entries[start : start + self._transaction_events]
            own, others, duplicates = turns(batch)
            total.add(self._bisecting(own, within))
            total.duplicates += duplicates
            taken: set[Identity] = set()
            if others:
                namesakes = [entry for turn in others for entry in turn]
                settled, taken = self._settle_taken(namesakes)
                total.add(settled)
            for turn in others:
                if free := [entry for entry in turn if identity(entry) not in taken]:
                    total.add(self._bisecting(free))
        return total

    def _settle_taken(self, entries: list[Entry]) -> tuple[Recorded, set[Identity]]:
        """Be done at once with those whose names stand in the log; which names these are."""

        def settle(db: Connection, _: bool) -> Recorded:  # noqa: FBT001 - as `_with_retries` calls it
            taken.update(store.recorded_events(db, {identity(entry) for entry in entries}))
            return self._set_aside(db, [(entry, None) for entry in entries if identity(entry) in taken])

        taken: set[Identity] = set()
        return self._with_retries(settle), taken

    def _bisecting(self, entries: list[Entry], within: Within | None = None) -> Recorded:
        """Record a batch; where a row of it is refused, halve it until the one event to blame is alone."""
        try:
            return self._with_retries(lambda db, is_retry: self._batch(db, entries, is_retry=is_retry), within)
        except (DatabaseAway, Contended):
            raise
        except Exception as error:  # noqa: BLE001 - whatever an event brings about is that event's dead letter
            if len(entries) > 1:
                middle = len(entries) // 2
                first = self._bisecting(entries[:middle], within)
                first.add(self._bisecting(entries[middle:], within))
                return first
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            fault = EventFailed(failure("storing the event", cause))
            return self._with_retries(lambda db, _: self._blame(db, entries[0], fault), within)

    def _with_retries(self, work: Callable[[Connection, bool], Recorded], within: Within | None = None) -> Recorded:
        for attempt in range(ATTEMPTS):
            started_s = time.perf_counter()
            try:
                with _translated(), self._engine.begin() as db:
                    recorded = work(db, attempt > 0)
                    if within is not None:
                        within(db, recorded)
            except Contended:
                continue
            took_s = time.perf_counter() - started_s
            recorded.transactions_s = [took_s]
            recorded.ages_s = [age_s + took_s for age_s in recorded.ages_s]
            return recorded
        raise DatabaseAway(
            f"other recorders changed the same cases {ATTEMPTS} times in a row: the batch is tried again"
        )

    def _batch(self, db: Connection, entries: list[Entry], *, is_retry: bool) -> Recorded:
        now, ids = store.clock_and_ids(db, len(entries))
        entries, elsewhere = _claimed(db, entries)
        screened, refused = self._screen(entries, now + self._rules.future_tolerance)
        world, earlier, known = load(db, screened, self._registry, suspect_all=is_retry)
        self._progress()
        fresh = [entry for entry in screened if (entry.event.source, entry.event.id) not in known]
        if earlier is None:
            plan = fold(fresh, world, self._registry, self._rules, iter(ids))
        else:
            plan = refold(fresh, world, earlier, self._registry, self._rules, iter(ids))
        self._progress()
        result = self._store(db, plan, world)
        self._progress()
        refused += [(entries[at], error) for at, error in plan.refused]
        again: list[tuple[Entry, EventError | None]] = [
            (entries[s.position], None) for s in screened if (s.event.source, s.event.id) in known
        ]
        result.add(self._set_aside(db, [*again, *refused]))
        result.add(self._park(db, [entries[at] for at in plan.parked]))
        waiting = set(plan.parked)
        self._unpark(db, [entry for at, entry in enumerate(entries) if at not in waiting])
        _measure(result, plan, earlier, now)
        used = result.codes.keys() - self._kept
        if used:
            self._kept |= definitions.keep(db, [self._registry.get_code(*name) for name in used])
        result.requeued += _left(db, entries, plan, result.requeued) + elsewhere
        return result

    def _blame(self, db: Connection, entry: Entry, fault: EventError) -> Recorded:
        entries, elsewhere = _claimed(db, [entry])
        result = self._set_aside(db, [(one, fault) for one in entries])
        result.requeued += elsewhere
        return result

    def _screen(self, entries: list[Entry], latest: datetime) -> tuple[list[Screened], list[tuple[Entry, EventError]]]:
        """The events that may be folded, and those refused for what they say themselves."""
        screened: list[Screened] = []
        refused: list[tuple[Entry, EventError]] = []
        for position, entry in enumerate(entries):
            if isinstance(entry.item, Malformed):
                refused.append((entry, entry.item.error))
                continue
            try:
                screened.append(screen(position, entry.item, self._registry, latest))
            except EventError as error:
                refused.append((entry, error))
        return screened, refused

    def _store(self, db: Connection, plan: Plan, world: World) -> Recorded:
        created = [plan.cases[reference] for reference in plan.created]
        changed = [case for reference, case in plan.cases.items() if reference not in plan.created]
        started = [plan.timers[timer] for timer in plan.started]
        ended = [timer for timer_id, timer in plan.timers.items() if timer_id not in plan.started]
        hastened = 0
        if plan.logs and not store.insert_logs(db, plan.logs):
            raise Contended
        if created:
            if not store.insert_cases(db, created):
                raise Contended
            hastened = parking.hasten(db, plan.created)
        if changed:
            store.update_cases(db, changed)
        if plan.rewritten:
            store.rewrite_logs(db, (after for _, after in plan.rewritten))
        if plan.removed:
            store.delete_timers(db, plan.removed)
        if ended:
            store.update_timers(db, ended)
        if started:
            store.insert_timers(db, started)
        deltas = outbox.post(db, self._report_tally.rows(plan.logs, plan.rewritten), _moved_cases(plan, world))
        suppressed = sum(log.suppressed for log in plan.logs)
        return Recorded(recorded=len(plan.logs), suppressed=suppressed, deltas=deltas, hastened=hastened)

    def _set_aside(self, db: Connection, refused: Sequence[tuple[Entry, EventError | None]]) -> Recorded:
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
        result = _write_dead(db, dead)
        result.duplicates = len(refused) - result.dead.total()
        return result

    def _park(self, db: Connection, waiting: list[Entry]) -> Recorded:
        """Park what waits for its case, put off what waited before, give up what waited too long."""
        fresh = [entry for entry in waiting if entry.parked is None]
        old = [entry for entry in waiting if entry.parked is not None and entry.parked.age_s > self._give_up_parked_s]
        again = [
            entry for entry in waiting if entry.parked is not None and entry.parked.age_s <= self._give_up_parked_s
        ]
        others = self._park_first(db, fresh) if fresh else Recorded()
        if again:
            parking.put_off(db, [identity(entry) for entry in again])
        given_up = self._set_aside(db, [(entry, unknown_case(entry)) for entry in old])
        self._unpark(db, old)
        given_up.parked = len(fresh) + len(again) - others.dead.total()
        given_up.add(others)
        return given_up

    @staticmethod
    def _park_first(db: Connection, entries: list[Entry]) -> Recorded:
        """Park events that never were; another one under the (source, id) of a parked event is a dead letter."""
        parked = parking.park(db, [waiting(entry) for entry in entries])
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
        return _write_dead(db, dead)

    @staticmethod
    def _unpark(db: Connection, entries: list[Entry]) -> None:
        done = [identity(entry) for entry in entries if entry.parked is not None]
        if done:
            parking.unpark(db, done)


def _moved_cases(plan: Plan, world: World) -> set[str]:
    """The cases whose facts, as reports keep them, this batch may have changed."""
    moved = {log.case for _, log in plan.rewritten if log.case is not None}
    for log in plan.logs:
        if log.case is not None and log.case not in moved:
            # A late event may leave its case as it was, and yet be the first contact after a callback.
            case = plan.cases.get(log.case) or world.cases[log.case]
            if facts.matters(log, case):
                moved.add(log.case)
    return moved | {name for name, case in plan.cases.items() if facts.moved(world.cases.get(name), case)}


def _measure(result: Recorded, plan: Plan, earlier: Past | None, now: datetime) -> None:
    """For the metrics; the ages as they are at the start of the transaction, which is what the database's now is."""
    result.codes = Counter([(log.key, log.code) for log in plan.logs])
    result.ages_s = [(now - log.occurred_at).total_seconds() for log in plan.logs]
    if earlier is not None:
        result.refolds = Counter(case=len(earlier.cases), actor=sum(map(len, earlier.windows.values())))


def _write_dead(db: Connection, dead: list[tuple[Entry, EventError]]) -> Recorded:
    """Write new dead letters, and of those that were tried again what is wrong with them now."""
    letters = [dead_letter(entry, error) for entry, error in dead]
    fresh = [letter for letter in letters if letter.id is None]
    again = [letter for letter in letters if letter.id is not None]
    added = deadletters.set_aside(db, fresh) if fresh else []
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


def _claimed(db: Connection, entries: list[Entry]) -> tuple[list[Entry], list[Requeued]]:
    """The entries without the dead letters that somebody else requeues or has requeued, and what to say of those."""
    letters = [entry.dead for entry in entries if entry.dead is not None]
    if not letters:
        return entries, []
    ours = deadletters.claim(db, letters)
    elsewhere = [requeued(letter, Outcome.ELSEWHERE) for letter in letters if letter.id not in ours]
    return [entry for entry in entries if entry.dead is None or entry.dead.id in ours], elsewhere


def _left(db: Connection, entries: list[Entry], plan: Plan, failed: list[Requeued]) -> list[Requeued]:
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


@contextmanager
def _translated() -> Iterator[None]:
    """Tell what the world did (try again) from what a row did (bisect)."""
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if state in _AGAIN:
            raise Contended from error
        # Without a state it was psycopg that refused the value, before anything was sent.
        unsent = not state and isinstance(error.orig, psycopg.DataError | psycopg.ProgrammingError)
        blames_row = state.startswith(_REFUSED_ROW) or unsent
        if blames_row and not error.connection_invalidated:
            raise
        raise DatabaseAway(f"PostgreSQL: {str(error.orig).strip() or type(error.orig).__name__}") from error
