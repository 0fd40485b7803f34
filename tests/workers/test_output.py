"""What is printed: rows for programs exactly, tables for people harmlessly."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from workers.output import output_to, print_table, rfc3339, write_rows

NOON = datetime(2026, 7, 1, 12, 0, 0, 123000, tzinfo=UTC)
SUMMER = timezone(timedelta(hours=1))


def written(form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.BytesIO()
    assert write_rows(out, columns, rows, form) == len(rows)
    assert not out.closed
    return out.getvalue()


def test_timestamps_are_rfc_3339_in_utc_wherever_they_came_from() -> None:
    assert rfc3339(datetime(2026, 7, 1, 13, tzinfo=SUMMER)) == "2026-07-01T12:00:00Z"
    assert rfc3339(NOON) == "2026-07-01T12:00:00.123000Z"
    for form in ("jsonl", "csv"):
        assert b"2026-07-01T12:00:00.123000Z" in written(form, ["at"], [[NOON.astimezone(SUMMER)]])


def test_json_lines_keep_what_a_value_is() -> None:
    row = ["x", None, True, 7, {"a": [1]}, "", "Grüße\n"]
    columns = list("abcdefg")
    assert json.loads(written("jsonl", columns, [row])) == dict(zip(columns, row, strict=True))


def test_csv_is_rfc_4180_with_a_header_and_nothing_is_lost_in_quoting() -> None:
    row = ["a,b", 'say "hi"', "two\nlines", "", None, True, 7, {"a": 1}]
    text = written("csv", list("abcdefgh"), [row]).decode()
    assert text.startswith("a,b,c,d,e,f,g,h\r\n")
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[1] == ["a,b", 'say "hi"', "two\nlines", "", "", "true", "7", '{"a":1}']


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_bytes_that_are_no_text_are_shown_as_far_as_they_can_be(form: str) -> None:
    assert "ok\N{REPLACEMENT CHARACTER}" in written(form, ["raw"], [[b"ok\xff"]]).decode()


def test_no_rows_are_an_empty_file_but_for_the_header_of_csv() -> None:
    assert written("jsonl", ["a"], []) == b""
    assert written("csv", ["a"], []) == b"a\r\n"


def test_a_file_gets_the_rows_and_stdout_none(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with output_to(tmp_path / "rows") as out:
        write_rows(out, ["a"], [[1]], "jsonl")
    assert (tmp_path / "rows").read_bytes() == b'{"a":1}\n'
    assert capfdbinary.readouterr().out == b""


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("[red]not red[/red]", "[red]not red[/red]"),
        ("[link=http://x]y[/link] [/]", "[link=http://x]y[/link] [/]"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("a\rb\tc\x00d", r"a\rb\tc\x00d"),
        ("right \u202e left", r"right \u202e left"),
        (":smile:", ":smile:"),
        (b"\x1b[2J", r"\x1b[2J"),
    ],
)
def test_a_table_shows_hostile_values_and_obeys_none(
    value: object, seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(["notes"], [[value]])
    output = capsys.readouterr().out
    assert seen in output
    assert all(char.isprintable() or char == "\n" for char in output)


def test_a_table_on_a_pipe_never_cuts_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 1000
    print_table(["a", "b"], [[long, 1]])
    assert capsys.readouterr().out.count("x") == 1000
