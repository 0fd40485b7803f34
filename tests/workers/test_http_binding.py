"""The HTTP binding of CloudEvents: what a request's headers and body mean as events."""

from __future__ import annotations

import msgspec
import pytest
from pipeline import event
from stored import body

from events.message import BATCH_TYPE, EVENT_BYTES_MAX, EVENT_TYPE, parse_event
from workers.http_binding import BATCH_EVENTS_MAX, NoEvents, read_events

STRUCTURED = [("Content-Type", EVENT_TYPE)]
BATCHED = [("content-type", f"{BATCH_TYPE}; charset=UTF-8")]
BINARY = [
    ("content-type", "application/json"),
    ("ce-specversion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "/portal"),
    ("ce-type", "case"),
    ("ce-time", "2026-11-22T10:15:00Z"),
]


def refused(headers: list[tuple[str, str]], content: bytes) -> NoEvents:
    with pytest.raises(NoEvents) as caught:
        read_events(headers, content)
    return caught.value


def test_structured_events_are_published_byte_by_byte_as_they_were_sent() -> None:
    one, two = (
        body(event("case", "CASE_CREATED", "A-1")),
        body(event("case", "CASE_CREATED", "A-2")).replace(b'":', b'" : '),
    )
    assert read_events(STRUCTURED, one) == [one]
    assert read_events(BATCHED, b" [" + one + b",\n" + two + b"] ") == [one, two]


def test_a_binary_event_is_what_the_same_event_is_in_structured_mode() -> None:
    """Attributes are percent-decoded UTF-8, header names are in any case, and data stays as it was written."""
    headers = [
        *BINARY,
        ("CE-Subject", "Müller %22%E2%82%AC%22 100%25".encode().decode("latin-1")),
        ("ce-traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("ce-comexample", "7"),
    ]
    (raw,) = read_events(headers, b'{"code": "CASE_CREATED", "context": {"n": 1.10, "big": 12345678901234567890123}}')
    found = parse_event(raw)
    assert (found.id, found.source, found.type, found.subject) == ("1", "/portal", "case", 'Müller "€" 100%')
    assert found.datacontenttype == "application/json"
    assert found.extensions == {"comexample": "7"}
    assert b'"n": 1.10, "big": 12345678901234567890123' in raw


def test_a_binary_event_without_a_body_has_no_data() -> None:
    headers = [pair for pair in BINARY if pair[0] != "content-type"]
    (raw,) = read_events(headers, b"")
    assert "data" not in msgspec.json.decode(raw)


@pytest.mark.parametrize(
    ("headers", "content", "status", "says"),
    [
        ([], b"{}", 415, "application/cloudevents+json"),
        ([("content-type", "application/json")], b"{}", 415, "ce-specversion"),
        ([("content-type", "text/plain"), *BINARY[1:]], b"x", 415, "application/json"),
        ([("content-type", f"{EVENT_TYPE}; charset=utf-16")], b"{}", 415, "utf-16"),
        (STRUCTURED, b"", 400, "malformed"),
        (STRUCTURED, b"[]", 400, "malformed"),
        (BATCHED, b"{}", 400, EVENT_TYPE),
        (BATCHED, b"[]", 400, "malformed"),
        (BATCHED, b"[{}", 400, "malformed"),
        (BINARY, b'{}, "id": "2"', 400, "no JSON"),
        (BINARY, b"\xff", 400, "no JSON"),
        ([*BINARY, ("ce-id", "2")], b"{}", 400, "twice"),
        ([*BINARY, ("ce-data", "{}")], b"{}", 400, "ce-data"),
        ([*BINARY, ("ce-x_y", "1")], b"{}", 400, "ce-x_y"),
        ([*BINARY, ("ce-subject", "%FF")], b"{}", 400, "UTF-8"),
        ([pair for pair in BINARY if pair[0] != "ce-time"], b"{}", 400, "malformed"),
        (STRUCTURED, b'{"id": "' + b"x" * EVENT_BYTES_MAX, 413, "malformed"),
        (BATCHED, b"[" + b",".join([b"{}"] * (BATCH_EVENTS_MAX + 1)) + b"]", 413, "more than 1,000"),
        (BATCHED, b"[" + b"0," * 2_000_000 + b"0]", 413, "more than 1,000"),
        (BINARY, b"[" + b"[]," * 1_000_000 + b"0]", 413, "262,144"),
    ],
)
def test_what_is_no_event_is_refused_with_the_status_that_says_why(
    headers: list[tuple[str, str]], content: bytes, status: int, says: str
) -> None:
    error = refused(headers, content)
    assert error.status == status
    assert says in str(error)


def test_one_malformed_event_of_a_batch_refuses_all_and_each_is_named_by_its_position() -> None:
    good, bad = event("case", "CASE_CREATED", "A-1"), event("case", "CASE_CREATED", "A-2")
    del bad["time"]
    error = refused(BATCHED, msgspec.json.encode([good, bad, good, {}]))
    assert error.status == 400
    assert [fault.position for fault in error.faults] == [2, 4]
    assert (error.faults[0].id, error.faults[0].source) == (bad["id"], bad["source"])
    assert "time" in error.faults[0].error
    assert "2 of 4" in str(error)
