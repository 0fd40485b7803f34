"""What the events of a batch say themselves: which of them may be folded, and why the others may not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from caselog.events.errors import EventError
from caselog.events.folding.resolve import Screened, screen
from caselog.events.model.message import Malformed
from caselog.events.model.registry import EventRegistry
from caselog.workers.rule_watch.entry import Entry
from caselog.workers.rule_watch.guard import Folding
from caselog.workers.rule_watch.shared_memory import POSITION


def screen_all(
    entries: Sequence[Entry], registry: EventRegistry, latest: datetime, folding: Folding
) -> tuple[list[Screened], list[tuple[Entry, EventError]]]:
    """The events that may be folded, in order, and those refused for what they say themselves.

    Within `folding.rules`. `latest` is the database's clock plus the tolerance.
    """
    screened: list[Screened] = []
    refused: list[tuple[Entry, EventError]] = []
    cells = folding.cells
    for position, entry in enumerate(entries):
        if isinstance(entry.item, Malformed):
            refused.append((entry, entry.item.error))
            continue
        cells[POSITION] = position
        if folding.is_due:
            folding.step()
        try:
            screened.append(screen(position, entry.item, registry, latest))
        except EventError as error:
            refused.append((entry, error))
    # Here, while nothing is locked; the fold then finds them in order.
    screened.sort(key=attrgetter("order_key"))
    return screened, refused
