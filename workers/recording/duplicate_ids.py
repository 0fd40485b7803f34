"""Different events under one (source, id) that come together: each is recorded or refused in a turn of its own.

So a batch ends as if they had come one by one, and no transaction meets one name twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from caselog.events.model.message import Malformed
from caselog.workers.rule_watch.entry import Entry

_encode: Final = msgspec.json.Encoder().encode


def turns(entries: Iterable[Entry]) -> tuple[list[Entry], list[list[Entry]], int]:
    """The entries by turns: the first of each name; then the second, third, … different ones, one list a turn.

    And how many are left out, because an entry before them says the very same. Malformed entries have no name. What
    says the same in other words may get a turn of its own: that costs a look-up, and is found there.
    """
    first: dict[tuple[str, str], Entry] = {}
    written: dict[tuple[str, str], set[bytes]] = {}
    own: list[Entry] = []
    others: list[list[Entry]] = []
    duplicates = 0
    for entry in entries:
        item = entry.item
        if isinstance(item, Malformed):
            own.append(entry)
            continue
        name = (item.source, item.id)
        before = first.setdefault(name, entry)
        if before is entry:
            own.append(entry)
            continue
        different = written.setdefault(name, {_encode(before.item)})
        encoded = _encode(item)
        if encoded in different:
            duplicates += 1
            continue
        if len(different) > len(others):
            others.append([])
        others[len(different) - 1].append(entry)
        different.add(encoded)
    return own, others, duplicates
