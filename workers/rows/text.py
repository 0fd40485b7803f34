"""Names and text for people: words made of names, and text that is nothing else to a terminal or a page."""

from __future__ import annotations

from typing import Final

# Names are words of our own declarations; these are no words.
_ABBREVIATIONS: Final = {"sla": "SLA"}


def label(name: str) -> str:
    """A column's or a report's name for people: `missed_sla_1` is Missed SLA 1."""
    words = " ".join(_ABBREVIATIONS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def visible(text: str) -> str:
    """Characters that are not printed, or that turn the line around, as their escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
