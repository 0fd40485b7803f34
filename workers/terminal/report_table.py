"""Reports as tables for people: fitted to the terminal, numbers grouped, moments by the clock on the wall."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.cells import cell_len, chop_cells

from caselog.schema.reports.terms.columns import Column
from caselog.workers.rows.output import visible

# Text is wrapped to no less than this: where even then a row does not fit, its columns are listed one below the other.
NARROWEST_TEXT: Final = 12


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Any]],
    *,
    zone: ZoneInfo,
    totals: Sequence[Any] | None = None,
    width: int | None = None,
) -> Iterator[str]:
    """The lines of a table. `totals` is a last row of its own. `width` is the terminal's, in cells; None: any.

    Nothing is cut: what does not fit is wrapped.
    """
    cells = [[shown(column, value, zone) for column, value in zip(columns, row, strict=True)] for row in rows]
    last = [[shown(column, value, zone) for column, value in zip(columns, totals, strict=True)]] if totals else []
    natural = [max(map(cell_len, drawn), default=0) for drawn in zip(*cells, *last, strict=True)] or [0] * len(columns)
    widths = _fitted(columns, natural, width)
    if widths is None:
        assert width is not None
        yield from _records(columns, [*cells, *last], width)
        return
    right = [column.kind == "number" for column in columns]
    heads = [_head(column.name, wide) for column, wide in zip(columns, widths, strict=True)]
    yield _rule("┏━┳┓", widths)
    yield from _lines(heads, widths, right, "┃")
    yield _rule("┡━╇┩", widths)
    for row in cells:
        yield from _lines([_chopped(cell, wide) for cell, wide in zip(row, widths, strict=True)], widths, right, "│")
    for row in last:
        yield _rule("├─┼┤", widths)
        yield from _lines([_chopped(cell, wide) for cell, wide in zip(row, widths, strict=True)], widths, right, "│")
    yield _rule("└─┴┘", widths)


def shown(column: Column, value: Any, zone: ZoneInfo) -> str:
    """A value as people read it. Control characters are shown, not obeyed."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(zone).isoformat(sep=" ", timespec="seconds")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.kind == "number" and not isinstance(value, str):
        return f"{value:,}" if column.whole else f"{value:,.2f}"
    return visible(str(value)).replace("\n", "\\n")


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int] | None:
    """How wide each column is, None where they do not fit beside each other. Only text is wrapped, and heads."""
    if width is None:
        return [max(wide, cell_len(column.name)) for column, wide in zip(columns, natural, strict=True)]
    heads = [max(cell_len(part) for part in _parts(column.name)) for column in columns]
    widths = [max(cells, head) for cells, head in zip(natural, heads, strict=True)]
    floors = [
        min(wide, max(head, NARROWEST_TEXT)) if column.kind == "text" else wide
        for column, wide, head in zip(columns, widths, heads, strict=True)
    ]
    room = width - 3 * len(columns) - 1
    while sum(widths) > room:
        at = max(range(len(columns)), key=lambda at: widths[at] - floors[at])
        if widths[at] == floors[at]:
            return None
        widths[at] -= 1
    # Heads that need not be wrapped are not: the room that is left is theirs, from the left.
    for at, column in enumerate(columns):
        widths[at] += min(max(cell_len(column.name) - widths[at], 0), room - sum(widths))
    return widths


def _parts(name: str) -> list[str]:
    """A name's words: it is wrapped after its underscores."""
    *before, last = name.split("_")
    return [*(f"{part}_" for part in before), last]


def _head(name: str, width: int) -> list[str]:
    lines = [""]
    for part in _parts(name):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _chopped(cell: str, width: int) -> list[str]:
    return chop_cells(cell, width) or [""]


def _lines(cells: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool], bar: str) -> Iterator[str]:
    """A row: each cell is one or more lines."""
    for drawn in itertools.zip_longest(*cells, fillvalue=""):
        padded = [
            " " * (wide - cell_len(cell)) + cell if to_right else cell + " " * (wide - cell_len(cell))
            for cell, wide, to_right in zip(drawn, widths, right, strict=True)
        ]
        yield f"{bar} {f' {bar} '.join(padded)} {bar}"


def _rule(box: str, widths: Sequence[int]) -> str:
    left, line, cross, right = tuple(box)
    return left + cross.join(line * (wide + 2) for wide in widths) + right


def _records(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Each row as lines of a name and a value; an empty line between rows."""
    name_width = max(cell_len(column.name) for column in columns)
    value_width = max(width - name_width - 2, NARROWEST_TEXT)
    for at, row in enumerate(rows):
        if at:
            yield ""
        for column, cell in zip(columns, row, strict=True):
            for line_at, line in enumerate(_chopped(cell, value_width)):
                yield f"{column.name if line_at == 0 else '':{name_width}}  {line}".rstrip()
