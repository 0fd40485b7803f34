"""Passwords kept out of what is said: messages, tracebacks, log lines, pages.

A library or an app may put anything into the text of its error. `hide` masks what looks like a credential, and each
password that this process was told to keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

STARS: Final = "***"
# Of a shorter one, every text is full.
KEPT_CHARACTERS_MIN: Final = 4

_WORD: Final = re.compile(r"[^\s'\"<>]+")
# What stands between :// and a password with a space: a user, and no port after the colon.
_USER: Final = re.compile(r"[^\s/?#@:'\"]{0,200}:(?!\d{1,5}(?:[\s/,;.)'\"]|$))")
_NAMES: Final = ("pass", "pwd", "secret", "token")
_NAME: Final = r"(?:\bpass|passwd|password|pwd|secret|token)"
_QUOTED: Final = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
# password=x, password='x y', "password": "x"; in a URL's query up to the next &.
_NAMED: Final = re.compile(
    rf"({_NAME}['\"]?\s*=\s*)(?:{_QUOTED}|[^\s,;&'\")\]}}]+)|({_NAME}['\"]?\s*:\s*)(?:{_QUOTED})", re.IGNORECASE
)

_kept: re.Pattern[str] | None = None


def keep(passwords: Iterable[str]) -> None:
    """From now on these are masked wherever they appear in this process, and those of an earlier call no longer."""
    global _kept  # noqa: PLW0603 - one process has one set of settings
    spellings = {
        spelling
        for password in passwords
        if len(password) >= KEPT_CHARACTERS_MIN
        for spelling in (
            password,
            quote(password),
            quote(password, safe=""),
            quote_plus(password),
            repr(password)[1:-1],
        )
    }
    longest_first = sorted(spellings, key=len, reverse=True)
    _kept = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def hide(text: str) -> str:
    """The text with stars in place of each user and password in a URL, each named password, and each kept one."""
    if _kept is not None:
        text = _kept.sub(STARS, text)
    if "://" in text and "@" in text:
        text = "\n".join(map(_hide_in_line, text.split("\n")))
    # Looked for first, which takes a hundredth of the time: a batch may have thousands of dead letters with tracebacks.
    folded = text.casefold()
    if not any(name in folded for name in _NAMES):
        return text
    return _NAMED.sub(lambda found: f"{found[1] or found[2]}{STARS}", text)


def _hide_in_line(line: str) -> str:
    """Each step looks at each character once: what is said may be long, and meant to keep us busy."""
    line = _WORD.sub(_hide_in_word, line)
    start = line.find("://")
    while start >= 0:
        start += len("://")
        at = line.rfind("@")
        if at >= start and not line.startswith(STARS, start) and _USER.match(line, start):
            return f"{line[:start]}{STARS}{line[at:]}"
        start = line.find("://", start)
    return line


def _hide_in_word(found: re.Match[str]) -> str:
    word = found[0]
    start, at = word.find("://") + len("://"), word.rfind("@")
    return f"{word[:start]}{STARS}{word[at:]}" if len("://") <= start <= at else word
