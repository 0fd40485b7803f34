"""A large answer is sent while it is written, whole or broken off, and never held in memory."""

from __future__ import annotations

import threading
from typing import BinaryIO

import pytest
from support.processes.patience import DEADLINE_S

from caselog.workers.web.streamed_body import CHUNK_BYTES, Answer

ROW = b"x" * 999 + b"\n"


def test_what_is_soon_whole_has_a_size() -> None:
    found = Answer(lambda out: out.writelines([ROW] * 3))
    assert found.size(within_s=DEADLINE_S) == 3000
    assert b"".join(found.chunks()) == ROW * 3


def test_what_is_long_arrives_before_it_is_whole() -> None:
    """The writer goes on only when the reader has seen the beginning."""
    seen = threading.Event()

    def write(out: BinaryIO) -> None:
        out.write(ROW * 100)
        assert seen.wait(DEADLINE_S)
        out.write(ROW)

    found = Answer(write)
    assert found.size(within_s=0.01) is None
    chunks = found.chunks()
    begin = next(chunks)
    assert 0 < len(begin) <= CHUNK_BYTES
    seen.set()
    assert begin + b"".join(chunks) == ROW * 101


def test_what_fails_at_once_is_no_answer() -> None:
    def write(_out: BinaryIO) -> None:
        raise ValueError("the database is away")

    with pytest.raises(ValueError, match="away"):
        Answer(write).size(within_s=DEADLINE_S)


def test_what_fails_in_the_middle_is_broken_off_and_not_taken_for_the_whole() -> None:
    going = threading.Event()

    def write(out: BinaryIO) -> None:
        out.write(ROW * 100)
        assert going.wait(DEADLINE_S)
        raise ValueError("the database went away")

    found = Answer(write)
    chunks = found.chunks()
    assert next(chunks)
    going.set()
    with pytest.raises(ValueError, match="went away"):
        list(chunks)


def test_what_nobody_reads_any_more_is_given_up() -> None:
    given_up = threading.Event()

    def write(out: BinaryIO) -> None:
        try:
            while True:
                out.write(ROW)
        except BrokenPipeError:
            given_up.set()
            raise

    chunks = Answer(write).chunks()
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]  # a generator
    assert given_up.wait(DEADLINE_S)
