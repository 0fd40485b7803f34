"""What is found where stored rows are held against the log: one finding a row, one difference a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

THE_ROW: Final = "(row)"
THERE: Final = "there"
MISSING: Final = "missing"


class Entry(msgspec.Struct, frozen=True):
    """The log entry that a value comes from."""

    id: int
    occurred_at: datetime
    key: str
    code: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A stored row that is not what the log says.

    `table` is timer, log, case or report_outcomes, and `name` the row's key. `stored` is None where the row is
    missing, and `fresh` where it should not be there; else they have the columns compared. `because` has the log
    entry responsible by column; "" stands for all others. `case` is the case that the row is about, if any.
    """

    table: str
    name: int | str
    case: str | None = None
    stored: Mapping[str, Any] | None
    fresh: Mapping[str, Any] | None
    because: Mapping[str, Entry] = msgspec.field(default_factory=dict)
    mendable: bool = True

    def about(self, reference: str) -> bool:
        """Whether the row is, or was, about this case."""
        rows = [row for row in (self.stored, self.fresh) if row is not None]
        return reference == self.case or any(reference == row.get("case_reference") for row in rows)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One value that is not what the log says."""

    table: str
    name: int | str
    case: str | None
    column: str
    stored: Any
    fresh: Any
    log: Entry | None


def differences(finding: Finding) -> Iterator[Difference]:
    """A finding column by column; a row that is missing, or should not be there, is one difference."""
    stored, fresh = finding.stored, finding.fresh
    if stored is None or fresh is None:
        stored = {THE_ROW: MISSING if stored is None else THERE}
        fresh = {THE_ROW: MISSING if fresh is None else THERE}
    for column, value in fresh.items():
        if stored[column] != value:
            yield Difference(
                table=finding.table,
                name=finding.name,
                case=finding.case,
                column=column,
                stored=stored[column],
                fresh=value,
                log=finding.because.get(column) or finding.because.get(""),
            )
