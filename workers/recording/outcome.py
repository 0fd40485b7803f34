"""What became of a batch, and of what was tried again in it, for those who act on it, count it or report it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

import msgspec

from caselog.events.errors import REASONS
from caselog.events.folding.fold import Plan
from caselog.events.folding.refold import Past
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.recording.parking import Parked
from caselog.workers.continuity.comparison import Name
from caselog.workers.telemetry.counters import (
    BATCH_EVENTS,
    DEAD,
    DUPLICATES,
    EVENT_TO_COMMIT,
    OTHER,
    PARKED,
    PARKED_AGAIN,
    RECEIPT_TO_COMMIT,
    RECORDED,
    REFOLDS,
    SUPPRESSED,
    TRANSACTION,
    Tally,
)


class Outcome(StrEnum):
    """What became of a dead letter, or of a parked event, that was tried again."""

    RECORDED = "recorded"  # in the log, at its place in time
    DUPLICATE = "duplicate"  # the log had it already
    PARKED = "parked"  # it waits for its case
    FAILED = "failed"  # it is a dead letter, still or now, with what is wrong with it
    ELSEWHERE = "elsewhere"  # not tried: somebody else tried or discarded it meanwhile


class Requeued(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the dead letter, or the parked event, `id`; reason and message are those of its latest failure.

    A parked event that did not fail has none.
    """

    id: int
    outcome: Outcome
    source: str | None
    event_id: str | None
    reason: str
    message: str


class Recorded(msgspec.Struct):
    """What became of a batch, in events; `dead` by reason. `deltas` were posted, `made_due` parked events are due.

    `dead_traces` are the ids of the traces in which dead letters were sent, as far as they have any; `set_aside` are
    the new ones. What was redelivered is among the `duplicates`, whether it is in the log or a dead letter already.

    For the metrics: `codes` counts what was recorded by (key, code); `ages_s` are its seconds from each event's time to
    the commit, by the database's clock; `transactions_s` is what each transaction took; `refolds` counts the logs of a
    "case" and stretches of an "actor" that late events made us fold anew.

    `requeued` says of each dead letter of the batch what became of it. `stored` are the names of what is to be counted
    before the commit, empty after it: what was recorded, parked or made a dead letter, and had not been parked before.
    """

    recorded: int = 0
    suppressed: int = 0
    duplicates: int = 0
    parked: int = 0
    dead: Counter[str] = msgspec.field(default_factory=Counter)
    dead_traces: list[str] = msgspec.field(default_factory=list)
    deltas: int = 0
    made_due: int = 0
    set_aside: list[DeadLetter] = msgspec.field(default_factory=list)
    codes: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    ages_s: list[float] = msgspec.field(default_factory=list)
    transactions_s: list[float] = msgspec.field(default_factory=list)
    refolds: Counter[str] = msgspec.field(default_factory=Counter)
    requeued: list[Requeued] = msgspec.field(default_factory=list)
    stored: list[Name] = msgspec.field(default_factory=list)

    def add(self, other: Recorded) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def measure(result: Recorded, plan: Plan, earlier: Past | None, now: datetime) -> None:
    """For the metrics; the ages as they are at the start of the transaction, which is what the database's now is."""
    result.codes = Counter([(log.key, log.code) for log in plan.logs])
    result.ages_s = [(now - log.occurred_at).total_seconds() for log in plan.logs]
    if earlier is not None:
        result.refolds = Counter(case=len(earlier.cases), actor=sum(map(len, earlier.windows.values())))


def requeued(letter: DeadLetter, outcome: Outcome) -> Requeued:
    assert letter.id is not None
    return Requeued(
        id=letter.id,
        outcome=outcome,
        source=letter.source,
        event_id=letter.event_id,
        reason=letter.reason,
        message=letter.message,
    )


def retried(parked: Parked, outcome: Outcome, *, reason: str = "", message: str = "") -> Requeued:
    assert parked.id is not None
    return Requeued(
        id=parked.id,
        outcome=outcome,
        source=parked.source,
        event_id=parked.event_id,
        reason=reason,
        message=message,
    )


def tally_batch(tally: Tally, recorded: Recorded, *, receipts_s: Collection[float]) -> None:
    """What became of a recorder's batch. `receipts_s`: seconds since the arrival of each of its events."""
    _tally_outcome(tally, recorded)
    tally.count(PARKED, recorded.parked)
    tally.observe(EVENT_TO_COMMIT, recorded.ages_s)
    tally.observe(RECEIPT_TO_COMMIT, receipts_s)
    tally.observe(BATCH_EVENTS, (len(receipts_s),))


def tally_retry(tally: Tally, recorded: Recorded) -> None:
    """What became of parked events that were tried again. How long they waited says nothing about the recorder."""
    _tally_outcome(tally, recorded)
    tally.count(PARKED_AGAIN, recorded.parked)


def _tally_outcome(tally: Tally, recorded: Recorded) -> None:
    for name, events in recorded.codes.items():
        tally.count(RECORDED, events, *name)
    tally.count(SUPPRESSED, recorded.suppressed)
    tally.count(DUPLICATES, recorded.duplicates)
    for reason, events in recorded.dead.items():
        tally.count(DEAD, events, reason if reason in REASONS else OTHER)
    for what, logs in recorded.refolds.items():
        tally.count(REFOLDS, logs, what)
    tally.observe(TRANSACTION, recorded.transactions_s)
