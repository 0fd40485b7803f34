"""Hostile bytes: whatever is sent, decoding ends, raises nothing, costs the others nothing and repeats no secrets."""

from __future__ import annotations

import json
import tracemalloc
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders.corpus import SECRET, good, messages

from caselog.events.errors import OversizedMessage
from caselog.events.model.message import EVENT_BYTES_MAX, MESSAGE_BYTES_MAX, Event, Malformed, decode

MESSAGES: Final = messages()
BEFORE, AFTER = good("before"), good("after")
# What breaks readers of JSON, each put anywhere into an event.
_PIECES: Final = [
    b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\x00", b"\xff", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"NaN", b"-Infinity", b"1e999", b"-", b"0", b"9" * 400, b"null", b"true", b"[" * 70, b"]" * 70,
    b'{"a":' * 70, b"/*", b"\n",
    b'"id":"x",', b'"data":{},', b'"_extensions":{"a":1},', b'"time":0,',
]  # fmt: skip


@st.composite
def nearly_events(draw: st.DrawFn) -> bytes:
    """An event with a few pieces put in, taken out, doubled or moved."""
    body = good("fuzz", draw(st.sampled_from([b"1", b'"x"', b'{"a":[1,{"b":null}]}'])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 12)))
        other = draw(st.integers(0, len(body)))
        body = draw(
            st.sampled_from([
                body[:start] + draw(st.sampled_from(_PIECES)) + body[start:],
                body[:start] + draw(st.sampled_from(_PIECES)) + body[end:],
                body[:start] + body[end:],
                body[:end] + body[start:],
                body[:other] + body[start:end] + body[other:],
            ])
        )  # fmt: skip
    return body


def assert_sound(body: bytes) -> None:
    """There is an entry for all that is in it, with its bytes; and no message repeats what notes or context say."""
    message = decode(body)
    assert message.events
    for position, event in enumerate(message.events):
        assert message.raw(position) in body
        if isinstance(event, Malformed):
            assert SECRET not in str(event.error)
            assert len(str(event.error)) < 1000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", MESSAGES)
def test_every_nasty_message_is_decoded_soundly(name: str) -> None:
    assert_sound(MESSAGES[name])


@settings(max_examples=300, deadline=None)
@given(nearly_events() | st.binary(max_size=64))
def test_what_is_nearly_an_event_is_decoded_soundly(body: bytes) -> None:
    assert_sound(body)
    assert_sound(b"[" + body + b"," + AFTER + b"]")


@settings(max_examples=300, deadline=None)
@given(nearly_events())
def test_an_event_that_is_any_json_at_all_costs_its_neighbours_nothing(body: bytes) -> None:
    """It is one value of the array, so it is one entry; and what it is does not depend on its company."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return
    message = decode(b"[" + BEFORE + b"," + body + b"," + AFTER + b"]")
    assert [isinstance(event, Event) for event in message.events[::2]] == [True, True]
    assert len(message.events) == 3
    [alone] = decode(body).events
    among = message.events[1]
    assert type(among) is type(alone)
    assert among == alone or isinstance(among, Malformed)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_batch_of_256_kib_of_nothings_is_as_many_entries() -> None:
    """As many as one message of our own Publisher can hold. Also with a good event at its end."""
    nothings = EVENT_BYTES_MAX // len(b"0,") - 1
    message = decode(b"[" + b"0," * nothings + AFTER + b"]")
    assert len(message.events) == nothings + 1
    assert isinstance(message.events[-1], Event)
    assert message.raw(nothings) == AFTER


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"0," * 3_000_000 + b"0]",
        b"[" + b"{}," * 2_000_000 + AFTER + b"]",
        b"[" + AFTER + b"," + b" " * MESSAGE_BYTES_MAX + b"]",
        b"[" + b'"' + b"x" * MESSAGE_BYTES_MAX + b'"]',
    ],
    ids=["zeros", "objects", "spaces", "a string"],
)
def test_a_message_over_the_limits_is_one_entry_that_costs_nearly_nothing(body: bytes) -> None:
    """Told apart, six megabytes of zeros took minutes, and 400 bytes of memory for each two of the message."""
    tracemalloc.start()
    message = decode(body)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    [only] = message.events
    assert isinstance(only, Malformed)
    assert isinstance(only.error, OversizedMessage)
    assert "smaller" in str(only.error)
    assert message.raw(0) is body
    assert most_bytes < 32 * 1024 * 1024 + len(body)


def test_what_is_malformed_costs_no_more_than_its_bytes_and_still_says_what_it_is() -> None:
    """Of a huge event only its names are unpacked: the rest would take thirty times its size."""
    body = good("huge", b"[" + b"[]," * 2_000_000 + b"0]")
    tracemalloc.start()
    [only] = decode(body).events
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(only, Malformed)
    assert (only.event_id, only.source, only.subject, only.code) == ("huge", "/corpus", "CORPUS-huge", "CASE_CREATED")
    assert most_bytes < 2 * len(body)
