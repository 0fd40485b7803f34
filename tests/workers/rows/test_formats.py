"""Rows for programs: what a value is, it stays, in each format; and no spreadsheet takes it for a formula."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.processes.pipeline import ROOT

from caselog.schema.operations.table_exports import EXPORTS
from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.reports.terms.columns import Column
from caselog.workers.rows import parquet
from caselog.workers.rows.formats import RowFormat, write

SUMMER = timezone(timedelta(hours=1))
COLUMNS = (
    Column(name="day", kind="day", description="a day"),
    Column(name="month", kind="month", description="a month"),
    Column(name="name", description="a text"),
    Column(name="many", kind="number", unit="logs", description="whole"),
    Column(name="share", kind="number", whole=False, unit="percent", description="a fraction"),
    Column(name="at", kind="moment", description="a moment"),
    Column(name="late", kind="flag", description="yes or no"),
    Column(name="context", kind="json", description="anything"),
    Column(name="raw", kind="bytes", description="bytes"),
)
ROW = (
    date(2026, 7, 1), "2026-07", 'Gr\u00fc\u00dfe,\n"x"', 7, 2.5, datetime(2026, 7, 1, 13, tzinfo=SUMMER), True,
    {"a": [1]}, b"ok\xff",
)  # fmt: skip
SAID = (
    "2026-07-01",
    "2026-07",
    ROW[2],
    7,
    2.5,
    "2026-07-01T12:00:00Z",
    True,
    {"a": [1]},
    "ok\N{REPLACEMENT CHARACTER}",
)
NAMES = [column.name for column in COLUMNS]
# RFC 4180 and what spreadsheets make of a cell: the first characters that begin a formula.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

texts = st.text(st.characters(codec="utf-8"), max_size=20)
cells = st.builds(str.__add__, st.text("'=+-@\t\r\n,\" \uff1da", max_size=5), texts)


def written(form: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]], **how: Any) -> bytes:
    out = io.BytesIO()
    assert write(out, columns, rows, form, **how) == len(rows)
    assert not out.closed
    return out.getvalue()


def read_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))


def read_back() -> Callable[[str], str]:
    """What docs/reports.md tells a program to do with a cell of text, executed as it stands there."""
    (program,) = re.findall(r"```python\n(import re\n.*?)```", (ROOT / "docs" / "reports.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    text_of: Callable[[str], str] = names["text_of"]
    return text_of


undone = read_back()


def test_json_lines_keep_what_a_value_is() -> None:
    nothing = (None,) * len(COLUMNS)
    lines = written("jsonl", COLUMNS, [ROW, nothing]).splitlines()
    assert [json.loads(line) for line in lines] == [
        dict(zip(NAMES, SAID, strict=True)),
        dict(zip(NAMES, nothing, strict=True)),
    ]


def test_csv_is_rfc_4180_with_a_header_and_the_values_of_json() -> None:
    content = written("csv", COLUMNS, [ROW, (None,) * len(COLUMNS)])
    assert content.startswith(",".join(NAMES).encode() + b"\r\n")
    assert content.endswith(b"\r\n")
    header, full, empty = read_csv(content)
    assert header == NAMES
    assert full == [*SAID[:2], ROW[2], "7", "2.5", "2026-07-01T12:00:00Z", "true", '{"a":[1]}', SAID[-1]]
    assert empty == [""] * len(COLUMNS)


def test_parquet_has_the_values_their_types_and_what_they_mean() -> None:
    table = pq.read_table(io.BytesIO(written("parquet", COLUMNS, [ROW, (None,) * len(COLUMNS)])))
    assert table.schema.types == [
        pa.date32(), pa.string(), pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC"), pa.bool_(),
        pa.string(), pa.binary(),
    ]  # fmt: skip
    full, empty = table.to_pylist()
    assert full == dict(zip(NAMES, ROW, strict=True)) | {"context": '{"a":[1]}'}
    assert empty == dict.fromkeys(NAMES)
    assert table.schema.field("many").metadata == {b"description": b"whole", b"unit": b"logs"}
    assert table.schema.field("name").metadata == {b"description": b"a text"}


def test_without_rows_each_format_says_as_much_as_it_can() -> None:
    assert written("jsonl", COLUMNS, []) == b""
    assert read_csv(written("csv", COLUMNS, [])) == [NAMES]
    table = pq.read_table(io.BytesIO(written("parquet", COLUMNS, [])))
    assert (table.num_rows, table.column_names) == (0, NAMES)


@given(st.lists(st.tuples(cells, st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), st.binary(max_size=5))))
@example([("=1+1", -1, b"=1"), ("'=1+1", None, b"'"), ("'s-Gravenhage", 0, b"")])
def test_no_text_of_csv_is_a_formula_and_all_of_it_can_be_had_back(rows: list[tuple[str, int | None, bytes]]) -> None:
    """Numbers are never changed: a negative one is a number for a spreadsheet too."""
    columns = (Column(name="a", description=""), Column(name="n", kind="number", description=""),
               Column(name="raw", kind="bytes", description=""))  # fmt: skip
    _, *found = read_csv(written("csv", columns, rows))
    assert len(found) == len(rows)
    for (text, count, raw), (cell, numeral, shown) in zip(rows, found, strict=True):
        assert not cell.startswith(FORMULA)
        assert not shown.startswith(FORMULA)
        assert undone(cell) == text
        assert undone(shown) == raw.decode(errors="replace")
        assert numeral == ("" if count is None else str(count))
        if not text.lstrip("'").startswith(FORMULA):
            assert cell == text


def test_a_byte_order_mark_comes_before_the_header_where_it_is_asked_for() -> None:
    content = written("csv", COLUMNS, [ROW], bom=True)
    assert content == b"\xef\xbb\xbf" + written("csv", COLUMNS, [ROW])


@given(
    st.lists(st.tuples(texts, st.one_of(st.none(), st.datetimes(timezones=st.just(UTC))), st.booleans()), max_size=30)
)
def test_what_is_read_from_parquet_is_what_json_lines_say(rows: list[tuple[str, datetime | None, bool]]) -> None:
    columns = (Column(name="a", description=""), Column(name="at", kind="moment", description=""),
               Column(name="f", kind="flag", description=""))  # fmt: skip
    lines = [json.loads(line) for line in written("jsonl", columns, rows).splitlines()]
    assert [row | {"at": row["at"] and datetime.fromisoformat(row["at"])} for row in lines] == pq.read_table(
        io.BytesIO(written("parquet", columns, rows))
    ).to_pylist()


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.dictionaries(texts, texts, max_size=2), st.binary(max_size=5)), max_size=5))
@example([("a\u2028b\u2029c\x85d", {"\u2028": "\u2029"}, "\x85".encode())])
def test_json_lines_are_lines_for_every_reader(rows: list[tuple[str, dict[str, str], bytes]]) -> None:
    columns = (Column(name="a", description=""), Column(name="j", kind="json", description=""),
               Column(name="raw", kind="bytes", description=""))  # fmt: skip
    content = written("jsonl", columns, rows).decode()
    lines = content.splitlines()
    assert len(lines) == content.count("\n") == len(rows)
    found = [json.loads(line) for line in lines]
    assert found == [{"a": text, "j": value, "raw": raw.decode(errors="replace")} for text, value, raw in rows]


def test_numbers_of_postgresqls_own_width_are_numbers() -> None:
    columns = (Column(name="sum", kind="number", description=""),
               Column(name="mean", kind="number", whole=False, description=""))  # fmt: skip
    rows = [(Decimal(3), Decimal("2.5"))]
    assert written("jsonl", columns, rows) == b'{"sum":3,"mean":2.5}\n'
    assert written("csv", columns, rows) == b"sum,mean\r\n3,2.5\r\n"
    assert pq.read_table(io.BytesIO(written("parquet", columns, rows))).to_pylist() == [{"sum": 3, "mean": 2.5}]


def test_row_groups_of_parquet_are_bounded_in_bytes_and_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = (Column(name="a", description=""),)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 5000)
    many = pq.ParquetFile(io.BytesIO(written("parquet", columns, [("x",)] * 12_345))).metadata
    assert [many.row_group(at).num_rows for at in range(many.num_row_groups)] == [5000, 5000, 2345]
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 1_500_000)
    wide = pq.ParquetFile(io.BytesIO(written("parquet", columns, [("x" * 1000,)] * 4000))).metadata
    assert [wide.row_group(at).num_rows for at in range(wide.num_row_groups)] == [2000, 2000]


@pytest.mark.parametrize("form", list(RowFormat))
def test_rows_are_written_while_they_are_read(form: RowFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a large output would be held in memory."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2000)
    out = io.BytesIO()
    sizes = []

    def rows() -> Iterator[tuple[str]]:
        for number in range(10_000):
            yield (f"row {number}",)
            sizes.append(out.tell())

    assert write(out, (Column(name="a", description=""),), rows(), form) == 10_000
    assert sizes[1000] < sizes[5000] < sizes[9000] < out.tell()


def test_parquet_that_broke_off_cannot_be_taken_for_the_whole() -> None:
    """Its footer is what makes a file of Parquet readable."""

    def rows() -> Iterator[tuple[int]]:
        yield (1,)
        raise ConnectionError

    out = io.BytesIO()
    with pytest.raises(ConnectionError):
        write(out, (Column(name="n", kind="number", description=""),), rows(), "parquet")
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(io.BytesIO(out.getvalue()))


@pytest.mark.parametrize("columns", [*(e.fields for e in EXPORTS.values()), *(r.columns for r in REPORTS.values())])
def test_every_column_that_is_written_says_what_it_means(columns: tuple[Column, ...]) -> None:
    assert [column.name for column in columns if not column.description] == []
    assert [c.name for c in columns if c.kind == "number" and not c.whole and not c.unit] == []


def test_each_thread_that_wrote_parquet_gives_back_what_that_took() -> None:
    """A tasks worker exports in any of its threads, for months: the allocator keeps nothing for each of them."""
    columns = [Column(name=f"c{number}", kind="text", description="a text") for number in range(6)]

    def write_much() -> None:
        rows = ([f"{row}-{column}-some text of a row" for column in range(len(columns))] for row in range(20_000))
        parquet.write_parquet(io.BytesIO(), columns, rows)

    def in_a_thread_of_its_own() -> int:
        threads.append(ThreadPoolExecutor(1))
        threads[-1].submit(write_much).result()
        return psutil.Process().memory_info().rss

    threads: list[ThreadPoolExecutor] = []
    first = in_a_thread_of_its_own()
    last = [in_a_thread_of_its_own() for _ in range(5)][-1]
    for thread in threads:
        thread.shutdown()
    assert last - first < 16_000_000
