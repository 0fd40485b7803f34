"""Lock and load: what a batch's fold has to know, in the one order in which everybody takes locks."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from caselog.events.folding.fold import World
from caselog.events.folding.refold import Past, Window, ahead_of_creation, earliest, late_for_actors, late_for_cases
from caselog.events.folding.resolve import Screened
from caselog.events.model.registry import EventRegistry
from caselog.schema.recording import definitions, history, store

Identity = tuple[str, str]


def load(
    db: Connection, batch: list[Screened], registry: EventRegistry, *, suspect_all: bool = False
) -> tuple[World, Past | None, set[Identity]]:
    """Lock the actors and cases of a batch, and load them.

    Returns the world as it is; the past that has to be folded again, None where every event comes after all that is
    recorded of its case and actor; and the (source, id) of events that were found recorded already. Only events that
    are not the last of their case or actor are looked up, since what is recorded is late; `suspect_all` looks them
    all up. Blocks.
    """
    first = earliest(batch)
    actors = sorted(first.actors)
    if actors:
        store.lock_actors(db, actors)
    last = history.last_logs(db, actors) if actors else {}
    late = late_for_actors(batch, first, last)
    known = _recorded(db, batch if suspect_all else [*late, *(s for s in batch if s.case is None and s.actor is None)])
    windows = _windows(db, [s for s in late if _identity(s) not in known], registry)
    logs = (log for parts in windows.values() for window in parts for log in window.logs)
    touched = {log.case for log in logs if log.case is not None}
    references = touched | first.cases.keys()
    world = World(
        cases=store.lock_cases(db, sorted(references)) if references else {},
        timers=store.running_timers(db, actors) if actors else {},
    )
    late = late_for_cases(batch, first, world.cases)
    known |= _recorded(db, [s for s in late if _identity(s) not in known])
    again = touched | {s.case for s in late if s.case is not None and _identity(s) not in known}
    if not windows and not again and not ahead_of_creation(first, world.cases):
        return world, None, known
    # Stored logs may have codes that this recorder never had: removed since, or recorded by a newer one.
    definitions.retire_unregistered(db, registry)
    return world, Past(windows=windows, cases=history.case_logs(db, sorted(again)) if again else {}), known


def _recorded(db: Connection, batch: Iterable[Screened]) -> set[Identity]:
    identities = {_identity(screened) for screened in batch}
    return store.recorded_events(db, identities) if identities else set()


def _windows(db: Connection, late: list[Screened], registry: EventRegistry) -> dict[str, list[Window]]:
    """What of the actors' logs late events can change.

    A late event changes timers only where one ran at that moment, or where it starts one; and nothing after the next
    log that ends any timer.
    """
    moments = [(s.actor, s.order_key) for s in late if s.actor is not None]
    covering = history.covering_starts(db, {(actor, key[0]) for actor, key in moments}) if moments else {}
    relevant = []
    for screened, (actor, key) in zip(late, moments, strict=True):
        since = covering.get((actor, key[0]))
        starts = screened.code.starts_timer if screened.code is not None else screened.registered.cls.starts_timer
        if since is not None or starts:
            relevant.append((actor, min(key, since or key), key))
    if not relevant:
        return {}
    ends = history.next_logs(db, [(actor, key) for actor, _, key in relevant], _timer_ends(registry))
    stretches = _merged([(actor, start, end) for (actor, start, _), end in zip(relevant, ends, strict=True)])
    logs = history.actor_logs(db, stretches)
    started = history.timers(db, [log.id for part in logs for log in part if log.timer_id == log.id])
    by_id = {timer.id: timer for timer in started}
    windows: dict[str, list[Window]] = {}
    for (actor, start, end), part in zip(stretches, logs, strict=True):
        timers = [by_id[log.id] for log in part if log.id in by_id]
        windows.setdefault(actor, []).append(Window(start=start, end=end, logs=part, timers=timers))
    return windows


def _merged(stretches: list[history.Stretch]) -> list[history.Stretch]:
    """The stretches sorted, those of an actor that overlap made one."""
    merged: list[history.Stretch] = []
    for actor, start, end in sorted(stretches, key=lambda stretch: stretch[:2]):
        if merged and merged[-1][0] == actor and (merged[-1][2] is None or start <= merged[-1][2]):
            before = merged[-1]
            last = None if end is None or before[2] is None else max(end, before[2])
            merged[-1] = (actor, before[1], last)
        else:
            merged.append((actor, start, end))
    return merged


def _timer_ends(registry: EventRegistry) -> list[tuple[str, str]]:
    return [(code.key, code.code) for code in registry.folded_codes() if code.stops_timer or code.cancels_timer]


def _identity(screened: Screened) -> Identity:
    return (screened.event.source, screened.event.id)
