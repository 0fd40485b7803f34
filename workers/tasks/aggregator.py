"""The aggregator's work: what batches left in the outbox is added to the reports, block by block.

A block is one transaction: the deltas leave the outbox, their sums are added, and the facts of the cases that moved are
computed from the log as it then is. Killed anywhere, a block is done or to be done; several may work at once.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from sqlalchemy import Connection, Engine

from caselog.events.folding.facts import Facts
from caselog.events.folding.recompute import Definitions, fold_whole_case
from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import EventRegistry
from caselog.events.model.state import Log
from caselog.schema.recording import history
from caselog.schema.recording.definitions import retire_unregistered
from caselog.schema.reports import facts, outbox
from caselog.schema.sessions.connection import make_engine
from caselog.workers.process import crash_points

# Whole logs of so many cases are in memory at once.
CASES: Final = 500


class Aggregator:
    """Adds up the reports of one database, under one registry and one set of rules."""

    def __init__(self, engine: Engine, registry: EventRegistry, rules: Rules) -> None:
        self._engine = engine
        self._registry = registry
        self._definitions = Definitions(registry)
        self._rules = rules
        self.written: Counter[str] = Counter()
        """How many facts were written or deleted, by table."""

    def add_up(self) -> int:
        """Do one block. Returns how many deltas it took out of the outbox: 0 where there was nothing left to take."""
        with self._engine.begin() as db:
            taken = outbox.take(db)
            crash_points.reach("aggregator.taken")
            if taken.cases:
                # A log may have a code that is not registered here: removed since, or recorded by a newer recorder.
                retire_unregistered(db, self._registry)
            for start in range(0, len(taken.cases), CASES):
                self._compute_facts(db, taken.cases[start : start + CASES])
            crash_points.reach("aggregator.before_commit")
        crash_points.reach("aggregator.committed")
        return taken.deltas

    def add_all_up(self) -> int:
        """Do blocks until there is nothing left to take. Returns how many deltas there were."""
        total = 0
        while taken := self.add_up():
            total += taken
        return total

    def _compute_facts(self, db: Connection, cases: list[str]) -> None:
        facts.lock_facts(db, cases)
        found = [self._facts_of(case, logs) for case, logs in history.case_logs(db, cases).items()]
        self.written.update(facts.replace_facts(db, cases, found))

    def _facts_of(self, case: str, logs: list[Log]) -> Facts:
        whole = fold_whole_case(case, logs, self._definitions, self._rules)
        return Facts() if whole is None else whole.facts


def add_up_reports(database_url: str, registry: EventRegistry, rules: Rules) -> Counter[str]:
    """Add up all that the outbox holds, beside any aggregator. Returns the facts written, by table."""
    engine = make_engine(database_url, application="caselog rebuild", connections=1, by_index=True)
    try:
        aggregator = Aggregator(engine, registry, rules)
        aggregator.add_all_up()
        return aggregator.written
    finally:
        engine.dispose()
