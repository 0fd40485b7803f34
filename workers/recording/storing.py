"""Carrying out a plan: what a batch does to the log, the cases, the timers and the outbox of the reports."""

from __future__ import annotations

from contextlib import nullcontext

from sqlalchemy import Connection

from caselog.events.folding import facts
from caselog.events.folding.fold import Plan, World
from caselog.events.model.registry import EventRegistry
from caselog.events.model.state import CaseState, Log
from caselog.schema.recording import parking, store
from caselog.schema.recording.definitions import retire_unregistered
from caselog.schema.reports import outbox
from caselog.schema.reports.categories import counted_logs
from caselog.schema.reports.tally import ReportTally
from caselog.workers.process import crash_points
from caselog.workers.recording.outcome import Recorded


def store_plan(
    db: Connection, plan: Plan, world: World, report_tally: ReportTally, registry: EventRegistry
) -> Recorded:
    """Write all of it. Raises `IntegrityError` of `store.TAKEN` where another recorder wrote some of it meanwhile."""
    created = [plan.cases[reference] for reference in plan.created]
    changed = [case for reference, case in plan.cases.items() if reference not in plan.created]
    started = [plan.timers[timer] for timer in plan.started]
    ended = [timer for timer_id, timer in plan.timers.items() if timer_id not in plan.started]
    made_due = 0
    unchanged = _unchanged_logs(db, plan, world, report_tally, registry)
    with store.inserting_logs(db, plan.logs) if plan.logs else nullcontext():
        sums = report_tally.rows(plan.logs, plan.rewritten, unchanged, before=world.cases, after=plan.cases)
        moved = _moved_cases(plan, world)
    if created:
        store.insert_cases(db, created)
        made_due = parking.make_due(db, plan.created)
    if changed:
        store.update_cases(db, changed)
    if plan.rewritten:
        store.rewrite_logs(db, (after for _, after in plan.rewritten))
    if plan.removed:
        store.delete_timers(db, plan.removed)
    if ended:
        store.update_timers(db, ended)
    if started:
        store.insert_timers(db, started)
    deltas = outbox.post(db, sums, moved)
    crash_points.reach("recording.inserted")
    suppressed = sum(log.suppressed for log in plan.logs)
    return Recorded(recorded=len(plan.logs), suppressed=suppressed, deltas=deltas, made_due=made_due)


def _unchanged_logs(
    db: Connection, plan: Plan, world: World, report_tally: ReportTally, registry: EventRegistry
) -> list[Log]:
    """The stored logs, as they are and stay, of cases whose category changes: what they added moves with the case.

    Also of a case that is new: where its row was lost, its logs are there already, and count under no category.
    """
    moved = [
        reference
        for reference, case in plan.cases.items()
        if case.category != (None if (before := world.cases.get(reference)) is None else before.category)
    ]
    if not moved:
        return []
    rewritten = {log.id for _, log in plan.rewritten}
    found = [log for log in counted_logs(db, moved, report_tally.idle) if log.id not in rewritten]
    if any(registry.find(log.key, log.code)[0] is None for log in found):
        # Removed since, or recorded by a newer recorder: what they meant is kept.
        retire_unregistered(db, registry)
    return found


def _moved_cases(plan: Plan, world: World) -> set[str]:
    """The cases whose facts, as reports keep them, this batch may have changed."""
    moved = {log.case for _, log in plan.rewritten if log.case is not None}
    for log in plan.logs:
        if log.case is not None and log.case not in moved:
            # A late event may leave its case as it was, and yet be the first contact after a callback, or belong to
            # a stay with a provider that was over.
            before = world.cases.get(log.case)
            case = plan.cases.get(log.case) or world.cases[log.case]
            if facts.matters(log, case) or _is_late(log, before):
                moved.add(log.case)
    return moved | {name for name, case in plan.cases.items() if facts.moved(world.cases.get(name), case)}


def _is_late(log: Log, before: CaseState | None) -> bool:
    return before is not None and before.last_log is not None and log.order_key < before.last_log
