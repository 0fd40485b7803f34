"""How a page writes the values of a report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from caselog.schema.reports.terms.columns import Column
from caselog.workers.rows.output import rfc3339
from caselog.workers.rows.text import visible
from caselog.workers.rows.values import number

LONG: Final = 40
_OFFSET: Final = len("2026-11-23 10:15:00")


class Cell(msgspec.Struct, frozen=True):
    """What is shown; of a moment also its time in UTC, for programs."""

    text: str
    moment: str = ""
    is_number: bool = False

    @property
    def is_long(self) -> bool:
        """It may take more than one line."""
        return len(self.text) > LONG


def cells(columns: Sequence[Column], row: Sequence[Any], zone: ZoneInfo) -> list[Cell]:
    """A row as it is shown."""
    return [cell(value, zone, is_number=column.kind == "number") for column, value in zip(columns, row, strict=True)]


def cell(value: Any, zone: ZoneInfo, *, is_number: bool = False) -> Cell:
    """Moments are local, with their offset; fractions have two decimals; null is empty."""
    if isinstance(value, datetime):
        local = value.astimezone(zone).isoformat(" ", "seconds")
        return Cell(f"{local[:_OFFSET]} {local[_OFFSET:]}", moment=rfc3339(value))
    return Cell(_written(value), is_number=is_number)


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        value = number(value)
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return visible(str(value))
