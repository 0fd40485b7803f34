"""Rows for programs: JSON lines, CSV and Parquet, written as they come and never held whole."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from caselog.workers.rows.output import as_text, one_line, rfc3339
from caselog.workers.rows.values import Conversion, converted, encode, json_text, number

if TYPE_CHECKING:
    from caselog.schema.reports.terms.columns import Column


class RowFormat(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class Format(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


# What a spreadsheet takes for a formula, also in the wide letters that some of them read alike. An apostrophe before
# it makes it text. A cell that has apostrophes before it already gets one more: so taking one away gives the cell back.
_FORMULA: Final = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def write(
    out: BinaryIO, columns: Sequence[Column], rows: Iterable[Sequence[Any]], form: str, *, bom: bool = False
) -> int:
    """Write rows of these columns in a `RowFormat`. Returns how many. `out` stays open, and need not be able to seek.

    * JSON lines: an object a row. Moments are RFC 3339 in UTC, days 2026-11-23, months 2026-11, bytes text.
    * CSV: RFC 4180 with a header, in UTF-8; with `bom` it begins with a byte order mark, for spreadsheets. Values as in
      JSON, null as an empty cell. Text that a spreadsheet would take for a formula gets an apostrophe
      (docs/reports.md, "CSV").
    * Parquet: typed by the columns' kinds, each with its description and unit as metadata.
    """
    if form == RowFormat.PARQUET:
        from caselog.workers.rows.parquet import write_parquet

        return write_parquet(out, columns, rows)
    if form == RowFormat.CSV:
        return _write_csv(out, columns, rows, bom=bom)
    count = 0
    for count, line in enumerate(json_objects(columns, rows), start=1):  # noqa: B007 - the count is the result
        out.write(line + b"\n")
    return count


def json_objects(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Each row as a JSON object on a line of its own, whose end is left to the caller."""
    names = [column.name for column in columns]
    values = [_JSON.get(column.kind) for column in columns]
    for row in rows:
        yield one_line(encode(dict(zip(names, converted(values, row), strict=True))))


def harmless(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula. Other text stays as it is."""
    return f"'{text}" if _FORMULA.match(text) else text


def _write_csv(out: BinaryIO, columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, bom: bool) -> int:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        if bom:
            text.write("\ufeff")
        writer = csv.writer(text)  # \r\n, as RFC 4180 says
        writer.writerow([column.name for column in columns])
        cells = [_CELL.get(column.kind, str) for column in columns]
        count = 0
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the count is the result
            writer.writerow(converted(cells, row))
    finally:
        text.detach()
    return count


_JSON: Final[dict[str, Conversion]] = {"moment": rfc3339, "bytes": as_text, "number": number}
_CELL: Final[dict[str, Conversion]] = {
    "moment": rfc3339,
    "bytes": lambda value: harmless(as_text(value)),
    "flag": lambda value: "true" if value else "false",
    "json": json_text,
    "text": harmless,
    "number": number,
}
