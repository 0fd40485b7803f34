"""What a producer hands over: what is refused at the call, in which words, and what the wire gets.

Publisher and outbox alike hand over by `encode`, and `caselog publish`, the relay and HTTP check by the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as FirstCloudEvent
from cloudevents.v1.pydantic import CloudEvent as PydanticCloudEvent

from caselog.events import BaseEvent, MalformedEvent, autodiscover, event_registry
from caselog.events.model.message import parse_event
from caselog.events.model.registry import BUNDLED_APPS, EventRegistry
from caselog.events.transport.encoding import CASE_KEYS, encode

AT = "2026-11-22T10:15:00Z"
DATA = {"code": "SPOP", "actor": {"id": "anna", "role": "specialist", "provider": "p7"}, "context": {"n": 1.5}}
SDKS = [CloudEvent, FirstCloudEvent, PydanticCloudEvent]


def event(**changes: Any) -> dict[str, Any]:
    return {"type": "accept_case", "subject": "C-1", "id": "e-1", "time": AT, "data": DATA, **changes}


def refused(given: Any, source: str | None = "/test") -> str:
    with pytest.raises(MalformedEvent) as error:
        encode(given, source)
    return str(error.value)


@pytest.fixture
def no_apps() -> Iterator[EventRegistry]:
    """As in a producer's process, which registers nothing."""
    before = event_registry.snapshot()
    event_registry.restore({})
    yield event_registry
    event_registry.restore(before)


@pytest.mark.usefixtures("no_apps")
class TestWithoutARegistry:
    @pytest.mark.parametrize("key", sorted(CASE_KEYS))
    def test_an_event_of_a_bundled_key_needs_its_case(self, key: str) -> None:
        given = event(type=key)
        del given["subject"]
        assert f"subject is missing: an event {key!r} is about a case, send its reference" in refused(given)
        assert "subject is missing" in refused({**given, "subject": None})

    @pytest.mark.parametrize("key", ["timer", "claim"])
    def test_a_timer_needs_none_and_what_another_key_needs_is_the_recorders_business(self, key: str) -> None:
        given = event(type=key)
        del given["subject"]
        assert parse_event(encode(given, "/test")[0]).subject is None

    def test_an_app_that_is_registered_here_says_what_its_keys_need(self, no_apps: EventRegistry) -> None:
        no_apps.register(type("Claim", (BaseEvent,), {"key": "claim"}))
        no_apps.register(type("Complaint", (BaseEvent,), {"key": "complaint", "needs_case": False}))
        assert "subject" in refused({"type": "claim"})
        encode({"type": "complaint"}, "/test")


def test_the_keys_that_need_a_case_are_those_of_the_bundled_apps() -> None:
    autodiscover(BUNDLED_APPS)
    bundled = {
        key: cls for key, cls in event_registry.all().items() if cls.__module__.startswith("caselog.events.apps.")
    }
    assert {key for key, cls in bundled.items() if cls.needs_case} == CASE_KEYS


@pytest.mark.parametrize("form", ["mapping", "bytes", "text"])
def test_all_that_is_wrong_is_told_at_once_whatever_form_the_event_has(form: str) -> None:
    given = {
        "specversion": "1.0",
        "id": 5,
        "type": "accept_case",
        "time": "yesterday",
        "data": {"acter": {"id": "a"}, "notes": 1},
    }
    text = json.dumps(given)
    said = refused({"mapping": given, "bytes": text.encode(), "text": text}[form], source=None)
    for fault in (
        "id must be a text", "source is missing", "time must be", "data.notes must be a text", "subject is missing",
        "data has the unknown member 'acter': did you mean 'actor'?",
    ):  # fmt: skip
        assert said.count(fault) == 1


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"code": "SPOP", "acter": {"id": "a"}}, "data has the unknown member 'acter': did you mean 'actor'?"),
        ({"Code": "SPOP"}, "data has the unknown member 'Code': did you mean 'code'?"),
        ({"actor": {"id": "a", "rol": "web"}}, "data.actor has the unknown member 'rol': did you mean 'role'?"),
        ({"actor": None, "actors": []}, "data has the unknown member 'actors': did you mean 'actor'?"),
    ],
)
def test_a_misspelt_member_is_refused_where_the_right_one_is_not_there(data: dict[str, Any], named: str) -> None:
    """It would be kept and looked at by nobody, and the event mean something else."""
    assert named in refused(event(data=data))
    assert named in refused(json.dumps({**event(data=data), "specversion": "1.0", "source": "/s"}))


@pytest.mark.parametrize(
    "data",
    [
        {"colour": "red", "actor": {"id": "a", "shoe": 44}},
        {"notes": "x", "note": "y"},
        {"actor": {"id": "a", "role": "web", "roles": []}},
        {"context": {"acter": 1, "note": 2}},
    ],
)
def test_members_of_the_senders_own_are_kept(data: dict[str, Any]) -> None:
    raw, _ = encode(event(data=data, tenant="north", subjects=3), "/test")
    assert json.loads(raw)["data"] == data
    assert parse_event(raw).extensions == {
        "tenant": "north", "subjects": 3, **{f"data.{name}": data[name] for name in ("colour", "note") if name in data}
    }  # fmt: skip


@pytest.mark.parametrize("sdk", SDKS)
class TestEventsOfTheSdk:
    def test_an_event_of_the_sdk_is_what_the_same_mapping_is(self, sdk: Any) -> None:
        attributes = {"type": "accept_case", "source": "/sdk", "subject": "C-1", "id": "e-1", "time": AT, "tenant": "n"}
        if sdk is CloudEvent:
            attributes["time"] = datetime.fromisoformat(AT)  # type: ignore[assignment]
        raw, key = encode(sdk(dict(attributes), DATA), "/test")
        given = parse_event(raw)
        assert key == "accept_case"
        assert given == parse_event(encode({**attributes, "data": DATA}, None)[0])
        assert (given.source, given.id, given.extensions) == ("/sdk", "e-1", {"tenant": "n"})

    def test_what_it_fills_in_is_valid(self, sdk: Any) -> None:
        before = datetime.now(UTC)
        given = parse_event(encode(sdk({"type": "timer", "source": "/sdk"}, None), None)[0])
        assert before <= given.time <= datetime.now(UTC)
        assert given.data.code is None

    @pytest.mark.parametrize("kind", [{}, {"datacontenttype": "application/json"}])
    def test_its_data_may_be_json_as_text_or_bytes(self, sdk: Any, kind: dict[str, str]) -> None:
        text = '{"code": "X", "context": {"n": 1.10, "big": 12345678901234567890123}}'
        for data in (text, text.encode()):
            raw, _ = encode(sdk({"type": "case", "source": "/sdk", "subject": "C-1", **kind}, data), None)
            assert text.encode() in raw
            assert parse_event(raw).data.code == "X"

    @pytest.mark.parametrize(
        ("kind", "data", "named"),
        [
            ({}, b"\xff", "data"),
            ({}, "hello", "data"),
            ({}, b'{}, "id": "2"', "data"),
            ({}, "[]", "data must be an object, not an array"),
            ({"datacontenttype": "application/xml"}, "<a/>", "application/xml"),
            ({}, {"code": 5}, "data.code must be a text of 1 to 100 characters or null, not a number"),
            ({}, {"acter": {}}, "acter"),
        ],
    )
    def test_what_is_no_event_of_ours_is_refused_in_words(
        self, sdk: Any, kind: dict[str, str], data: Any, named: str
    ) -> None:
        assert named in refused(sdk({"type": "case", "source": "/sdk", "subject": "C-1", **kind}, data))

    def test_without_its_case_it_is_refused_as_any_other(self, sdk: Any) -> None:
        assert "subject is missing" in refused(sdk({"type": "case", "source": "/sdk"}, {}))


@pytest.mark.parametrize("given", [5, None, [event()], object(), ("type", "case"), {"type"}])
def test_what_is_no_event_at_all_is_refused_with_what_is_taken(given: object) -> None:
    said = refused(given)
    assert type(given).__name__ in said
    assert all(kind in said for kind in ("mapping", "cloudevents", "JSON"))


def test_a_producer_needs_no_sdk() -> None:
    check = "import sys, caselog.events.transport.encoding; sys.exit('cloudevents' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
