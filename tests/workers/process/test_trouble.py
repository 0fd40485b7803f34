"""What is in the way is said when it begins, when it changes, now and then, and when it is over."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from caselog.workers.process import trouble
from caselog.workers.process.trouble import Trouble


def test_the_same_trouble_is_one_line_another_is_another_and_so_is_its_end() -> None:
    one = Trouble()
    with capture_logs() as lines:
        one.end("goes on")
        for error in ("read-only", "read-only", "away", "away", "read-only"):
            one.tell("waits", error, events=7)
        one.end("goes on")
        one.end("goes on")
        one.tell("waits", "read-only")
    told = [(line["event"], line.get("error")) for line in lines]
    assert told == [
        ("waits", "read-only"),
        ("waits", "away"),
        ("waits", "read-only"),
        ("goes on", None),
        ("waits", "read-only"),
    ]
    assert lines[0]["events"] == 7


def test_trouble_that_lasts_is_said_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "AGAIN_S", 0.0)
    one = Trouble()
    with capture_logs() as lines:
        for _ in range(3):
            one.tell("waits", "away")
    assert len(lines) == 3
