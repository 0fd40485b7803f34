"""Nasty messages: those kept in tests/data/corpus, and those too large to keep, which are made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parents[2] / "data" / "corpus"
SECRET: Final = "her-secret"
_GOOD: Final = (
    b'{"specversion":"1.0","id":"%s","source":"/corpus","type":"case","subject":"%s",'
    b'"time":"2026-03-02T09:00:00Z","data":{"code":"CASE_CREATED","notes":"her-secret","context":{"x":%s}}}'
)


def good(id_: str, value: bytes = b"1") -> bytes:
    """An event that creates a case of its own, with that JSON text in its context."""
    return _GOOD % (id_.encode(), f"CORPUS-{id_}".encode(), value)


def _large() -> dict[str, bytes]:
    deep = 100_000
    return {
        "deep arrays": good("d1", b"[" * deep + b"]" * deep),
        "deep objects": good("d2", b'{"a":' * deep + b"1" + b"}" * deep),
        "deep and open": good("d3", b"[" * deep),
        "only brackets": b"[" * 300_000,
        "brackets that close": b"[" * deep + b"]" * deep,
        "300 KiB of notes": good("l1", json.dumps("n" * 300_000).encode()),
        "300 KiB of digits": good("l2", b"9" * 300_000),
        "300 KiB of zeros behind a point": good("l3", b"0." + b"0" * 300_000 + b"1"),
        "300 KiB of escapes": good("l4", b'"' + b"\\u00e9" * 50_000 + b'"'),
        "300 KiB of backslashes": good("l5", b'"' + b"\\\\" * 150_000),
        "a member 30,000 times": good("l6", b"{" + b",".join([b'"a":1'] * 30_000) + b"}"),
        "30,000 members": good("l7", b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}"),
        "30,000 extensions": good("l8")[:-1] + b"".join(b',"x%d":1' % n for n in range(20_000)) + b"}",
        "a wide batch of nothing": b"[" + b",".join([b"{}"] * 5_000) + b"]",
        "quotes": b'["' * 100_000,
        "a batch of one event 3,000 times": b"[" + b",".join([good("many")] * 3_000) + b"]",
        "an event among bombs": b"["
        + b"[" * 50_000
        + b"]" * 50_000
        + b","
        + good("b1")
        + b',"'
        + b"x" * 300_000
        + b'"]',
    }


def messages() -> dict[str, bytes]:
    """Every nasty message by its name."""
    kept = {path.name: path.read_bytes() for path in sorted(CORPUS.iterdir()) if path.suffix != ".md"}
    return kept | _large()
