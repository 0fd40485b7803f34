"""What becomes of dead letters that are tried again."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from schema.deadletters import DeadLetter


class Outcome(StrEnum):
    """What became of a dead letter that was tried again."""

    RECORDED = "recorded"  # in the log, at its place in time
    DUPLICATE = "duplicate"  # the log had it already
    PARKED = "parked"  # it waits for its case
    FAILED = "failed"  # it stays a dead letter, with what is wrong with it now
    ELSEWHERE = "elsewhere"  # not tried: somebody else requeued or discarded it meanwhile


class Requeued(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the dead letter `id`; reason and message are those of its latest failure."""

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
