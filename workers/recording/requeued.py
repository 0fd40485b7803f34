"""What becomes of dead letters and of parked events that are tried again."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from schema.deadletters import DeadLetter
from schema.parking import Parked


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
