"""Recording a batch: decode, lock and load, resolve, fold, store, commit.

The recorder and the task that tries parked events again share this road. Everything that a batch does is one
transaction; calling `record` again with the same messages changes nothing (docs/design.md "Exactly once").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from caselog.events.errors import EventError, EventFailed
from caselog.events.folding.fold import fold
from caselog.events.folding.recompute import Definitions
from caselog.events.folding.refold import refold
from caselog.events.folding.resolve import Rules, failure
from caselog.events.model.message import Malformed, Message, decode
from caselog.events.model.registry import EventRegistry
from caselog.schema.operations.pause import find_pause
from caselog.schema.recording import definitions, parking, store
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.recording.parking import Parked
from caselog.schema.reports.tally import ReportTally
from caselog.schema.sessions.connection import driver_of, limit_idle
from caselog.workers.continuity.counting import Counting
from caselog.workers.process import crash_points
from caselog.workers.process.logs import get_logger
from caselog.workers.recording.dead_lettering import claim, claim_parked, park, set_aside, settle, settle_parked, unpark
from caselog.workers.recording.duplicate_ids import turns
from caselog.workers.recording.loading import Identity, load
from caselog.workers.recording.outcome import Recorded, measure
from caselog.workers.recording.screening import screen_all
from caselog.workers.recording.storing import store_plan
from caselog.workers.recording.suspects import PATIENCE_S, Suspects
from caselog.workers.rule_watch.entry import Entry, apart, dead_entry, identity, parked_name
from caselog.workers.rule_watch.guard import Fault, Folding, Overdue, TooLong
from caselog.workers.servers.database_errors import (
    Contended,
    DatabaseAway,
    OtherSchema,
    Outrun,
    Taken,
    translated,
    which_schema,
)

ATTEMPTS: Final = 10
PARKED_EVENTS: Final = 500


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
        folding: Folding | None = None,
        counting: Counting | None = None,
    ) -> None:
        """`progress` is called after each step of a batch: however long all of it takes, it is not hanging.

        `folding` watches the rules; without one they are watched with the usual limit. Without `counting` nobody
        remembers what was recorded, should the database lose it.
        """
        self._engine = engine
        self._registry = registry
        self._rules = rules
        self._transaction_events = transaction_events
        self._give_up_parked_s = give_up_parked_s
        self._report_tally = ReportTally(Definitions(registry), rules.zone)
        self._progress = progress
        self._folding = folding or Folding(progress=progress)
        self._counting = counting
        self._suspects = Suspects(engine, self._folding)
        # Whether an event alone was folded for longer than its session may stand still, with nobody to blame.
        self._is_patient = False
        # The (key, code) whose definitions are known to be kept: a batch that uses no other asks nothing.
        self._kept: set[tuple[str, str]] = set()

    @property
    def engine(self) -> Engine:
        """The database that is recorded in."""
        return self._engine

    @property
    def folding(self) -> Folding:
        """What watches the rules."""
        return self._folding

    def close(self) -> None:
        """Say what was recorded last to who remembers it, and leave the database."""
        if self._counting is not None:
            self._counting.close()
        self._engine.dispose()

    def record(self, messages: Sequence[Message], *, alive: Callable[[], object] = lambda: None) -> Recorded:
        """Record the events of these messages. When it returns, each is in the log, parked or a dead letter.

        Blocks while other recorders hold the same cases or actors, and while a rule is at it, for some minutes at
        most; `alive` is called about once a second while a batch is folded for long. Raises `DatabaseAway`.
        """
        self._folding.alive = alive
        entries = [
            Entry(item, message, position) for message in messages for position, item in enumerate(message.events)
        ]
        return self._in_transactions(entries)

    def retry_parked(self) -> Recorded:
        """Try parked events that are due again; too old ones become dead letters `unknown_case`.

        While recorders are paused nothing is tried: whatever they were paused for would befall these events, too.
        """
        with translated(), self._engine.begin() as db:
            due = [] if find_pause(db) is not None else parking.due(db, PARKED_EVENTS)
        crash_points.reach("retry.taken")
        return self.retry(due)

    def retry(self, parked: Sequence[Parked], within: Within | None = None) -> Recorded:
        """Try these parked events, due or not; too old ones become dead letters `unknown_case`.

        One that somebody else tries, discards or makes due just now is left alone. Raises `DatabaseAway` as `requeue`.
        """
        messages = [decode(event.raw) for event in parked]
        return self._in_transactions(
            [Entry(m.events[0], m, 0, event) for m, event in zip(messages, parked, strict=True)], within
        )

    def requeue(self, letters: Sequence[DeadLetter], within: Within | None = None) -> Recorded:
        """Try dead letters again: each leaves in the transaction that records or parks it, or stays with its new fault.

        A letter that is not as it was read, or that somebody else requeues just now, is left alone. Raises
        `DatabaseAway`: what was committed before stays so.
        """
        total = Recorded()
        entries = [dead_entry(letter) for letter in letters]
        self._suspects.pardon(entries)
        for batch in apart(entries):
            total.add(self._in_transactions(batch, within))
        return total

    def _in_transactions(self, entries: list[Entry], within: Within | None = None) -> Recorded:
        total = Recorded()
        for start in range(0, len(entries), self._transaction_events):
            batch = entries[start : start + self._transaction_events]
            own, others, duplicates = turns(batch)
            total.add(self._suspects_last(own, within))
            total.duplicates += duplicates
            taken: set[Identity] = set()
            if others:
                namesakes = [entry for turn in others for entry in turn]
                settled, taken = self._settle_taken(namesakes)
                total.add(settled)
            for turn in others:
                if free := [entry for entry in turn if identity(entry) not in taken]:
                    total.add(self._suspects_last(free))
        return total

    def _settle_taken(self, entries: list[Entry]) -> tuple[Recorded, set[Identity]]:
        """Be done at once with those whose names stand in the log; which names these are."""

        def settle(db: Connection, _: bool) -> Recorded:  # noqa: FBT001 - as `_with_retries` calls it
            taken.update(store.recorded_events(db, {identity(entry) for entry in entries}))
            return set_aside(db, [(entry, None) for entry in entries if identity(entry) in taken])

        taken: set[Identity] = set()
        return self._with_retries(settle), taken

    def _suspects_last(self, entries: list[Entry], within: Within | None = None) -> Recorded:
        """Record a batch; events whose rules took too long before come after the others, each alone."""
        suspected = self._suspects.among(entries)
        if not suspected:
            return self._bisecting(entries, within)
        total = Recorded()
        names = {identity(entry) for entry in suspected}
        if others := [entry for entry in entries if isinstance(entry.item, Malformed) or identity(entry) not in names]:
            total.add(self._bisecting(others, within))
        for entry in suspected:
            total.add(self._try_suspect(entry, within))
        return total

    def _try_suspect(self, entry: Entry, within: Within | None) -> Recorded:
        """Try it once more alone; once it is condemned it is a dead letter, whenever it comes."""
        if (why := self._suspects.verdict(entry)) is not None:
            fault = EventFailed(why)
            return self._with_retries(lambda db, _: self._blame(db, entry, fault), within)
        recorded = self._bisecting([entry], within)
        self._suspects.acquit(entry)
        return recorded

    def _slow(self, entries: list[Entry], fault: Fault, within: Within | None) -> Recorded:
        """What folded for too long: the event to blame is told from the others, which are recorded first."""
        suspect = entries[0] if len(entries) == 1 else fault.entry
        if suspect is None:
            get_logger().warning("folding took too long; the batch is halved", why=fault.why, events=len(entries))
            return self._halves(entries, within)
        self._suspects.strike(suspect, fault.why)
        others = [entry for entry in entries if entry is not suspect]
        total = self._suspects_last(others, within) if others else Recorded()
        total.add(self._try_suspect(suspect, within))
        return total

    def _halves(self, entries: list[Entry], within: Within | None) -> Recorded:
        middle = len(entries) // 2
        total = self._suspects_last(entries[:middle], within)
        total.add(self._suspects_last(entries[middle:], within))
        return total

    def _bisecting(
        self, entries: list[Entry], within: Within | None = None, *, is_undisturbed: bool = False
    ) -> Recorded:
        """Record a batch; where a row of it is refused, halve it until the one event to blame is alone.

        `is_undisturbed`: while nobody else records. What is taken even then is the event's own doing.
        """

        def work(db: Connection, is_retry: bool) -> Recorded:  # noqa: FBT001 - as `_with_retries` calls it
            if is_undisturbed:
                store.close_gate(db)
            return self._batch(db, entries, is_retry=is_retry)

        try:
            return self._with_retries(work, within)
        except Outrun as error:
            if len(entries) > 1:
                return self._halves(entries, within)
            if not isinstance(error.__cause__, Taken):
                raise
            if is_undisturbed:
                return self._blame_for(entries[0], error.__cause__.__cause__ or error, within)
            return self._bisecting(entries, within, is_undisturbed=True)
        except (Overdue, TooLong, DatabaseAway) as error:
            # With its session the database takes the word from who folds for too long: that is no fault of its own.
            slow = self._folding.fault or self._long(entries, error)
            if slow is None:
                raise
            return self._slow(entries, slow, within)
        except Exception as error:  # noqa: BLE001 - whatever an event brings about is that event's dead letter
            return self._halves(entries, within) if len(entries) > 1 else self._blame_for(entries[0], error, within)

    def _long(self, entries: list[Entry], error: BaseException) -> Fault | None:
        """Whether the batch was folded for too long, with no rule to blame. Raises `DatabaseAway` for a lone event."""
        if self._folding.took_s < self._folding.limit_s:
            return None
        why = f"folding took {self._folding.took_s:.0f} s"
        if len(entries) > 1:
            return Fault(None, why)
        # On a machine that gives it no processor.
        self._is_patient = True
        raise DatabaseAway(f"{why}; it is tried again, with more time") from error

    def _blame_for(self, entry: Entry, error: BaseException, within: Within | None) -> Recorded:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        fault = EventFailed(failure("storing the event", cause))
        return self._with_retries(lambda db, _: self._blame(db, entry, fault), within)

    def _with_retries(self, work: Callable[[Connection, bool], Recorded], within: Within | None = None) -> Recorded:
        contended: Contended | None = None
        for attempt in range(ATTEMPTS):
            started_s = time.perf_counter()
            self._folding.fault, self._folding.took_s = None, 0.0
            try:
                with translated(), self._engine.begin() as db:
                    if self._counting is not None:
                        self._counting.meet(db)
                    recorded = work(db, attempt > 0)
                    marks = [] if self._counting is None else self._counting.count(db, recorded.stored)
                    if within is not None:
                        within(db, recorded)
                    crash_points.reach("recording.before_commit")
            except Contended as error:
                contended = error
                continue
            except OtherSchema as error:
                raise OtherSchema(which_schema(self._engine) or str(error)) from error
            crash_points.reach("recording.committed")
            if self._counting is not None:
                self._counting.keep(marks)
            recorded.stored = []
            took_s = time.perf_counter() - started_s
            recorded.transactions_s = [took_s]
            recorded.ages_s = [age_s + took_s for age_s in recorded.ages_s]
            return recorded
        raise Outrun(
            f"other recorders changed the same cases {ATTEMPTS} times in a row: the batch is tried again"
        ) from contended

    def _batch(self, db: Connection, entries: list[Entry], *, is_retry: bool) -> Recorded:
        now, ids = store.clock_and_ids(db, len(entries))
        entries, elsewhere = claim(db, entries)
        self._folding.name(entries)
        if len(entries) == 1 and (self._is_patient or self._suspects.is_slow(entries[0])):
            limit_idle(db, PATIENCE_S)
        session = driver_of(db).fileno()
        with self._folding.rules(entries, session=session):
            screened, refused = screen_all(entries, self._registry, now + self._rules.future_tolerance, self._folding)
        world, earlier, known = load(db, screened, self._registry, suspect_all=is_retry)
        if theirs := claim_parked(db, entries):
            screened = [s for s in screened if (s.event.source, s.event.id) not in theirs]
            refused = [(entry, error) for entry, error in refused if parked_name(entry) not in theirs]
        crash_points.reach("recording.locked")
        self._progress()
        again = {s.position for s in screened if (s.event.source, s.event.id) in known} if known else set()
        fresh = [s for s in screened if s.position not in again] if again else screened
        with self._folding.rules(entries, session=session):
            if earlier is None:
                plan = fold(fresh, world, self._registry, self._rules, iter(ids), self._folding.watch)
            else:
                plan = refold(fresh, world, earlier, self._registry, self._rules, iter(ids), self._folding.watch)
        self._progress()
        result = store_plan(db, plan, world, self._report_tally, self._registry)
        self._progress()
        refused += [(entries[at], error) for at, error in plan.refused]
        result.add(set_aside(db, [*((entries[at], None) for at in sorted(again)), *refused]))
        result.add(park(db, [entries[at] for at in plan.parked], self._give_up_parked_s))
        measure(result, plan, earlier, now)
        waited = {parked_name(entry) for entry in entries}
        result.stored += [name for log in plan.logs if (name := (log.source, log.event_id)) not in waited]
        used = result.codes.keys() - self._kept
        if used:
            self._kept |= definitions.keep(db, [self._registry.get_code(*name) for name in used])
        failed = [*result.requeued]
        result.requeued += (
            settle(db, entries, plan, failed) + settle_parked(db, entries, theirs, plan, failed) + elsewhere
        )
        return result

    def _blame(self, db: Connection, entry: Entry, fault: EventError) -> Recorded:
        entries, elsewhere = claim(db, [entry])
        if parked_name(entry) in claim_parked(db, entries):
            entries = []
        result = set_aside(db, [(one, fault) for one in entries])
        unpark(db, entries)
        result.requeued += elsewhere
        return result
