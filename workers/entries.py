"""One event on its way through a batch, and what it becomes where it cannot be recorded."""

from __future__ import annotations

from collections import Counter

import msgspec

from events.errors import EventError, MalformedEvent, UnknownCase
from events.message import Event, Malformed, Message, decode
from schema.deadletters import DeadLetter
from schema.parking import Parked


class Entry(msgspec.Struct, frozen=True):
    """One event on its way: what was decoded, and where its bytes are.

    `parked` where it waited for its case, `dead` where it was set aside.
    """

    item: Event | Malformed
    message: Message
    position: int
    parked: Parked | None = None
    dead: DeadLetter | None = None

    @property
    def raw(self) -> bytes:
        return self.message.raw(self.position)


def identity(entry: Entry) -> tuple[str, str]:
    assert isinstance(entry.item, Event)
    return entry.item.source, entry.item.id


def waiting(entry: Entry) -> Parked:
    event = entry.item
    assert isinstance(event, Event)
    assert event.subject is not None
    return Parked(source=event.source, event_id=event.id, key=event.type, case_reference=event.subject, raw=entry.raw)


def unknown_case(entry: Entry) -> EventError:
    assert entry.parked is not None
    return UnknownCase(
        f"no case with this event's subject was created within {entry.parked.age_s:,.0f} seconds. Publish the event "
        f"that creates it, or mend the subject; then run: caselog dead requeue --reason unknown_case"
    )


def dead_letter(entry: Entry, error: EventError) -> DeadLetter:
    item = entry.item
    if isinstance(item, Malformed):
        event_id, key, code = item.event_id, item.key, item.code
    else:
        event_id, key, code = item.id, item.type, item.data.code
    before = entry.parked or entry.dead
    return DeadLetter(
        reason=error.reason,
        message=str(error).replace("\x00", "\N{REPLACEMENT CHARACTER}"),
        raw=entry.raw,
        source=item.source,
        event_id=event_id,
        key=key,
        code=code,
        case_reference=item.subject,
        attempts=1 if before is None else before.attempts + 1,
        id=None if entry.dead is None else entry.dead.id,
    )


def dead_entry(letter: DeadLetter) -> Entry:
    message = decode(letter.raw)
    item = message.events[0]
    if len(message.events) > 1:  # as it was set aside, nobody could tell its events apart
        item = Malformed(MalformedEvent("the message holds several events: publish them anew and discard this one"))
    return Entry(item, message, 0, dead=letter)


def apart(entries: list[Entry]) -> list[list[Entry]]:
    """The entries in batches that hold no event twice: two dead letters may be the same event in other bytes."""
    batches: list[list[Entry]] = []
    times: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        batch = 0
        if isinstance(entry.item, Event):
            batch = times[identity(entry)]
            times[identity(entry)] += 1
        if batch == len(batches):
            batches.append([])
        batches[batch].append(entry)
    return batches
