"""From bytes to events: what is accepted, what is malformed, and that each event of a batch stands for itself.

Expectations come from docs/events.md "Publish an event" and the CloudEvents 1.0 specification.
"""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caselog.events.errors import MalformedEvent
from caselog.events.model.codes import Role
from caselog.events.model.message import EVENT_BYTES_MAX, Event, Malformed, Message, decode, elements, parse_event


def attributes(**changes: Any) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "case", "subject": "AB-1", "time": AT}
    return {name: value for name, value in {**event, **changes}.items() if value is not LEFT_OUT}


AT = "2026-11-22T10:15:00.123Z"
LEFT_OUT = object()


def written(**changes: Any) -> bytes:
    return json.dumps(attributes(**changes)).encode()


def packed(content: bytes, **changes: Any) -> bytes:
    """An event whose data is in base64."""
    return written(data_base64=b64encode(content).decode(), **changes)


def in_context(value: bytes) -> bytes:
    """An event with this JSON text as a value of its context."""
    return written(data={"context": {"value": "HERE"}}).replace(b'"HERE"', value)


def nested(levels: int) -> bytes:
    """An event whose deepest array is so many levels deep, the event's own braces being the first."""
    inner = levels - 3  # the event, its data and its context
    return in_context(b"[" * inner + b"]" * inner)


def only(body: bytes) -> Event | Malformed:
    events = decode(body).events
    assert len(events) == 1
    return events[0]


def ids(message: Message) -> list[str | None]:
    """The ids of the events that could be read, and None for each that could not."""
    return [event.id if isinstance(event, Event) else None for event in message.events]


def batch(*parts: bytes) -> bytes:
    return b"[" + b" , ".join(parts) + b"]"


GOOD = written(id="good")

MALFORMED = {
    "no bytes": b"",
    "white space": b" \n",
    "text": b"hello",
    "a number": b"5",
    "null": b"null",
    "a string": b'"event"',
    "binary": bytes(range(256)),
    "an unfinished object": GOOD[:-1],
    "two objects": GOOD + GOOD,
    "a single quote": GOOD.replace(b'"', b"'"),
    "another specversion": written(specversion="0.3"),
    "no specversion": written(specversion=LEFT_OUT),
    "no id": written(id=LEFT_OUT),
    "an empty id": written(id=""),
    "a number as id": written(id=5),
    "an id of 256 characters": written(id="x" * 256),
    "no source": written(source=LEFT_OUT),
    "null as source": written(source=None),
    "no type": written(type=LEFT_OUT),
    "an array as type": written(type=["case"]),
    "a type of 101 characters": written(type="x" * 101),
    "no time": written(time=LEFT_OUT),
    "a time without offset": written(time="2026-11-22T10:15:00"),
    "a date as time": written(time="2026-11-22"),
    "a number as time": written(time=1795342500),
    "words as time": written(time="yesterday"),
    "the year 1": written(time="0001-01-01T00:00:00Z"),
    "the year 9999": written(time="9999-12-31T23:59:59-14:00"),
    "a number as subject": written(subject=7),
    "an empty subject": written(subject=""),
    "an array as data": written(data=[]),
    "a string as data": written(data="x"),
    "base64 of no JSON": written(data_base64="AAAA"),
    "base64 of an array": packed(b"[]"),
    "base64 of no event's data": packed(b'{"code": 5}'),
    "base64 of a NUL": packed(b'{"context": {"x": "\\u0000"}}'),
    "base64 of NaN": packed(b'{"context": {"x": NaN}}'),
    "base64 of 65 levels": packed(b'{"context": {"x": ' + b"[" * 62 + b"]" * 62 + b"}}"),
    "base64 of 100,000 levels": packed(b'{"context": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"),
    "base64 with white space": written(data_base64="e30=\n"),
    "base64 without its padding": written(data_base64="e30"),
    "base64 of the other alphabet": written(data_base64="eyJub3RlcyI6ICLDv8O_In0="),
    "base64 that is no text": written(data_base64=5),
    "base64 of another type": packed(b"{}", datacontenttype="application/xml"),
    "base64 beside data": packed(b"{}", data={}),
    "a number as code": written(data={"code": 5}),
    "a code of 101 characters": written(data={"code": "x" * 101}),
    "an actor without id": written(data={"actor": {"role": "web"}}),
    "a role that is none": written(data={"actor": {"id": "x", "role": "king"}}),
    "notes of 5,001 characters": written(data={"notes": "x" * 5001}),
    "an array as context": written(data={"context": []}),
    "an array as params": written(data={"params": []}),
    "a string as patch": written(data={"patch": "x"}),
    "NaN": in_context(b"NaN"),
    "Infinity": in_context(b"-Infinity"),
    "a number beyond all floats": in_context(b"1e400"),
    "a number of 5,000 digits": in_context(b"1" * 5000),
    "bytes that are no UTF-8": in_context(b'"\xff"'),
    "UTF-8 of a surrogate": in_context(b'"\xed\xa0\x80"'),
    "a lone surrogate": in_context(b'"\\ud800"'),
    "the second half of a surrogate pair": in_context(b'"\\udc00 x"'),
    "a NUL in the id": written(id="a\x00b"),
    "a NUL in the context": in_context(b'"\\u0000"'),
    "a NUL in a name": written(data={"context": {"\x00": 1}}),
    "a NUL in an extension": written(comment=["\x00"]),
    "a raw NUL": in_context(b'"\x00"'),
    "65 levels": nested(65),
    "500 levels": nested(500),
    "100,000 levels": nested(100_000),
    "levels in an extension": written(comment="HERE").replace(b'"HERE"', b"[" * 64 + b"]" * 64),
    "256 KiB and a byte": written(data={"context": {"x": "HERE"}}).replace(
        b"HERE", b"x" * (EVENT_BYTES_MAX + 1 - len(written(data={"context": {"x": ""}})))
    ),
}
# These cannot stand as one element of an array: they are no JSON value of their own, or several.
NOT_IN_A_BATCH = {"no bytes", "white space", "binary", "an unfinished object", "two objects", "a single quote"}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_breaks_the_contract_is_malformed_with_a_remedy(name: str) -> None:
    event = only(MALFORMED[name])
    assert isinstance(event, Malformed)
    assert event.error.reason == "malformed"
    assert any(word in str(event.error) for word in ("Send", "send", "remove", "keep")), str(event.error)


@pytest.mark.parametrize("name", sorted(MALFORMED.keys() - NOT_IN_A_BATCH))
def test_one_bad_event_costs_only_itself(name: str) -> None:
    """The events around it are read, wherever in the batch it stands."""
    bad = MALFORMED[name]
    assert ids(decode(batch(GOOD, bad, written(id="after")))) == ["good", None, "after"]
    assert ids(decode(batch(bad, GOOD))) == [None, "good"]
    assert ids(decode(batch(GOOD, bad))) == ["good", None]


@pytest.mark.parametrize("name", sorted(MALFORMED.keys() - NOT_IN_A_BATCH))
def test_the_raw_bytes_of_each_event_of_a_batch_are_the_senders_own(name: str) -> None:
    message = decode(batch(GOOD, MALFORMED[name]))
    assert (message.raw(0), message.raw(1)) == (GOOD, MALFORMED[name])


@pytest.mark.parametrize("name", MALFORMED)
def test_the_raw_bytes_of_a_malformed_message_are_the_whole_of_it(name: str) -> None:
    assert decode(MALFORMED[name]).raw(0) == MALFORMED[name]


@pytest.mark.parametrize("levels", [65, 70, 500])
def test_an_event_nested_too_deeply_is_malformed_among_any_number_of_others(levels: int) -> None:
    """Whether an event is accepted does not depend on what travels with it."""
    others = [written(id=str(number)) for number in range(100)]
    assert ids(decode(batch(*others, nested(levels))))[-1] is None
    assert ids(decode(batch(*others, nested(64)))) == [*(str(number) for number in range(100)), "1"]


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"[\n]", b"[" + b" " * (EVENT_BYTES_MAX + 1) + b"]"])
def test_an_empty_batch_is_one_malformed_message_though_it_holds_no_event(body: bytes) -> None:
    event = only(body)
    assert isinstance(event, Malformed)
    assert "batch is empty" in str(event.error)
    assert elements(body) == []


@pytest.mark.parametrize(
    "body",
    [
        b"[", b"[[]", b"]", b"[}", b"[ }", b"[\x0b]", b"[]]", b"[] x", b"[],", GOOD + b",", batch(GOOD) + b"]",
        batch(GOOD) + b"x", batch(GOOD)[:-1],
    ],
)  # fmt: skip
def test_a_batch_that_does_not_close_is_one_malformed_message(body: bytes) -> None:
    event = only(body)
    assert isinstance(event, Malformed)
    assert "empty" not in str(event.error)


def test_a_gap_in_a_batch_is_a_malformed_event() -> None:
    assert ids(decode(b"[" + GOOD + b",," + written(id="2") + b",]")) == ["good", None, "2", None]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [b'\\"', b'"', b"\\", b'["', b"{}", b'\\\\"', b'"a'])
def test_no_message_takes_long_to_be_found_malformed(piece: bytes) -> None:
    """Half a megabyte of quotes or brackets: work that grows with the square of it would take hours."""
    body = b'["' + piece * (500_000 // len(piece))
    assert all(isinstance(event, Malformed) for event in decode(body).events)


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\ 0ntu1', max_size=60).map(str.encode))
def test_whatever_the_bytes_are_decoding_gives_an_entry_and_no_error(body: bytes) -> None:
    message = decode(body)
    assert message.events
    assert all(message.raw(position) in body for position in range(len(message.events)))


@given(st.lists(st.sampled_from([GOOD, written(id="2"), b"5", b'{"a":"]"}', b'"\\"],"', b"[[]]", b"nul"]), min_size=1))
def test_a_batch_has_as_many_entries_as_elements_and_keeps_their_order(parts: list[bytes]) -> None:
    message = decode(batch(*parts))
    expected = {GOOD: "good", written(id="2"): "2"}
    assert ids(message) == [expected.get(part) for part in parts]


class TestIdentity:
    """A malformed event is named as well as it can be, so that a person can find its sender."""

    def test_what_can_be_read_of_a_malformed_event_is_kept(self) -> None:
        event = only(written(time=None))
        assert isinstance(event, Malformed)
        assert (event.source, event.event_id, event.key, event.subject) == ("/s", "1", "case", "AB-1")

    def test_what_cannot_be_read_is_none(self) -> None:
        event = only(written(id=5, source=["x"], type=None, subject=LEFT_OUT))
        assert isinstance(event, Malformed)
        assert (event.source, event.event_id, event.key, event.subject) == (None, None, None, None)

    def test_it_is_short_and_without_nul(self) -> None:
        event = only(written(id="a\x00b", source="x" * 1000))
        assert isinstance(event, Malformed)
        assert event.event_id == "a\N{REPLACEMENT CHARACTER}b"
        assert event.source == "x" * 255

    def test_notes_are_not_in_the_message(self) -> None:
        event = only(written(time=None, data={"notes": "a secret" * 1000}))
        assert isinstance(event, Malformed)
        assert "secret" not in str(event.error)


class TestFaults:
    """Who mends an event is told all that is wrong with it, with a remedy, and nothing of what it says."""

    def test_all_faults_are_named_at_once(self) -> None:
        body = written(
            specversion="0.3",
            id=5,
            type=LEFT_OUT,
            time="2026-11-22 25:00",
            data={
                "code": [],
                "actor": {"role": "king", "provider": ""},
                "notes": "n" * 5001,
                "context": "her secret",
                "patch": 1,
            },
        )
        with pytest.raises(MalformedEvent) as refused:
            parse_event(body)
        said = str(refused.value)
        for fault in (
            "specversion must be '1.0'", "; id must be a text of 1 to 255 characters, not a number", "type is missing",
            "; time must be an RFC 3339 time", "data.code must be a text of 1 to 100 characters or null, not an array",
            "data.actor.id is missing", "data.actor.role must be one of operator, ",
            "data.actor.provider must be a text of 1 to 100 characters or null, not an empty one",
            "data.notes must be a text of at most 5,000 characters or null, not one of 5,001",
            "data.context must be an object or null, not a text",
            "data.patch must be an object or an array or null, not a number",
        ):  # fmt: skip
            assert said.count(fault) == 1, fault
        assert "subject" not in said
        assert "source" not in said
        assert not any(word in said for word in ("king", "secret", "25:00", "nnn"))
        for event in (only(body), decode(batch(GOOD, body)).events[1]):
            assert isinstance(event, Malformed)
            assert str(event.error) == said

    @pytest.mark.parametrize(
        ("body", "what"),
        [(b"7", "a number"), (b'"her secret"', "a text"), (b"null", "null"), (b"true", "true or false")],
    )
    def test_what_is_no_object_is_called_by_its_kind(self, body: bytes, what: str) -> None:
        with pytest.raises(MalformedEvent, match=f"^an event must be a JSON object, not {what}\\. Send"):
            parse_event(body)

    def test_faults_of_values_are_named_beside_those_of_members(self) -> None:
        body = written(id=5, time="9999-01-01T00:00:00Z", data={"context": {"x": "\0"}})
        with pytest.raises(MalformedEvent) as refused:
            parse_event(body)
        said = str(refused.value)
        assert all(fault in said for fault in ("id must be a text", "time must be", "NUL character"))

    @pytest.mark.parametrize(
        "text",
        [
            "2026-11-22T10:15:00", "2026-11-22", "2026-12-31T23:59:60Z", "1899-12-31T23:59:59Z", "9999-01-01T00:00:00Z",
            "yesterday", "", 1795342500, None,
        ],
    )  # fmt: skip
    def test_a_time_that_is_not_taken_is_told_what_is(self, text: object) -> None:
        with pytest.raises(MalformedEvent) as refused:
            parse_event(written(time=text))
        said = str(refused.value)
        assert all(word in said for word in ("RFC 3339", "1900 to 9998", "no leap second", "an offset, Z or as +01:00"))
        assert "yesterday" not in said

    @pytest.mark.parametrize(("role", "near"), [("oprator", "operator"), ("Specialist", "specialist"), ("king", None)])
    def test_a_role_that_is_none_is_told_those_that_there_are(self, role: str, near: str | None) -> None:
        with pytest.raises(MalformedEvent) as refused:
            parse_event(written(data={"actor": {"id": "a", "role": role}}))
        said = str(refused.value)
        assert "operator, operator_manager, specialist, system, web" in said
        assert (f"Did you mean {near!r}?" in said) == (near is not None)

    def test_a_misspelt_member_is_named_beside_what_is_wrong(self) -> None:
        body = written(
            type=LEFT_OUT,
            typ="case",
            colour="red",
            data={"note": 1, "Code": "X", "colour": "red", "actor": {"id": "a", "rol": "web", "shoe": 44, "role": 5}},
        )
        with pytest.raises(MalformedEvent) as refused:
            parse_event(body)
        said = str(refused.value)
        assert "the event has the unknown member 'typ': did you mean 'type'?" in said
        assert "data has the unknown member 'note': did you mean 'notes'?" in said
        assert "data has the unknown member 'Code': did you mean 'code'?" in said
        assert "data.actor" in said
        assert "'rol'" not in said  # the right one is there
        assert not any(word in said for word in ("colour", "shoe"))

    @pytest.mark.timeout(60)
    def test_a_hundred_thousand_wrong_members_are_soon_told(self) -> None:
        members = ",".join(f'"note{number:05}":1' for number in range(18_000))
        body = written(id=5, data="HERE").replace(b'"HERE"', b"{" + members.encode() + b"}")
        assert len(body) < EVENT_BYTES_MAX
        event = only(body)
        assert isinstance(event, Malformed)
        assert len(str(event.error)) < 2000


class TestAccepted:
    @pytest.mark.parametrize(
        "kind", [{}, {"datacontenttype": "application/json"}, {"datacontenttype": "a/b+JSON; x=y"}]
    )
    def test_json_in_base64_is_the_data(self, kind: dict[str, str]) -> None:
        data = b'{"code": "X", "notes": "\xc3\xbf\xc3\xbf", "colour": "red"}'
        event = parse_event(packed(data, tenant="north", **kind))
        assert (event.data.code, event.data.notes) == ("X", "\xff\xff")
        assert event.extensions == {"tenant": "north", "data.colour": "red"}
        assert ids(decode(batch(GOOD, packed(data, id="2")))) == ["good", "2"]

    def test_the_example_of_the_contract_is_read_as_it_is_written(self) -> None:
        event = only(
            b"""{"specversion": "1.0", "id": "0192f6a0", "source": "/call-centre", "type": "accept_case",
             "subject": "AB-1234-5678", "time": "2026-11-22T10:15:00.123Z",
             "data": {"code": "SPOP",
                      "actor": {"id": "prov-7-anna", "role": "specialist", "provider": "prov-7"},
                      "notes": "...", "context": {}, "params": {}, "patch": null}}"""
        )
        assert isinstance(event, Event)
        assert (event.id, event.source, event.type, event.subject) == (
            "0192f6a0", "/call-centre", "accept_case", "AB-1234-5678",
        )  # fmt: skip
        assert event.time == datetime(2026, 11, 22, 10, 15, 0, 123_000, tzinfo=UTC)
        assert event.order_key == (event.time, "/call-centre", "0192f6a0")
        assert event.data.code == "SPOP"
        assert event.data.actor is not None
        assert (event.data.actor.id, event.data.actor.role, event.data.actor.provider) == (
            "prov-7-anna", Role.SPECIALIST, "prov-7",
        )  # fmt: skip
        assert (event.data.notes, event.data.context, event.data.params, event.data.patch) == ("...", {}, {}, None)

    def test_subject_and_data_may_be_left_out(self) -> None:
        event = parse_event(written(subject=LEFT_OUT))
        assert event.subject is None
        assert (event.data.code, event.data.actor, event.data.context) == (None, None, None)

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-11-22T10:15:00Z", datetime(2026, 11, 22, 10, 15, tzinfo=UTC)),
            ("2026-11-22T11:15:00+01:00", datetime(2026, 11, 22, 10, 15, tzinfo=UTC)),
            ("2026-11-22t10:15:00.5z", datetime(2026, 11, 22, 10, 15, 0, 500_000, tzinfo=UTC)),
            ("1900-01-01T00:00:00Z", datetime(1900, 1, 1, tzinfo=UTC)),
            ("9998-12-31T23:59:59Z", datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ],
    )
    def test_a_time_has_any_offset(self, text: str, moment: datetime) -> None:
        read = parse_event(written(time=text)).time
        assert read == moment
        assert read.utcoffset() is not None

    def test_unknown_attributes_are_kept(self) -> None:
        """Extension attributes of CloudEvents, members of `data` that have no field, and the trace."""
        event = parse_event(
            written(
                traceparent="00-ab-cd-01",
                tracestate="v=1",
                tenant="north",
                level=3,
                data={"code": "X", "colour": "red"},
            )
        )
        assert (event.traceparent, event.tracestate) == ("00-ab-cd-01", "v=1")
        assert event.extensions == {"tenant": "north", "level": 3, "data.colour": "red"}
        assert event.data.code == "X"

    def test_unknown_attributes_are_kept_in_a_batch_too(self) -> None:
        message = decode(batch(GOOD, written(id="2", tenant="north")))
        assert ids(message) == ["good", "2"]
        second = message.events[1]
        assert isinstance(second, Event)
        assert second.extensions == {"tenant": "north"}

    def test_an_event_with_a_fault_is_malformed_whatever_else_it_carries(self) -> None:
        with pytest.raises(MalformedEvent, match=r"^id must be"):
            parse_event(written(id=5, tenant="north"))

    def test_the_limits_themselves_are_allowed(self) -> None:
        empty = len(written(data={"context": {"x": ""}}))
        largest = written(data={"context": {"x": "x" * (EVENT_BYTES_MAX - empty)}})
        assert len(largest) == EVENT_BYTES_MAX
        for body in (
            largest,
            nested(64),
            written(id="\N{GRINNING FACE}" * 255),
            written(data={"notes": "\u00e9" * 5000}),
            in_context(b"1e308"),
            in_context(b"1" * 4000),
        ):
            assert isinstance(only(body), Event)
            assert ids(decode(batch(body, GOOD)))[1] == "good"
            assert None not in ids(decode(batch(body, GOOD)))

    def test_a_backslash_before_u0000_makes_it_harmless(self) -> None:
        """Six characters of text, not a NUL."""
        event = parse_event(written(data={"notes": "\\u0000"}))
        assert event.data.notes == "\\u0000"

    def test_a_batch_may_be_larger_than_one_event(self) -> None:
        parts = [written(id=str(number), data={"notes": "x" * 4000}) for number in range(100)]
        assert len(batch(*parts)) > EVENT_BYTES_MAX
        assert ids(decode(batch(*parts))) == [str(number) for number in range(100)]

    def test_a_batch_of_one_has_the_bytes_of_its_event(self) -> None:
        assert decode(b" [ " + GOOD + b" ] ").raw(0) == GOOD

    def test_events_are_ordered_by_time_then_source_then_id(self) -> None:
        later = (datetime(2026, 11, 22, 10, 15, 0, 123_000, tzinfo=UTC) + timedelta(seconds=1)).isoformat()
        first, second, third, last = (
            parse_event(written(**changes))
            for changes in (
                {"source": "/a", "id": "9"},
                {"source": "/b", "id": "10"},
                {"source": "/b", "id": "9"},
                {"time": later},
            )
        )
        assert first.order_key < second.order_key < third.order_key < last.order_key
