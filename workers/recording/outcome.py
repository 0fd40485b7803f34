"""What became of a batch, for those who act on it, count it or report it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import msgspec

from events.fold import Plan
from events.refold import Past
from schema.deadletters import DeadLetter
from workers.continuity import Name
from workers.requeued import Requeued


class Recorded(msgspec.Struct):
    """What became of a batch, in events; `dead` by reason. `deltas` were posted, `hastened` parked events are due.

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
    hastened: int = 0
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
