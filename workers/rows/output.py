"""Results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

_encoder = msgspec.json.Encoder()
# JSON may hold these as they are, and many a reader of lines (Python's str.splitlines, JavaScript's of old) ends a line
# at each. No other character that ends a line is left in JSON: below U+0020 all are escaped.
_LINE_ENDS: Final = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))


def one_line(encoded: bytes) -> bytes:
    """JSON as every reader of lines takes it for one line: with NEL, LINE and PARAGRAPH SEPARATOR escaped."""
    for character, escape in _LINE_ENDS:
        if character in encoded:
            encoded = encoded.replace(character, escape)
    return encoded


def json_line(encoded: bytes) -> bytes:
    """A line of JSON lines."""
    return one_line(encoded) + b"\n"


def write_rows(out: BinaryIO, columns: Sequence[str], rows: Iterable[Sequence[Any]], form: Literal["jsonl"]) -> int:
    """Write rows as JSON lines, one at a time. Returns how many. What has declared columns: `formats.py`.

    Timestamps are RFC 3339 in UTC; bytes become text, with replacement characters where they are no UTF-8.
    """
    assert form == "jsonl"
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the count is the result
        out.write(json_line(_encoder.encode(dict(zip(columns, map(_plain, row), strict=True)))))
    return count


def write_json(value: Any) -> None:
    """One JSON document, indented."""
    sys.stdout.write(one_line(msgspec.json.format(_encoder.encode(value), indent=2)).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table that fits the terminal; on a pipe its cells are never cut."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 400)
    console.print(make_table(columns, rows, title=title))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """The same, to be shown by the caller."""
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: what a case says is never read as formatting. Control characters are shown, not obeyed.
    shown_title = None if title is None else Text(visible(title))
    table = Table(title=shown_title, title_justify="left", header_style="bold")
    values = [[_plain(value) for value in row] for row in rows]
    for index, column in enumerate(columns):
        given = [row[index] for row in values if row[index] is not None]
        # A column that has texts as well, as that of a record's values has, is read from its left.
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
        table.add_column(column, justify="right" if given and numbers else "left", overflow="fold")
    for row in values:
        table.add_row(*(Text(visible(_cell(value))) for value in row))
    return table


def print_event(raw: bytes | str) -> None:
    """An event as it was sent, or what may be shown of it, line by line with its own indentation: to be copied."""
    text = as_text(raw) if isinstance(raw, bytes) else raw
    lines = text.replace("\r\n", "\n").split("\n")
    # A tab indents; no other character moves the cursor of who reads it.
    sys.stdout.write("".join("\t".join(map(visible, line.split("\t"))) + "\n" for line in lines))


def has_colors() -> bool:
    """Whether stdout is a terminal that shows colours, and whose user wants them (NO_COLOR)."""
    from rich.console import Console

    console = Console()
    return console.color_system is not None and not console.no_color


@contextmanager
def output_to(path: Path | None) -> Iterator[BinaryIO]:
    """The file to write to, or stdout where there is none.

    The file is there, whole, once it ends without an error: until then what is written goes to one beside it, and what
    stood there before stays. A device or a pipe is written to as it is.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = path.resolve()  # a link stays a link
    if target.exists() and not target.is_file():
        with path.open("wb") as opened:
            yield opened
        return
    part = target.with_name(f".caselog-{token_hex(4)}.part")
    with _said_of(path):
        opened = part.open("xb")
    try:
        with opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        with _said_of(path):
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Errors name the file that was asked for."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def as_text(value: bytes | memoryview) -> str:
    """The text that bytes hold, with replacement characters where they are no UTF-8."""
    return bytes(value).decode(errors="replace")


def visible(value: str) -> str:
    """The text without any control character: they are shown, and not obeyed."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, bytes | memoryview):
        return as_text(value)
    return value


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _encoder.encode(value).decode() if isinstance(value, dict | list) else str(value)
