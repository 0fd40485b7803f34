"""Lock and load: what a batch's fold has to know, in the one order in which everybody takes locks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection

from events.fold import World
from events.refold import Past, Window, ahead_of_creation, ends_timers, late_for_actors, late_for_cases
from events.registry import EventRegistry
from events.resolve import Screened
from events.state import Log, OrderKey
from schema import store

Identity = tuple[str, str]
CHUNK_LOGS: Final = 200


def load(db: Connection, batch: list[Screened], registry: EventRegistry) -> tuple[World, Past | None, set[Identity]]:
    """Lock the actors and cases of a batch, and load them.

    Returns the world as it is; the past that has to be folded again, None where every event comes after all that is
    recorded of its case and actor; and the (source, id) of events that were found recorded already. Blocks.
    """
    actors = sorted({s.event.data.actor.id for s in batch if s.event.data.actor is not None})
    if actors:
        store.lock_actors(db, actors)
    last = store.last_logs(db, actors) if actors else {}
    late = late_for_actors(batch, last)
    known = _recorded(db, late)
    starts = _window_starts(db, [s for s in late if _identity(s) not in known])
    windows = {actor: _window(db, actor, start, latest, registry) for actor, (start, latest) in starts.items()}
    touched = {log.case for window in windows.values() for log in window.logs if log.case is not None}
    references = touched | {s.case for s in batch if s.case is not None}
    world = World(
        cases=store.lock_cases(db, sorted(references)) if references else {},
        timers=store.running_timers(db, actors) if actors else {},
    )
    known |= _recorded(db, [s for s in late_for_cases(batch, world.cases) if _identity(s) not in known])
    fresh = [s for s in batch if _identity(s) not in known]
    again = touched | {s.case for s in late_for_cases(fresh, world.cases) if s.case is not None}
    if not windows and not again and not ahead_of_creation(fresh, world.cases):
        return world, None, known
    return world, Past(windows=windows, cases=store.case_logs(db, sorted(again)) if again else {}), known


def _recorded(db: Connection, batch: Iterable[Screened]) -> set[Identity]:
    identities = {_identity(screened) for screened in batch}
    return store.recorded_events(db, identities) if identities else set()


def _window_starts(db: Connection, late: list[Screened]) -> dict[str, tuple[OrderKey, OrderKey]]:
    """For each actor whose timers late events can change: where to begin, and the last of those events.

    A late event changes timers only where one ran at that moment, or where it starts one.
    """
    moments = {(s.event.data.actor.id, s.event.time) for s in late if s.event.data.actor is not None}
    covering = store.covering_starts(db, moments) if moments else {}
    starts: dict[str, tuple[OrderKey, OrderKey]] = {}
    for screened in late:
        actor, key = screened.event.data.actor, screened.event.order_key
        assert actor is not None
        covered_since = covering.get((actor.id, screened.event.time))
        starts_timer = screened.code.starts_timer if screened.code is not None else screened.registered.cls.starts_timer
        if covered_since is None and not starts_timer:
            continue
        start, latest = starts.get(actor.id, (key, key))
        starts[actor.id] = (min(start, key, covered_since or key), max(latest, key))
    return starts


def _window(db: Connection, actor: str, start: OrderKey, latest: OrderKey, registry: EventRegistry) -> Window:
    """The actor's log from `start` up to the first log after `latest` that ends any timer."""
    logs: dict[int, Log] = {}
    while True:
        chunk = store.actor_logs(db, actor, start, CHUNK_LOGS)
        for log in chunk:
            logs[log.id] = log
            if log.order_key > latest and ends_timers(log, registry):
                return _with_timers(db, list(logs.values()), log.order_key)
        if len(chunk) < CHUNK_LOGS:
            return _with_timers(db, list(logs.values()), None)
        start = chunk[-1].order_key


def _with_timers(db: Connection, logs: list[Log], end: OrderKey | None) -> Window:
    return Window(logs=logs, timers=store.timers(db, [log.id for log in logs if log.timer_id == log.id]), end=end)


def _identity(screened: Screened) -> Identity:
    return (screened.event.source, screened.event.id)
