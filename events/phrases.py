"""Pieces of the messages that people read: a number with its noun, a sentence with its end."""

from __future__ import annotations

from typing import Final

from caselog.events.errors import Interrupted

# What a person reads of an error. A rule may raise one that holds a whole document.
SAID_CHARACTERS: Final = 2_000


def count_of(many: int, one: str, several: str | None = None) -> str:
    """The number and its noun, as they go together: "1 event", "2 events", "1 event waits".

    `several` is what stands for `one` with another number than 1; unless given, `one` with an s.
    """
    return f"{many:,} {one if many == 1 else several or f'{one}s'}"


def sentence(text: object) -> str:
    """The text with one full stop at its end; where it ends as a sentence already (a question, say), as it is."""
    said = str(text).strip()
    return said if said.endswith((".", "?", "!")) else f"{said}."


def said(error: BaseException, most: int = SAID_CHARACTERS) -> str:
    """What an error says, whatever its class makes of that: cut where it is long, a word where it says nothing."""
    try:
        text = str(error)
    except Interrupted:
        raise
    except BaseException as fault:  # noqa: BLE001 - its own `__str__` is a rule's code, too
        return f"(its text cannot be had: {type(fault).__name__})"
    return cut(text, most)


def cut(text: str, most: int = SAID_CHARACTERS) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]}… (of {len(text):,} characters)"


def storable(text: str) -> str:
    """The text with what neither UTF-8 nor PostgreSQL holds, lone surrogates and NUL, written as an escape."""
    return text.encode(errors="backslashreplace").decode().replace("\0", r"\x00")
