"""Exports and look-ups: whole tables streamed, and what one case or its log looks like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from sqlalchemy import JSON, Boolean, Connection, DateTime, Integer, LargeBinary, Text, text
from sqlalchemy import Column as StoredColumn
from sqlalchemy.types import TypeEngine

from caselog.events.errors import CaselogError, did_you_mean
from caselog.schema.reports.terms.columns import Column, Kind
from caselog.schema.sql.tables import metadata

BUFFERED_ROWS: Final = 1000


class UnknownExport(CaselogError):
    """There is nothing of that name to export."""


class Export(msgspec.Struct, frozen=True):
    """What can be exported: `columns` are the names that its reader sees, each with the SQL that gives it."""

    name: str
    columns: dict[str, str]
    source: str
    order: str

    @property
    def fields(self) -> tuple[Column, ...]:
        """The columns with what the database knows of them: type and comment."""
        stored = metadata.tables[self.source.strip('"')].c
        return tuple(
            _SECONDS if (column := stored.get(expression)) is None else _field(name, column)
            for name, expression in self.columns.items()
        )

    def select(self, where: str = "") -> str:
        columns = ", ".join(f'{expression} as "{name}"' for name, expression in self.columns.items())
        return f"select {columns} from {self.source} {where} order by {self.order}"  # noqa: S608 - declared below


_SECONDS: Final = Column(
    name="seconds", kind="number", unit="seconds", description="Time that it ran, rounded up; null while it runs"
)
_KINDS: Final[tuple[tuple[type[TypeEngine[Any]], Kind], ...]] = (
    (DateTime, "moment"),
    (Boolean, "flag"),
    (Integer, "number"),
    (JSON, "json"),
    (LargeBinary, "bytes"),
    (Text, "text"),
)


def _field(name: str, column: StoredColumn[Any]) -> Column:
    kind = next(kind for stored, kind in _KINDS if isinstance(column.type, stored))
    return Column(
        name=name, kind=kind, description=column.comment or f"Number of the row in the table {column.table.name}"
    )


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


EXPORTS: Final = {
    export.name: export
    for export in (
        Export(
            "cases",
            _same(
                "reference", "category", "source", "organisation", "outcome_code", "outcome_code_id", "level",
                "requires_action_by", "requires_action_at", "callback_attempt", "provider", "provider_assigned_at",
                "provider_viewed", "provider_accepted", "provider_closed", "billable_time", "complaint_flag",
                "eligibility_state", "scope_state", "from_case", "search_field", "state", "created_at", "modified_at",
            ),
            '"case"',
            "reference",
        ),
        Export(
            "logs",
            _same("id", "source", "event_id", "key", "code", "type", "level")
            | {"case": "case_reference"}
            | _same(
                "actor", "role", "timer_id", "notes", "context", "occurred_at", "recorded_at", "suppressed",
            ),
            "log",
            "id",
        ),
        Export(
            "timers",
            _same("id", "actor", "started_at", "stopped_at", "cancelled")
            | {"case": "case_reference", "seconds": "ceil(extract(epoch from stopped_at - started_at))::bigint"},
            "timer",
            "id",
        ),
        Export(
            "dead",
            _same("id", "reason", "message", "source", "event_id", "key")
            | {"case": "case_reference"}
            | _same("received_at", "attempts", "raw"),
            "dead_letter",
            "id",
        ),
    )
}  # fmt: skip


def get_export(name: str) -> Export:
    """The export of that name. Raises `UnknownExport`, naming the nearest."""
    try:
        return EXPORTS[name]
    except KeyError:
        raise UnknownExport(
            f"there is nothing called {name!r} to export: choose {', '.join(EXPORTS)}."
            f"{did_you_mean(name, list(EXPORTS))}"
        ) from None


def stream_export(db: Connection, export: Export) -> Iterator[tuple[Any, ...]]:
    """Every row of an export in its order, read from the server as it is consumed."""
    select = text(export.select()).execution_options(stream_results=True, max_row_buffer=BUFFERED_ROWS)
    found = db.execute(select)
    return (tuple(row) for row in found)


def get_case(db: Connection, reference: str) -> dict[str, Any] | None:
    """A case's columns by name; None where there is no such case."""
    select = EXPORTS["cases"].select("where reference = :reference")
    row = db.execute(text(select), {"reference": reference}).mappings().one_or_none()
    return None if row is None else dict(row)


def case_log(db: Connection, reference: str) -> dict[int, dict[str, Any]]:
    """The log of a case as it is exported, by id."""
    select = EXPORTS["logs"].select("where case_reference = :reference")
    return {row["id"]: dict(row) for row in db.execute(text(select), {"reference": reference}).mappings()}
