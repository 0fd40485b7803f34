"""A number and its noun go together, and a sentence ends once."""

from __future__ import annotations

import pytest

from caselog.events.phrases import count_of, sentence


@pytest.mark.parametrize(
    ("many", "words", "said"),
    [
        (0, ("event",), "0 events"),
        (1, ("event",), "1 event"),
        (2, ("event",), "2 events"),
        (1_234_567, ("event",), "1,234,567 events"),
        (1, ("log entry", "log entries"), "1 log entry"),
        (0, ("log entry", "log entries"), "0 log entries"),
        (1, ("parked event waits", "parked events wait"), "1 parked event waits"),
    ],
)
def test_a_number_and_its_noun_agree(many: int, words: tuple[str, ...], said: str) -> None:
    assert count_of(many, *words) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no such command", "no such command."),
        ("no such command. ", "no such command."),
        ("no such command 'queue'. Did you mean 'queues'?", "no such command 'queue'. Did you mean 'queues'?"),
        (ValueError("is a server running there?\n"), "is a server running there?"),
    ],
)
def test_a_sentence_ends_once(text: object, said: str) -> None:
    assert sentence(text) == said
