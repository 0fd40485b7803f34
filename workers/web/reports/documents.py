"""Reports as programs read them: CSV, or one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from caselog.events.errors import CaselogError
from caselog.schema.recording.outdated import Withheld
from caselog.schema.reports.reading import Reading, filters, periods, read_rows, read_totals
from caselog.schema.reports.terms.columns import Column
from caselog.schema.reports.terms.report import Report
from caselog.schema.sessions.connection import limit_statements
from caselog.workers.rows.formats import json_objects, write
from caselog.workers.rows.output import rfc3339
from caselog.workers.web.streamed_body import Answer

STATEMENT_TIMEOUT_MS: Final = 30_000
_CANCELLED: Final = "57014"
_encoder: Final = msgspec.json.Encoder()


class NoAnswer(CaselogError):
    """The database cannot answer now; the message says why and what to do."""


@contextmanager
def asking(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements all see the database as it is at the first, each bounded in time.

    Raises `NoAnswer` where it is away, not migrated or not rebuilt, too busy or too slow.
    """
    try:
        with engine.connect() as db:
            db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            yield db
    except Withheld as error:
        raise NoAnswer(str(error)) from None
    except PoolTimeout:
        raise NoAnswer("too many reports are being read at once: try again in a minute") from None
    except ProgrammingError:
        raise NoAnswer(
            "the database's tables are not those of this version: run caselog migrate, which says more"
        ) from None
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _CANCELLED:
            raise NoAnswer(
                f"this took longer than {STATEMENT_TIMEOUT_MS // 1000} seconds: ask for fewer days, or use "
                "caselog report, which has no limit"
            ) from None
        raise NoAnswer("the database does not answer: try again, and see healthcheck.json") from None


def read_into(out: BinaryIO, db: Connection, reading: Reading, form: str) -> int:
    """Write the whole report, as CSV or as one JSON document. Returns how many rows it has."""
    if form == "csv":
        return write(out, reading.columns, read_rows(db, reading), form)
    return _write_document(out, db, reading)


def written_answer(
    engine: Engine, reading: Reading, form: str, counted: Callable[[int], object] = lambda _: None
) -> Answer:
    """The whole report, being written. `counted` is called with how many rows it has. Raises `NoAnswer` in the end."""

    def write_it(out: BinaryIO) -> None:
        with asking(engine) as db:
            counted(read_into(out, db, reading, form))

    return Answer(write_it)


def described(report: Report) -> dict[str, Any]:
    """A report as the list of reports tells of it."""
    return {
        "name": report.name,
        "description": report.description,
        "period": report.period,
        "columns": [_column(column) for column in report.columns],
        "filters": [column.name for column in filters(report)],
        "by": list(periods(report)),
    }


def _column(column: Column) -> dict[str, str]:
    return {"name": column.name, "kind": column.kind, "unit": column.unit, "description": column.description}


def _write_document(out: BinaryIO, db: Connection, reading: Reading) -> int:
    """Row by row, so that it takes no more memory when there are many."""
    head = {
        "report": reading.report.name,
        "from": reading.first,
        "to": reading.last,
        "by": reading.by,
        "now": rfc3339(reading.now),
        "where": dict(reading.where),
        "columns": [_column(column) for column in reading.columns],
    }
    out.write(_encoder.encode(head)[:-1] + b',"rows":[')
    count = 0
    for count, row in enumerate(json_objects(reading.columns, read_rows(db, reading)), start=1):
        out.write((b"\n" if count == 1 else b",\n") + row)
    measures = reading.report.measures
    totals = next(json_objects(measures, [read_totals(db, reading)])) if measures else b"{}"
    out.write(b'\n],"totals":' + totals + b"}\n")
    return count
