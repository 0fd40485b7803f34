"""What the events of a batch say themselves: which of them may be folded, and why the others may not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from events.errors import EventError
from events.message import Malformed
from events.registry import EventRegistry
from events.resolve import Screened, screen
from workers.entries import Entry
from workers.folding import Folding
from workers.shared import POSITION


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
