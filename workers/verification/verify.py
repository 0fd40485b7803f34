"""`caselog verify`: the whole log, or one case's, folded afresh and held against what is stored."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from caselog.events.folding.recompute import Definitions
from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import EventRegistry, event_registry
from caselog.schema.verification import rebuild, scope
from caselog.schema.verification import session as proof
from caselog.schema.verification.findings import Finding
from caselog.schema.verification.streams import WHOLE, Part
from caselog.workers.verification.compare import Advance, check_cases, check_reports, check_strays, check_timers
from caselog.workers.verification.parallel import Share, learn_retired, run_shares

KEPT_FINDINGS: Final = 500
MOST_PROCESSES: Final = 2
# To start them, for each of the two passes, takes some two seconds; below this, one process is as quick.
WORTH_PROCESSES_READS: Final = 500_000

Counting = Callable[[str, int | None], AbstractContextManager[Advance]]


class Verification:
    """One proof of a database: what differs from the log is told, and staged so that it can be written.

    A context manager that owns a connection. `apps` are the packages whose events make up the registry; without them
    everything is done in this process.
    """

    def __init__(
        self,
        database_url: str,
        rules: Rules,
        *,
        registry: EventRegistry = event_registry,
        apps: tuple[str, ...] = (),
        processes: int | None = None,
    ) -> None:
        self.database_url = database_url
        self.rules = rules
        self.session = proof.open_session(database_url)
        self.logs = 0
        """How many logs were proved, by `whole` or `case`."""
        self.mark = 0
        """The log is proved up to this id, by `whole` and `case` where they are asked to mark it."""
        learn_retired(database_url, registry)
        proof.define(self.session, registry.folded_codes())
        self.registry = registry
        self.definitions = Definitions(registry)
        self._proved_whole = True
        self._apps = apps
        self._processes = processes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    def whole(self, counting: Counting, *, marked: bool = False) -> Iterator[Finding]:
        """Prove everything in one snapshot. To be read to its end. `marked`: so that the findings can be written."""
        with self._snapshot(marked=marked) as name:
            self.logs, reads = proof.count_logs(self.session)
            with counting("folding the log", reads) as advance:
                yield from self._keeping(self._pass("timers", name, reads, advance))
                yield from self._keeping(self._pass("cases", name, reads, advance))
            yield from self._keeping(check_strays(self.session))
            yield from check_reports(self.session, self.rules)

    def case(self, reference: str, *, marked: bool = False) -> Iterator[Finding]:
        """Prove one case, and the timers that touch it, in one snapshot. Reports are not looked at."""
        with self._snapshot(marked=marked):
            self._proved_whole = False
            scope.select_case(self.session, reference)
            scope.stretch_by_log(self.session, self.definitions.timer_ends())
            timers = check_timers(self.session, None, self.definitions, _ignore)
            yield from self._keeping(finding for finding in timers if finding.about(reference))
            scope.select_cases(self.session, reference)
            yield from self._keeping(check_cases(self.session, None, self.definitions, self.rules, self._count))

    def knows(self, reference: str) -> bool:
        """Whether there is such a case, or a log of it."""
        return proof.has_case(self.session, reference)

    def catch_up(self) -> int:
        """Prove again what logs recorded after the mark can have changed, as it stands now. Returns how many these are.

        The mark is the caller's to move.
        """
        new = scope.select_new(self.session, self.mark)
        if new:
            if self._proved_whole:
                starts, ends = self.definitions.timer_starts(), self.definitions.timer_ends()
                scope.stretch_by_timers(self.session, starts, ends, mark=self.mark)
            else:
                scope.stretch_by_log(self.session, self.definitions.timer_ends(), mark=self.mark)
            _exhaust(self._keeping(check_timers(self.session, None, self.definitions, _ignore)))
            scope.select_cases(self.session)
            cases = check_cases(
                self.session, None, self.definitions, self.rules, _ignore, all_proved=self._proved_whole
            )
            _exhaust(self._keeping(cases))
        return new

    @contextmanager
    def _snapshot(self, *, marked: bool) -> Iterator[str]:
        if not marked:
            with proof.snapshot(self.session) as name:
                yield name
            return
        with rebuild.marked_snapshot(self.session) as (name, self.mark):
            yield name

    def _count(self, logs: int) -> None:
        self.logs += logs

    def _keeping(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Lay the findings aside as they pass by."""
        batch: list[Finding] = []
        for finding in findings:
            batch.append(finding)
            if len(batch) == KEPT_FINDINGS:
                proof.keep(self.session, batch)
                batch = []
            yield finding
        proof.keep(self.session, batch)

    def _pass(self, what: Literal["timers", "cases"], snapshot: str, reads: int, advance: Advance) -> Iterator[Finding]:
        """One pass over the whole log, in this process or shared out, whichever is quicker."""
        processes = self._processes or (MOST_PROCESSES if self._apps and reads > WORTH_PROCESSES_READS else 1)
        if min(processes, os.cpu_count() or 1) == 1:
            if what == "timers":
                yield from check_timers(self.session, WHOLE, self.definitions, advance)
            else:
                yield from check_cases(self.session, WHOLE, self.definitions, self.rules, advance)
            return
        with tempfile.TemporaryDirectory(prefix="caselog-verify-") as directory:
            proof.write_shared(self.session, Path(directory))
            shares = [
                Share(
                    database_url=self.database_url,
                    apps=self._apps,
                    rules=self.rules,
                    what=what,
                    part=Part(number, processes),
                    snapshot=snapshot,
                    shared=Path(directory),
                )
                for number in range(processes)
            ]
            for told in run_shares(shares):
                if isinstance(told, int):
                    advance(told)
                else:
                    yield from told


def _ignore(_logs: int) -> None:
    """Nobody watches the progress of a few logs."""


def _exhaust(findings: Iterator[Finding]) -> None:
    for _ in findings:
        pass
