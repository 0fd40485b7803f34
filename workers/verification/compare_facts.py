"""Hold the stored facts of cases, which reports list, against those that the cases' logs give."""

from __future__ import annotations

from collections.abc import Iterator

from caselog.events.folding.facts import Facts
from caselog.schema.reports.facts import KINDS, columns, rows_of
from caselog.schema.verification import streams
from caselog.schema.verification.findings import Finding
from caselog.schema.verification.session import Session
from caselog.schema.verification.streams import Part, Row


class StoredFacts:
    """The stored facts beside the cases, which are asked for in order of their references.

    Cases that the outbox holds are passed over: their facts are about to be computed anew.
    """

    def __init__(self, session: Session, part: Part | None) -> None:
        self._pending = streams.pending_cases(session)
        self._kinds = [_Stream(kind, streams.stored_facts(session, kind, part)) for kind in KINDS]

    def before(self, reference: str) -> Iterator[Finding]:
        """Facts of references up to this one that have no log."""
        for stream in self._kinds:
            while stream.reference is not None and stream.reference < reference:
                yield from self._compare(stream, stream.reference, Facts())

    def check(self, reference: str, fresh: Facts) -> Iterator[Finding]:
        """What of this case's facts is not as its log says."""
        for stream in self._kinds:
            yield from self._compare(stream, reference, fresh)

    def left(self) -> Iterator[Finding]:
        """Facts of references after all logs."""
        for stream in self._kinds:
            while stream.reference is not None:
                yield from self._compare(stream, stream.reference, Facts())

    def _compare(self, stream: _Stream, reference: str, facts: Facts) -> Iterator[Finding]:
        stored = {row[0]: row for row in stream.take(reference)}
        if reference in self._pending:
            return
        fresh = {row[0]: row for row in rows_of(facts, stream.kind)}
        names = columns(stream.kind)
        for log_id in sorted({*stored, *fresh}):
            is_row, ought = stored.get(log_id), fresh.get(log_id)
            if is_row != ought:
                yield Finding(
                    table=stream.kind,
                    name=log_id,
                    case=reference,
                    stored=None if is_row is None else dict(zip(names, is_row, strict=True)),
                    fresh=None if ought is None else dict(zip(names, ought, strict=True)),
                )


class _Stream:
    """The facts of one kind, case by case; `reference` is the next case that has any."""

    def __init__(self, kind: str, rows: Iterator[Row]) -> None:
        self.kind = kind
        self._at = columns(kind).index("case_reference")
        self._rows = rows
        self._next = next(rows, None)

    @property
    def reference(self) -> str | None:
        return None if self._next is None else self._next[self._at]

    def take(self, reference: str) -> Iterator[Row]:
        """The rows of this case, which is not after the next one."""
        while self._next is not None and self._next[self._at] == reference:
            yield self._next
            self._next = next(self._rows, None)
