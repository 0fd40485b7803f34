"""Rows as Parquet, typed as their columns are declared, one row group at a time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from caselog.schema.reports.terms.columns import Column
from caselog.workers.rows.values import Conversion, converted, json_text, number

# A row group is what a reader takes into memory at once, and so does its writer.
ROW_GROUP_BYTES: Final = 16 * 1024 * 1024
ROW_GROUP_ROWS: Final = 100_000
_BATCH_ROWS: Final = 1000

_TYPES: Final = {
    "day": pa.date32(),
    "moment": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "bytes": pa.binary(),
}
_CONVERSIONS: Final[dict[str, Conversion]] = {"json": json_text, "bytes": bytes, "number": number}


class _Sink(io.RawIOBase):
    """What is written to, until it is cut off: then no footer makes a part look like the whole."""

    def __init__(self, out: BinaryIO) -> None:
        self._out: BinaryIO | None = out

    def writable(self) -> bool:
        return True

    def write(self, written: Any) -> int:
        if self._out is not None:
            self._out.write(written)
        return len(written)

    def cut_off(self) -> None:
        self._out = None


def write_parquet(out: BinaryIO, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
    """Write the rows; without any, a file that has the columns all the same. Returns how many."""
    try:
        return _write(out, columns, rows)
    finally:
        # The allocator keeps megabytes for each thread that ever wrote, and any of a tasks worker's may.
        pa.default_memory_pool().release_unused()


def _write(out: BinaryIO, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
    schema = pa.schema([_field(column) for column in columns])
    sink = _Sink(out)
    writer = ParquetWriter(sink, schema, compression="zstd")
    count = 0
    try:
        for group in _row_groups(_batches(rows, columns, schema)):
            table = pa.Table.from_batches(group, schema)
            writer.write_table(table, row_group_size=table.num_rows)
            count += table.num_rows
    except BaseException:
        sink.cut_off()
        raise
    finally:
        writer.close()
    return count


def _batches(rows: Iterable[Sequence[Any]], columns: Sequence[Column], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    conversions = [_CONVERSIONS.get(column.kind) for column in columns]
    remaining = iter(rows)
    while taken := list(itertools.islice(remaining, _BATCH_ROWS)):
        values = zip(*(converted(conversions, row) for row in taken), strict=True)
        arrays = [pa.array(column, type=field.type) for column, field in zip(values, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(b.nbytes for b in group) >= ROW_GROUP_BYTES or sum(b.num_rows for b in group) >= ROW_GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _field(column: Column) -> pa.Field:
    said = {"description": column.description} | ({"unit": column.unit} if column.unit else {})
    return pa.field(column.name, _type(column), metadata=said)


def _type(column: Column) -> pa.DataType:
    """Text, months and JSON are strings."""
    if column.kind == "number":
        return pa.int64() if column.whole else pa.float64()
    return _TYPES.get(column.kind, pa.string())
