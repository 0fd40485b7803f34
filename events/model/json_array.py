"""The elements of a JSON array as the bytes that they were written in, whatever each of them is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

# A string without an end is told apart, because looking for its end again from each quote in it takes for ever.
# Brackets that stand together are one token: what is nested a million deep is found quickly.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<endless>")|[\[{]+|[\]}]+|,', re.DOTALL)
_COMMA: Final = ord(",")
_BRACKET: Final = re.compile(rb"[\[{]+|[\]}]+|,")
_EMPTY: Final = re.compile(rb"[ \t\r\n]*+\[[ \t\r\n]*+\][ \t\r\n]*+")


def is_array(body: bytes) -> bool:
    """Whether the text begins as an array does."""
    return body.lstrip()[:1] == b"["


def split(body: bytes, most: int) -> list[bytes] | None:
    """The elements of a JSON array, found by brackets and strings alone; `most` + 1 of them at most.

    So one element may be anything (bad UTF-8, nested a million deep, `NaN`) and the others are still told apart.
    None where the brackets do not close.
    """
    start, end = body.find(b"[") + 1, len(body.rstrip())
    depth, position = 1, start
    elements: list[bytes] = []
    for token in _tokens(body, start):
        first = body[token.start()]
        if first in b"[{":
            depth += token.end() - token.start()
        elif first in b"]}":
            depth -= token.end() - token.start()
            if depth <= 0 and (depth < 0 or token.end() != end):
                return None
        if (first == _COMMA and depth == 1) or depth == 0:
            elements.append(body[position : token.end() - 1].strip())
            if len(elements) > most:
                return elements
            position = token.end()
    if depth != 0:
        return None
    if elements == [b""]:
        return [] if _EMPTY.fullmatch(body) else None
    return elements


def _tokens(body: bytes, start: int) -> Iterator[re.Match[bytes]]:
    """The strings, brackets and commas of a JSON text; behind a quote that nothing closes, brackets and commas."""
    for token in _TOKEN.finditer(body, start):
        if token["endless"]:
            yield from _BRACKET.finditer(body, token.end())
            return
        yield token
