"""Python's search for garbage: rare where batches are recorded, and still there."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from caselog.events.folding.fold import World, fold
from caselog.events.folding.resolve import Rules, screen
from caselog.events.model.message import Event, decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.workers.process.garbage_collection import collect_rarely
from caselog.workers.producers.simulation import simulate

LATER = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def searches() -> Iterator[list[int]]:
    """The generations searched since a worker's set-up; afterwards the process is as it was."""
    before, found = gc.get_threshold(), []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            found.append(info["generation"])

    collect_rarely()
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*before)
    gc.unfreeze()


def test_a_batch_is_folded_without_a_search(searches: list[int]) -> None:
    """Decoding, screening and folding 1,000 events, all held at once, begins no search for garbage."""
    autodiscover()
    body = msgspec.json.encode(list(islice(simulate(100, 1), 1000)))
    events = decode(body).events
    screened = [screen(at, event, event_registry, LATER) for at, event in enumerate(events) if isinstance(event, Event)]
    plan = fold(screened, World(), event_registry, Rules(zone=ZoneInfo("Europe/London")), count(1))
    assert len(plan.logs) == len(events) == 1000
    assert searches == []


def test_garbage_is_found_before_it_fills_the_memory(searches: list[int]) -> None:
    """Objects that refer to themselves are deleted, however rarely they are looked for."""

    class Ring:
        def __init__(self) -> None:
            self.own = self

    first = weakref.ref(Ring())
    assert first() is not None
    for _ in range(200_000):
        Ring()
    assert first() is None
    assert searches
