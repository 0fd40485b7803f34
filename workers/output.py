"""Results on stdout: tables for people, JSON lines and CSV for programs."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import msgspec


class Format(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


class RowFormat(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


_encoder = msgspec.json.Encoder()


def write_rows(out: BinaryIO, columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str) -> int:
    """Write rows as JSON lines or CSV (RFC 4180, a header first), one at a time. Returns how many.

    Timestamps are RFC 3339 in UTC; bytes become text, with replacement characters where they are no UTF-8.
    """
    count = 0
    if form == Format.JSONL:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the count is the result
            out.write(_encoder.encode(dict(zip(columns, map(_plain, row), strict=True))) + b"\n")
        return count
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)  # \r\n, as RFC 4180 says
    writer.writerow(columns)
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the count is the result
        writer.writerow([_cell(value) for value in map(_plain, row)])
    text.detach()
    return count


def write_json(value: Any) -> None:
    """One JSON document, indented."""
    sys.stdout.write(msgspec.json.format(_encoder.encode(value), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table that fits the terminal; on a pipe its cells are never cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    values = [[_plain(value) for value in row] for row in rows]
    for index, column in enumerate(columns):
        numbers = any(isinstance(row[index], int | float) and not isinstance(row[index], bool) for row in values)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in values:
        # Text, not markup: what a case says is never read as formatting. Control characters are shown, not obeyed.
        table.add_row(*(Text(_visible(_cell(value))) for value in row))
    console = Console(width=None if sys.stdout.isatty() else 400)
    console.print(table)


@contextmanager
def output_to(path: Path | None) -> Iterator[BinaryIO]:
    """The file to write to, or stdout where there is none."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as opened:
        yield opened


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="replace")
    return value


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _encoder.encode(value).decode() if isinstance(value, dict | list) else str(value)


def _visible(value: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in value)
