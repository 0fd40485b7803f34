"""The trace that an event belongs to, as W3C Trace Context writes it: `traceparent`, an attribute of CloudEvents."""

from __future__ import annotations

import re
import sys
from typing import Final, NamedTuple

# Later versions may append to it; this one may not.
_VERSION: Final = "00"
_CHARACTERS: Final = 55
_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class TraceParent(NamedTuple):
    """What was going on when an event was sent: hexadecimal ids of trace and span, and flags (bit 0: sampled)."""

    trace_id: str
    span_id: str
    flags: int


def parse_traceparent(text: str | None) -> TraceParent | None:
    """The parts of a `traceparent`; None where it is none. An event is never refused for it."""
    found = _FORM.fullmatch(text) if text is not None else None
    if text is None or found is None or (text.startswith(_VERSION) and len(text) > _CHARACTERS):
        return None
    return TraceParent(found[1], found[2], int(found[3], 16))


def current_traceparent() -> str | None:
    """That of the span which is active here; None where there is none.

    Who has an active span has imported OpenTelemetry; nothing is imported for who has not.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
