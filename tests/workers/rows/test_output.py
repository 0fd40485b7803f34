"""What is printed: rows for programs exactly, tables for people harmlessly."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caselog.workers.rows.output import output_to, print_event, print_table, rfc3339, write_rows

NOON = datetime(2026, 7, 1, 12, 0, 0, 123000, tzinfo=UTC)
SUMMER = timezone(timedelta(hours=1))


def written(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.BytesIO()
    assert write_rows(out, columns, rows, "jsonl") == len(rows)
    assert not out.closed
    return out.getvalue()


def test_timestamps_are_rfc_3339_in_utc_wherever_they_came_from() -> None:
    assert rfc3339(datetime(2026, 7, 1, 13, tzinfo=SUMMER)) == "2026-07-01T12:00:00Z"
    assert rfc3339(NOON) == "2026-07-01T12:00:00.123000Z"
    assert b"2026-07-01T12:00:00.123000Z" in written(["at"], [[NOON.astimezone(SUMMER)]])


def test_json_lines_keep_what_a_value_is() -> None:
    row = ["x", None, True, 7, {"a": [1]}, "", "Grüße\n"]
    columns = list("abcdefg")
    assert json.loads(written(columns, [row])) == dict(zip(columns, row, strict=True))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=5))
@example(["a\u2028b", "\u2029", "\x85", "a\r\nb\x0b\x0c\x1c\x1d\x1e", "\u0085\u2027\u202a\u00a0"])
def test_every_reader_of_lines_finds_a_row_a_line(texts: list[str]) -> None:
    """Also one that ends a line at each character that Unicode calls a line's end; and each text is as it was."""
    content = written(["a", "b\u2028"], [[text, {text: [text]}] for text in texts])
    lines = content.decode().splitlines()
    assert len(lines) == content.count(b"\n") == len(texts)
    assert [json.loads(line) for line in lines] == [{"a": text, "b\u2028": {text: [text]}} for text in texts]


def test_bytes_that_are_no_text_are_shown_as_far_as_they_can_be() -> None:
    assert "ok\N{REPLACEMENT CHARACTER}" in written(["raw"], [[b"ok\xff"]]).decode()


def test_a_file_gets_the_rows_and_stdout_none(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with output_to(tmp_path / "rows") as out:
        write_rows(out, ["a"], [[1]], "jsonl")
    assert (tmp_path / "rows").read_bytes() == b'{"a":1}\n'
    assert capfdbinary.readouterr().out == b""


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    """What breaks off leaves what stood there before, and nothing beside it."""
    path = tmp_path / "rows"
    path.write_bytes(b"before")

    def break_off() -> None:
        with output_to(path) as out:
            out.write(b"half")
            out.flush()
            assert path.read_bytes() == b"before"
            raise ConnectionError

    with pytest.raises(ConnectionError):
        break_off()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("rows", b"before")]
    with output_to(path) as out:
        out.write(b"after")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("rows", b"after")]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with output_to(tmp_path / "link") as out:
        out.write(b"rows")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"rows"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with output_to(tmp_path / "pipe") as out:
            out.write(b"rows")
        assert os.read(reader, 10) == b"rows"
    finally:
        os.close(reader)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_file_that_cannot_be_made_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "rows"
    with pytest.raises(FileNotFoundError) as raised, output_to(path):
        raise AssertionError
    assert raised.value.filename == str(path)


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


def test_numbers_stand_at_the_right_and_the_values_of_a_record_at_the_left(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["number", "value"], [[7, 7], [12345, "text"], [None, None]])
    lines = capsys.readouterr().out.splitlines()
    [seven] = [line for line in lines if "7" in line]
    assert re.fullmatch(r"│\s{6}7 │ 7\s+│", seven)


def test_an_event_is_shown_with_its_own_indentation_and_obeyed_in_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"id": "1", "data": {"code": "SPOP", "notes": "caf\u00e9 \u202e"}}
    for indent in (2, "\t", None):
        written = json.dumps(event, indent=indent, ensure_ascii=True)
        print_event(written.replace("\n", "\r\n").encode())
        assert capsys.readouterr().out == written + "\n"
    print_event(b"{\x1b[2J\r\xe2\x80\xae\xff}")
    assert capsys.readouterr().out == "{\\x1b[2J\\r\\u202e\N{REPLACEMENT CHARACTER}}\n"
