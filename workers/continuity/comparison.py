"""Whether all is there that was stored: what Redis remembers of it, compared with what the database has. Pure.

What is compared are counts: each process that records counts in the database what it writes to the log, parks and makes
a dead letter, within the transaction that does, and says the count to Redis once that is committed. So Redis may know
less than the database ever had, and never more: where it knows more, the database has lost something
(docs/decisions/0109).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from caselog.schema.sessions.fencing import Server

ACKNOWLEDGE: Final = "caselog continuity acknowledge --why TEXT"
# What a recorder that ended long ago had counted is compared no more: an older backup is told by the others' counts.
RUNS_KEPT_DAYS: Final = 90


class State(StrEnum):
    """What is so; all but the first two are red."""

    WHOLE = "whole"
    EMPTY = "empty"
    LOST = "lost"
    OTHER_SERVER = "other server"
    OLDER_TIMELINE = "older timeline"
    STANDBY = "standby"
    UNKNOWN = "unknown"


class Run(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of one run: events counted, and when its first and newest batches were."""

    events: int
    first_ms: int
    last_ms: int


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """All that Redis remembers. `is_established`: since the first event, or since somebody acknowledged."""

    server: Server | None
    is_established: bool
    acknowledged: int
    since_ms: int
    runs: Mapping[str, Run]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the database has, read after the memory was. `runs`: events, and the newest batch of each run."""

    server: Server | None
    runs: Mapping[str, tuple[int, datetime]]


class Gap(msgspec.Struct, frozen=True):
    """Of one run, what is remembered and not in the database: the events after `stored` up to `remembered`."""

    stored: int
    remembered: int


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A dead letter by the SHA-256 of its bytes: they are all that tells it from others, which may have its id.

    Source and id as far as they could be read. `is_own`: they are the event's own, so that it may be in the log later;
    not where it could not be read, or where another event has that name.
    """

    sha256: bytes
    source: str | None
    event_id: str | None
    is_own: bool


# What tells one event from all others: (source, id) of what was recorded or parked, else the dead letter.
Name = tuple[str, str] | Letter


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """One batch: the run's count before and after it, the database's clock, and the names of its events.

    `ids` by source are of those that were recorded or parked.
    """

    run: str
    before: int
    after: int
    at_ms: int
    ids: dict[str, list[str]]
    letters: list[Letter] = []

    def names(self) -> list[Name]:
        return [*((source, one) for source, ids in self.ids.items() for one in ids), *self.letters]


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What is missing now. `again` were lost and are there again, `unnamed` are those that no mark names."""

    missing: int = 0
    again: int = 0
    unnamed: int = 0
    first_ms: int | None = None
    last_ms: int | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The state in words. `missing` is None where nobody can know."""

    state: State
    value: str
    hint: str | None = None
    missing: int | None = None

    @property
    def is_green(self) -> bool:
        return self.state in (State.WHOLE, State.EMPTY)


def gaps(remembered: Remembered, stored: Stored) -> dict[str, Gap]:
    """The runs of which the database has less than is remembered."""
    found = {}
    for name, run in remembered.runs.items():
        events = stored.runs[name][0] if name in stored.runs else 0
        if events < run.events:
            found[name] = Gap(events, run.events)
    return found


def to_tell(remembered: Remembered, stored: Stored, now: datetime) -> dict[str, tuple[int, datetime]]:
    """The runs of which less is remembered than the database has, where that is the one that is known or its successor.

    Redis was away when a process ended, or came back as it was a while ago. Runs that are about to be forgotten are
    left out (`RUNS_KEPT_DAYS`, by the database's clock; this machine's may differ by less than a day).
    """
    known, server = remembered.server, stored.server
    if server is None or known is None:
        if gaps(remembered, stored):
            return {}
    elif server.system != known.system or (server.timeline or 0) < (known.timeline or 0):
        return {}
    since = now - timedelta(days=RUNS_KEPT_DAYS - 1)
    runs = remembered.runs
    return {
        name: run
        for name, run in stored.runs.items()
        if run[1] > since and (name not in runs or runs[name].events < run[0])
    }


def is_lost(mark: Mark, found: Mapping[str, Gap]) -> bool:
    """Whether this batch is in one of the gaps: a batch is in the database as a whole, or not at all."""
    gap = found.get(mark.run)
    return gap is not None and gap.stored <= mark.before and mark.after <= gap.remembered


def named(marks: Collection[Mark]) -> set[Name]:
    """The events of these marks, each once: one may have been a dead letter first, and recorded when it came again."""
    found: set[Name] = set()
    found.update(*(mark.names() for mark in marks))
    own = [letter for mark in marks for letter in mark.letters if letter.is_own]
    return found.difference([letter for letter in own if event_of(letter) in found])


def event_of(letter: Letter) -> tuple[str, str]:
    """The name that the event of a letter has in the log, of one that has its own."""
    assert letter.source is not None
    assert letter.event_id is not None
    return letter.source, letter.event_id


def measure(remembered: Remembered, stored: Stored, marks: Iterable[Mark], again: set[Name]) -> Loss:
    """What is missing, of `marks` that are lost (`is_lost`) and the events of them that are there `again`."""
    found = gaps(remembered, stored)
    counted = sum(gap.remembered - gap.stored for gap in found.values())
    once = {(mark.run, mark.before): mark for mark in marks}.values()  # one may have been sent twice
    names = named(once)
    left = names - again
    times = [mark.at_ms for mark in once if not left.isdisjoint(mark.names())]
    unnamed = max(0, counted - sum(mark.after - mark.before for mark in once))
    if unnamed:
        for name in found:
            kept = stored.runs.get(name)
            times += [remembered.runs[name].first_ms if kept is None else _ms(kept[1]), remembered.runs[name].last_ms]
    missing = unnamed + len(left)
    return Loss(
        missing=missing,
        again=len(names & again),
        unnamed=unnamed,
        first_ms=min(times, default=None) if missing else None,
        last_ms=max(times, default=None) if missing else None,
    )


def judge(remembered: Remembered | None, stored: Stored, loss: Loss, where: str = "") -> Verdict:
    """The one state of it all, the worst first; `where` the database answered."""
    now = stored.server
    if now is not None and now.timeline is None:
        return _STANDBY
    if remembered is None:
        return _NO_MEMORY_AT_ALL if stored.runs else _NOTHING_YET
    if now is not None and remembered.server is not None:
        if now.system != remembered.server.system:
            return _other_server(now, remembered.server, loss)
        if (now.timeline or 0) < (remembered.server.timeline or 0):
            return older_timeline(now, remembered.server, loss, where)
    if loss.missing:
        return Verdict(state=State.LOST, value=_missing_in_words(loss), hint=_LOST_HINT, missing=loss.missing)
    return _nothing_missing(remembered, now, loss)


def _other_server(now: Server, known: Server, loss: Loss) -> Verdict:
    return Verdict(
        state=State.OTHER_SERVER,
        value=f"this is another server (system {now.system}) than the one that was recorded in (system {known.system})"
        f"; {_missing_in_words(loss) if loss.missing else 'no event is known to be missing'}",
        hint=f"Where it was restored or moved, and nothing is to be sent again: {ACKNOWLEDGE}. Else point "
        "CASELOG_DATABASE_URL at the right one",
        missing=loss.missing,
    )


def older_timeline(now: Server, known: Server, loss: Loss, where: str) -> Verdict:
    """Of a server that is fenced off."""
    return Verdict(
        state=State.OLDER_TIMELINE,
        value=f"this server{f' ({where})' if where else ''} is on timeline {now.timeline}, and timeline "
        f"{known.timeline} is known: nothing is written to it, events wait"
        f"{f'; here {_missing_in_words(loss)}' if loss.missing else ''}",
        hint="Stop it: it is an old primary that came back after a failover. Start the new one, and see that "
        "CASELOG_DATABASE_URL leads to it. Only where the new one is gone for good, or this is an older backup that is "
        "meant, acknowledge: see CaselogContinuityBroken in the runbook",
        missing=loss.missing or None,  # none that is known of may be some that nobody knows of
    )


def _nothing_missing(remembered: Remembered, now: Server | None, loss: Loss) -> Verdict:
    if not remembered.is_established:
        value = f"{_NO_MEMORY} before {in_words(remembered.since_ms)}"
        return Verdict(state=State.UNKNOWN, value=value, hint=_UNKNOWN_HINT)
    where = "the server does not tell its timeline" if now is None else f"timeline {now.timeline}"
    again = f"; {loss.again:,} that were lost are there again" if loss.again else ""
    return Verdict(state=State.WHOLE, value=f"nothing is missing ({where}){again}", missing=0)


_NO_MEMORY: Final = "unknown: Redis remembers nothing of what was recorded"
_UNKNOWN_HINT: Final = (
    "Redis was emptied, or is another one. Where you know that the database was not set back meanwhile: " + ACKNOWLEDGE
)
_LOST_HINT: Final = (
    "A failover, a crash or a restore took them. Send them again (the same ids are harmless; caselog continuity "
    f"--missing lists them), and this turns green by itself; or {ACKNOWLEDGE}"
)
_STANDBY: Final = Verdict(
    state=State.STANDBY,
    value="unknown: this server is a standby, which may yet get what is missing",
    hint="See the check database",
)
_NOTHING_YET: Final = Verdict(state=State.EMPTY, value="nothing is counted yet", missing=0)
_NO_MEMORY_AT_ALL: Final = Verdict(state=State.UNKNOWN, value=_NO_MEMORY, hint=_UNKNOWN_HINT)


def _missing_in_words(loss: Loss) -> str:
    assert loss.first_ms is not None
    assert loss.last_ms is not None
    many = f"about {loss.missing:,} event{' is' if loss.missing == 1 else 's are'} missing"
    again = f"; {loss.again:,} that were lost are there again" if loss.again else ""
    return f"{many}, stored from {in_words(loss.first_ms)} to {in_words(loss.last_ms)}{again}"


def in_words(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
