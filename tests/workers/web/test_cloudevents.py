"""The HTTP binding of CloudEvents: what a request's headers and body mean as events."""

from __future__ import annotations

import msgspec
import pytest
from support.oracle.stored import body
from support.processes.pipeline import event

from caselog.events.errors import EventError, RoleNotAllowed
from caselog.events.model.message import BATCH_TYPE, EVENT_BYTES_MAX, EVENT_TYPE, Event, parse_event
from caselog.workers.web.cloudevents import BATCH_EVENTS_MAX, NoEvents, read_events

STRUCTURED = [("Content-Type", EVENT_TYPE)]
BATCHED = [("content-type", f"{BATCH_TYPE}; charset=UTF-8")]
BINARY = [
    ("content-type", "application/json"),
    ("ce-specversion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "/portal"),
    ("ce-type", "timer"),
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
    assert (found.id, found.source, found.type, found.subject) == ("1", "/portal", "timer", 'Müller "€" 100%')
    assert found.datacontenttype == "application/json"
    assert found.extensions == {"comexample": "7"}
    assert b'"n": 1.10, "big": 12345678901234567890123' in raw


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ('"C-1"', "C-1"),
        (' "C-1" ', "C-1"),
        ('"a \\"b\\" c\\\\d"', 'a "b" c\\d'),
        ('"C%2D1"', "C-1"),
        ('"\\%41"', "A"),  # the escapes first, then the percent signs
        ("%22C-1%22", '"C-1"'),  # what percent-decoding brings to light is not unquoted any more
        ("%2522", "%22"),  # a single round
        ("%5C%5c", "\\\\"),
        ("a\\b", "a\\b"),  # outside of quotes a backslash is one
        ('5" pipe', '5" pipe'),
        ("%e2%82%ac", "\N{EURO SIGN}"),
        ("\N{EURO SIGN}".encode().decode("latin-1") + "%20x", "\N{EURO SIGN} x"),
        ('"' + "\N{EURO SIGN}".encode().decode("latin-1") + '"', "\N{EURO SIGN}"),
    ],
)
def test_a_header_is_unquoted_before_it_is_percent_decoded(value: str, means: str) -> None:
    """As 3.1.3.2 of the binding says; else the event would be another case's."""
    (raw,) = read_events([*BINARY, ("ce-subject", value)], b"{}")
    assert parse_event(raw).subject == means


@pytest.mark.parametrize(
    "value",
    [
        "%", "a%", "%4", "%4g", "%zz", "100 %", '"%"', "%C0%A0", "%FF", "%ED%A0%80", "\xff", '"C-1', '"C-1" x', '"',
        '"C-1\\"', '"a"b"',
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_decoded_is_named_and_nothing_is_guessed(value: str) -> None:
    error = refused([*BINARY, ("ce-subject", value)], b"{}")
    assert error.status == 400
    assert "'ce-subject'" in str(error)


def test_all_that_is_wrong_with_a_binary_event_is_said_at_once() -> None:
    headers = [(name, value) for name, value in BINARY if name != "ce-time"]
    error = refused([*headers, ("ce-id", "2"), ("ce-x_y", "1"), ("ce-subject", "%")], b'{"code": 5')
    assert error.status == 400
    [fault] = error.faults
    for named in ("'ce-id'", "'ce-x_y'", "'ce-subject'", "no JSON", "time is missing"):
        assert named in fault.error
    assert "; subject" not in fault.error


@pytest.mark.parametrize(
    "text",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
        'application/json; profile="a;b"; charset=us-ascii',
        'application/json; title="charset=latin1"',
        "application/vnd.case+json",
        "text/json",
    ],
)
def test_a_content_type_is_read_with_its_parameters_and_whatever_says_json_is_json(text: str) -> None:
    (raw,) = read_events([("content-type", text), *BINARY[1:]], b'{"code": "X"}')
    assert parse_event(raw).data.code == "X"


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
        (BATCHED, b"[{}", 400, "malformed"),
        (BINARY, b'{}, "id": "2"', 400, "no JSON"),
        (BINARY, b"\xff", 400, "no JSON"),
        ([*BINARY, ("ce-id", "2")], b"{}", 400, "twice"),
        ([*BINARY, ("ce-data", "{}")], b"{}", 400, "ce-data"),
        ([*BINARY, ("ce-x_y", "1")], b"{}", 400, "ce-x_y"),
        ([*BINARY, ("ce-subject", "%FF")], b"{}", 400, "UTF-8"),
        ([*BINARY, ("content-type", EVENT_TYPE)], b"{}", 400, "'content-type'"),
        ([("content-type", 'application/json; charset="latin1"'), *BINARY[1:]], b"{}", 415, "latin1"),
        ([("content-type", "application/jsonx"), *BINARY[1:]], b"{}", 415, "application/json"),
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


@pytest.mark.parametrize("content", [b"[]", b" [\n] "])
def test_an_empty_batch_is_accepted(content: bytes) -> None:
    assert read_events(BATCHED, content) == []


def test_what_is_wrong_is_told_at_once_and_alike_in_each_mode() -> None:
    """A missing subject among it, which the event's bundled key needs."""
    attributes = {"specversion": "1.0", "id": "", "source": "/portal", "type": "case"}
    data = {"code": 5, "acter": {"id": "a"}}
    structured = msgspec.json.encode({**attributes, "data": data})
    headers = [("content-type", "application/json"), *((f"ce-{name}", value) for name, value in attributes.items())]
    said = {
        refused(*asked).faults[0].error
        for asked in (
            (STRUCTURED, structured),
            (BATCHED, b"[" + structured + b"]"),
            (BATCHED, msgspec.json.encode([msgspec.json.decode(structured)] * 2)),
            (headers, msgspec.json.encode(data)),
        )
    }
    [error] = said
    for fault in ("subject is missing", "id must be", "time is missing", "data.code must be", "'acter'"):
        assert fault in error


def test_what_the_registry_refuses_is_refused_with_its_reason_and_what_it_does_not_know_is_not() -> None:
    def refuses(found: Event) -> EventError | None:
        return RoleNotAllowed("not you") if found.subject == "A-2" else None

    events = [event("case", "CASE_CREATED", "A-1"), event("case", "CASE_CREATED", "A-2")]
    with pytest.raises(NoEvents, match="1 of 2 events is refused; nothing was published") as caught:
        read_events(BATCHED, msgspec.json.encode(events), refuses)
    [fault] = caught.value.faults
    assert (fault.position, fault.reason, fault.error, fault.id) == (2, "role_not_allowed", "not you", events[1]["id"])
    assert len(read_events(BATCHED, msgspec.json.encode(events[:1]), refuses)) == 1


def test_one_malformed_event_of_a_batch_refuses_all_and_each_is_named_by_its_position() -> None:
    good, bad = event("case", "CASE_CREATED", "A-1"), event("case", "CASE_CREATED", "A-2")
    del bad["time"]
    error = refused(BATCHED, msgspec.json.encode([good, bad, good, {}]))
    assert error.status == 400
    assert [fault.position for fault in error.faults] == [2, 4]
    assert (error.faults[0].id, error.faults[0].source) == (bad["id"], bad["source"])
    assert "time" in error.faults[0].error
    assert "2 of 4" in str(error)
