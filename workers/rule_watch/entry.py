"""One event on its way through a batch, and what it becomes where it cannot be recorded."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from caselog.events.errors import EventError, MalformedEvent, UnknownCase
from caselog.events.model.message import Event, Malformed, Message, decode, misspelt_members, open_event
from caselog.events.phrases import count_of, said, storable
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.recording.parking import Parked

# With a traceback and all faults of an event; a rule may refuse an event in more words than anybody reads.
MESSAGE_CHARACTERS: Final = 20_000


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


def parked_name(entry: Entry) -> tuple[str, str] | None:
    """The (source, event_id) under which it is parked; None where it is not."""
    return None if entry.parked is None else (entry.parked.source, entry.parked.event_id)


def waiting(entry: Entry) -> Parked:
    event = entry.item
    assert isinstance(event, Event)
    assert event.subject is not None
    return Parked(source=event.source, event_id=event.id, key=event.type, case_reference=event.subject, raw=entry.raw)


def unknown_case(entry: Entry) -> EventError:
    assert entry.parked is not None
    return UnknownCase(
        f"no case with this event's subject was created within {count_of(round(entry.parked.age_s), 'second')}. "
        f"Publish the event that creates it, or mend the subject; then run: caselog dead requeue --reason unknown_case"
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
        message=storable(_told(entry, error)),
        raw=entry.raw,
        source=item.source,
        event_id=event_id,
        key=key,
        code=code,
        case_reference=item.subject,
        attempts=1 if before is None else before.attempts + 1,
        id=None if entry.dead is None else entry.dead.id,
    )


def _told(entry: Entry, error: EventError) -> str:
    """The error in words. Where a member was misspelt, that may be all that is wrong with the event."""
    if isinstance(entry.item, Malformed):
        return said(error, MESSAGE_CHARACTERS)
    members, _ = open_event(entry.raw)
    return " ".join([said(error, MESSAGE_CHARACTERS), *misspelt_members(members)])


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
