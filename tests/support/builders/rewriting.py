"""Hypothesis strategies for JSON: any values that an event may hold, and any other way of writing the same event."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from hypothesis import strategies as st

Json = dict[str, Any]

# No NUL and no lone surrogates, which an event may not hold.
_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
JSON_VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 0.0, -0.0, 1.0, 1e22, 1e308, 5e-324, 0.1, 2**53 + 1, 2**64])
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def rewritten(draw: st.DrawFn, event: Json) -> bytes:
    """The same event as another program would write it.

    Other are the order of members, blanks, numbers, escapes, offsets, what is empty or left out, and what is put on by
    those who pass it on.
    """
    members = dict(event)
    members["time"] = draw(_same_moment(event["time"]))
    data = dict(event.get("data") or {})
    empty: dict[str, list[Any]] = {"notes": ["", None], "context": [{}, None], "patch": [None], "code": [None]}
    for name, values in empty.items():
        if data.get(name) in (None, *values):
            data.pop(name, None)
            data |= draw(st.sampled_from([{}, *({name: value} for value in values)]))
    if draw(st.integers(0, 4)) == 0:
        data.pop("code", None)
    members["data"] = data
    members |= draw(st.sampled_from([{}, {"traceparent": "00-1-2-00"}, {"hop": 3, "tracestate": "a=1"}]))
    return draw(_texts(members)).encode()


@st.composite
def _same_moment(draw: st.DrawFn, text: str) -> str:
    moment = datetime.fromisoformat(text).astimezone(timezone(timedelta(minutes=draw(st.sampled_from([0, 60, -330])))))
    written = moment.isoformat(timespec="microseconds")
    # Nanoseconds, as Go and Java write them.
    return written[:26] + draw(st.sampled_from(["", "000", "400"])) + written[26:]


@st.composite
def _texts(draw: st.DrawFn, value: Any) -> str:
    blank = draw(st.sampled_from(["", "", " ", "\n\t"]))
    if isinstance(value, dict):
        members = [
            f"{draw(_texts(name))}{blank}:{draw(_texts(item))}"
            for name, item in draw(st.permutations([*value.items()]))
        ]
        if value and draw(st.integers(0, 5)) == 0:
            # Of a name that comes twice, the last one counts.
            members.insert(0, f"{json.dumps(next(iter(value)))}:{json.dumps(next(iter(value.values())))}")
        return f"{{{','.join(members)}{blank}}}"
    if isinstance(value, list):
        return f"[{','.join(draw(_texts(item)) for item in value)}{blank}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    ways = [repr(value)]
    if isinstance(value, int) and abs(value) < 2**53:
        ways += [f"{value}.0", f"{value}e0"]
    if isinstance(value, float):
        ways += [f"{value:.17e}", repr(value).upper()]
        if value.is_integer() and abs(value) < 2**53:
            ways.append(str(int(value)))
    return draw(st.sampled_from(ways))
