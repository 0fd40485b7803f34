"""What a worker's rules are at, in memory that its watcher sees: which event, since how many steps, in which thread.

Written some thousand times a batch, so each is one cell of 8 bytes. Behind the cells lie the names of the batch's
events as JSON.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Final

import msgspec

POSITION: Final = 0
"""The position of the event whose rules are called; `NOBODYS` for those of a stored log."""
STEPS: Final = 1
"""Counts the calls of stored logs' rules, and batches: where it and the position stand still, one rule is at it."""
IS_ACTIVE: Final = 2
"""Whether rules are called at all just now."""
THREAD: Final = 3
"""The kernel's number of the thread that calls them."""
NAMES_BYTES: Final = 4
NOBODYS: Final = -1
CELLS_BYTES: Final = 64
# Not one page more than is written to is ever taken: the largest batch has 10,000 events, and most names are short.
_SIZE: Final = 64 * 1024 * 1024

Name = tuple[str | None, str | None]


class Shared:
    """The memory, as the worker writes it and the watcher reads it, which is given its `file`."""

    def __init__(self, file: int | None = None) -> None:
        self.file = _make() if file is None else file
        self._map = mmap.mmap(self.file, _SIZE)
        self.cells = memoryview(self._map)[:CELLS_BYTES].cast("q")

    def name(self, names: Sequence[Name]) -> None:
        """Say which events the positions are."""
        encoded = msgspec.json.encode(names)
        if len(encoded) > _SIZE - CELLS_BYTES:
            encoded = b"[]"
        self._map[CELLS_BYTES : CELLS_BYTES + len(encoded)] = encoded
        self.cells[NAMES_BYTES] = len(encoded)

    def suspects(self) -> list[tuple[str, str]]:
        """(source, id) of the event in hand; where that is not one event's own rule, of all events of the batch."""
        names = msgspec.json.decode(self._map[CELLS_BYTES : CELLS_BYTES + self.cells[NAMES_BYTES]], type=list[Name])
        position = self.cells[POSITION]
        chosen = names[position : position + 1] if position >= 0 else names
        return [(source, event_id) for source, event_id in chosen if source is not None and event_id is not None]


def _make() -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("caselog")
    else:
        with tempfile.TemporaryFile() as made:
            file = os.dup(made.fileno())
    os.ftruncate(file, _SIZE)
    return file
