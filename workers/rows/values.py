"""Values as every format for programs has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec

encode: Final = msgspec.json.Encoder(decimal_format="number").encode
Conversion: TypeAlias = Callable[[Any], Any]


def converted(conversions: Sequence[Conversion | None], row: Sequence[Any]) -> list[Any]:
    """Each value as its column has it; null is null."""
    return [
        value if conversion is None or value is None else conversion(value)
        for conversion, value in zip(conversions, row, strict=True)
    ]


def number(value: float | Decimal) -> float:
    """A declaration may leave it to PostgreSQL whether a sum is a bigint or a numeric."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def json_text(value: Any) -> str:
    return encode(value).decode()
