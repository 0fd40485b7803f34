"""Recording a batch: decode, lock and load, resolve, fold, store, commit.

The recorder and the task that tries parked events again share this road. Everything that a batch does is one
transaction; calling `record` again with the same messages changes nothing (DESIGN.md, decisions 3 and 6).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from events.afresh import Definitions
from events.errors import EventError, EventFailed
from events.fold import fold
from events.message import Malformed, Message, decode
from events.refold import refold
from events.registry import EventRegistry
from events.resolve import Rules, Screened, failure, screen
from schema import definitions, parking, store
from schema.deadletters import DeadLetter
from schema.pausing import find_pause
from schema.reports.tally import ReportTally
from workers import crashing
from workers.entries import Entry, apart, dead_entry, identity
from workers.loading import Identity, load
from workers.namesakes import turns
from workers.recorded import Recorded, measure
from workers.setting_aside import claim, park, set_aside, settle, unpark
from workers.storing import store_plan
from workers.transactions import Contended, DatabaseAway, OtherSchema, translated

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
        with translated(), self._engine.begin() as db:
            due = [] if find_pause(db) is not None else parking.due(db, PARKED_EVENTS)
        crashing.reach("retry.taken")
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
            return set_aside(db, [(entry, None) for entry in entries if identity(entry) in taken])

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
                with translated(), self._engine.begin() as db:
                    recorded = work(db, attempt > 0)
                    if within is not None:
                        within(db, recorded)
                    crashing.reach("recording.before_commit")
            except Contended:
                continue
            except OtherSchema as error:
                raise OtherSchema(_which_schema(self._engine) or str(error)) from error
            crashing.reach("recording.committed")
            took_s = time.perf_counter() - started_s
            recorded.transactions_s = [took_s]
            recorded.ages_s = [age_s + took_s for age_s in recorded.ages_s]
            return recorded
        raise DatabaseAway(
            f"other recorders changed the same cases {ATTEMPTS} times in a row: the batch is tried again"
        )

    def _batch(self, db: Connection, entries: list[Entry], *, is_retry: bool) -> Recorded:
        now, ids = store.clock_and_ids(db, len(entries))
        entries, elsewhere = claim(db, entries)
        screened, refused = self._screen(entries, now + self._rules.future_tolerance)
        world, earlier, known = load(db, screened, self._registry, suspect_all=is_retry)
        crashing.reach("recording.locked")
        self._progress()
        again = {s.position for s in screened if (s.event.source, s.event.id) in known} if known else set()
        fresh = [s for s in screened if s.position not in again] if again else screened
        if earlier is None:
            plan = fold(fresh, world, self._registry, self._rules, iter(ids))
        else:
            plan = refold(fresh, world, earlier, self._registry, self._rules, iter(ids))
        self._progress()
        result = store_plan(db, plan, world, self._report_tally)
        self._progress()
        refused += [(entries[at], error) for at, error in plan.refused]
        result.add(set_aside(db, [*((entries[at], None) for at in sorted(again)), *refused]))
        result.add(park(db, [entries[at] for at in plan.parked], self._give_up_parked_s))
        waiting = set(plan.parked)
        unpark(db, [entry for at, entry in enumerate(entries) if entry.parked is not None and at not in waiting])
        measure(result, plan, earlier, now)
        used = result.codes.keys() - self._kept
        if used:
            self._kept |= definitions.keep(db, [self._registry.get_code(*name) for name in used])
        result.requeued += settle(db, entries, plan, result.requeued) + elsewhere
        return result

    def _blame(self, db: Connection, entry: Entry, fault: EventError) -> Recorded:
        entries, elsewhere = claim(db, [entry])
        result = set_aside(db, [(one, fault) for one in entries])
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
        # Here, while nothing is locked; the fold then finds them in order.
        screened.sort(key=attrgetter("order_key"))
        return screened, refused


def _which_schema(engine: Engine) -> str | None:
    """What to do about a schema that is not this version's; None where nobody can tell."""
    from schema.migrate import tell_revisions  # noqa: PLC0415 - Alembic is not for who has the right schema

    try:
        with engine.connect() as db:
            return tell_revisions(db)
    except DBAPIError:
        return None
