"""`caselog rebuild` and `verify --repair`: what differs from the log is written at once, while recorders record.

The projections in force stay as they are while the log is folded afresh beside them. What recorders add meanwhile is
caught up with, in rounds that grow shorter, until what is left takes no time: then the gate is closed, the last few
logs are caught up with, and what differs is swapped in, in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from caselog.events.errors import CaselogError, did_you_mean
from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import autodiscover
from caselog.schema.recording.outdated import find_outdated, forget_outdated, outdated_parts
from caselog.schema.sessions.connection import make_engine
from caselog.schema.verification import rebuild as rebuilding
from caselog.schema.verification import session as proof
from caselog.schema.verification import streams
from caselog.workers.process import crash_points
from caselog.workers.tasks.aggregator import add_up_reports
from caselog.workers.verification.verify import Counting, Verification

# So many logs are folded again in a tenth of a second: recorders may wait for that.
FEW_LOGS: Final = 500
MOST_ROUNDS: Final = 10


class UnknownPart(CaselogError):
    """There is no projection of this name."""


def get_parts(names: Sequence[str]) -> tuple[str, ...]:
    """The projections of these names, all where there are none, in the order in which they build on each other.

    Raises `UnknownPart`, naming the nearest.
    """
    for name in names:
        if name not in rebuilding.PARTS:
            raise UnknownPart(
                f"there is nothing called {name!r} to rebuild: choose {', '.join(rebuilding.PARTS)}."
                f"{did_you_mean(name, rebuilding.PARTS)}"
            )
    return tuple(part for part in rebuilding.PARTS if part in names or not names)


def rebuild(verification: Verification, parts: Collection[str], counting: Counting) -> dict[str, int]:
    """Write these projections anew from the log. Returns the rows that were not what the log says, by table.

    What other rules made is written with them, whether it is named or not: reports are counted from what cases and
    timers say. Interrupted anywhere, it has changed nothing. Raises `rebuilding.Busy`. Blocks.
    """
    with rebuilding.only_one(verification.session):
        parts = {*parts, *outdated_parts(verification.session)}
        if parts != {"reports"}:
            for _ in verification.whole(counting, marked=True):
                pass
        return _swap(verification, parts)


def rebuild_outdated(database_url: str, rules: Rules, apps: tuple[str, ...], counting: Counting) -> dict[str, int]:
    """Write what other rules made anew, and nothing else; returns, raises and blocks as `rebuild`.

    Returns an empty dictionary where nothing is outdated; then no app is imported either.
    """
    engine = make_engine(database_url, application="caselog rebuild")
    try:
        with engine.connect() as db:
            if not find_outdated(db):
                return {}
    finally:
        engine.dispose()
    autodiscover(apps)
    with Verification(database_url, rules, apps=apps) as verification:
        return rebuild(verification, (), counting)


def repair(verification: Verification) -> dict[str, int]:
    """Write what a marked verification found. Returns as `rebuild`, and raises and blocks as it does."""
    with rebuilding.only_one(verification.session):
        return _swap(verification, rebuilding.PARTS)


def _swap(verification: Verification, parts: Collection[str]) -> dict[str, int]:
    session, zone = verification.session, verification.rules.zone.key
    folded = "timers" in parts or "cases" in parts
    if "cases" in parts or "reports" in parts:
        with proof.snapshot(session):
            streams.measure_gap(session, zone)
    if folded:
        for _ in range(MOST_ROUNDS):
            with rebuilding.marked_snapshot(session) as (_, mark):
                new = verification.catch_up()
            verification.mark = mark
            if new <= FEW_LOGS:
                break
    crash_points.reach("rebuild.before_swap")
    with rebuilding.gate_closed(session):
        if folded:
            verification.catch_up()
        written = rebuilding.write(session, parts, zone)
        forget_outdated(session, set(parts) - {"reports"})
        crash_points.reach("rebuild.in_swap")
    crash_points.reach("rebuild.swapped")
    written |= add_up_reports(verification.database_url, verification.registry, verification.rules)
    if "reports" in parts:  # only now are they what the log says
        forget_outdated(session, {"reports"})
    rebuilding.forget_empty_rows(session)
    return written
