"""The HTTP binding of CloudEvents 1.0: from a request's headers and body to events as the Publisher takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from events.errors import CaselogError, MalformedEvent, OversizedMessage
from events.message import BATCH_TYPE, EVENT_BYTES_MAX, EVENT_TYPE, Malformed, decode, parse_event

JSON_TYPE: Final = "application/json"
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
BATCH_EVENTS_MAX: Final = 1000
FAULTS_SHOWN_MAX: Final = 100
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]+")
_HEADER: Final = "ce-"
_UTF8: Final = ("", "utf-8", "utf8", "us-ascii")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with an event of a request. `position` counts from 1; `id` and `source` where they can be read."""

    position: int
    error: str
    source: str | None = None
    id: str | None = None


class NoEvents(CaselogError):
    """A request that cannot be published, with the HTTP status that says so; `faults` name its events."""

    def __init__(self, status: HTTPStatus, detail: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.faults = faults


def read_events(headers: Iterable[tuple[str, str]], body: bytes) -> list[bytes]:
    """The request's events in JSON, in their order; each is as the sender wrote it, or put together in binary mode.

    Raises `NoEvents`: all or none are taken.
    """
    named = [(name.lower(), value) for name, value in headers]
    kind, charset = _content_type(dict(named).get("content-type", ""))
    attributes = [(name[len(_HEADER) :], value) for name, value in named if name.startswith(_HEADER)]
    if charset not in _UTF8:
        raise NoEvents(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"charset {charset!r} is not understood: send UTF-8")
    if kind == BATCH_TYPE:
        return _batch(body)
    if kind == EVENT_TYPE:
        return [_checked(body)]
    if kind in (JSON_TYPE, "") and any(name == "specversion" for name, _ in attributes):
        return [_checked(_put_together(attributes, kind, body))]
    raise NoEvents(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"send an event as {EVENT_TYPE}, several as {BATCH_TYPE}, or the data as {JSON_TYPE} with the attributes in "
        f"headers such as ce-specversion: 1.0",
    )


def _content_type(text: str) -> tuple[str, str]:
    kind, *parameters = (part.strip() for part in text.lower().split(";"))
    charset = next((value for part in parameters if (value := part.removeprefix("charset=")) != part), "")
    return kind, charset.strip('"')


def _batch(body: bytes) -> list[bytes]:
    if body.lstrip()[:1] != b"[":
        raise NoEvents(HTTPStatus.BAD_REQUEST, f"the body is no JSON array of events; one event is {EVENT_TYPE}")
    message = decode(body, BATCH_EVENTS_MAX)
    if isinstance(message.events[0], Malformed) and isinstance(message.events[0].error, OversizedMessage):
        raise NoEvents(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(message.events[0].error))
    faults = [
        Fault(position=position, error=str(event.error), source=event.source, id=event.event_id)
        for position, event in enumerate(message.events, 1)
        if isinstance(event, Malformed)
    ]
    if faults:
        detail = f"{len(faults):,} of {len(message.events):,} events are malformed; nothing was published"
        raise NoEvents(_status(message.raw(fault.position - 1) for fault in faults), detail, tuple(faults))
    return [message.raw(position) for position in range(len(message.events))]


def _checked(raw: bytes) -> bytes:
    try:
        parse_event(raw)
    except MalformedEvent as error:
        event = decode(raw, 1).events[0]
        named = (event.source, event.event_id) if isinstance(event, Malformed) else (None, None)
        fault = Fault(position=1, error=str(error), source=named[0], id=named[1])
        raise NoEvents(_status([raw]), "the event is malformed; nothing was published", (fault,)) from None
    return raw


def _status(raws: Iterable[bytes]) -> HTTPStatus:
    """413 where nothing but size is wrong with each of these."""
    too_large = all(len(raw) > EVENT_BYTES_MAX for raw in raws)
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST


def _put_together(attributes: list[tuple[str, str]], kind: str, body: bytes) -> bytes:
    """The event of a request in binary mode: its attributes are headers, its data is the body."""
    members: dict[str, Any] = {}
    for name, value in attributes:
        if not _ATTRIBUTE.fullmatch(name) or name in ("data", "datacontenttype"):
            raise NoEvents(HTTPStatus.BAD_REQUEST, f"the header {_HEADER + name!r} is no CloudEvents attribute")
        if name in members:
            raise NoEvents(HTTPStatus.BAD_REQUEST, f"the header {_HEADER + name!r} is there twice")
        members[name] = _decoded(name, value)
    if kind:
        members["datacontenttype"] = kind
    if len(body) > EVENT_BYTES_MAX:
        detail = f"the body has {len(body):,} bytes, and an event at most {EVENT_BYTES_MAX:,}"
        raise NoEvents(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    if body.strip():
        try:
            msgspec.json.decode(body)  # what is put into the event as it stands must be one JSON value
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NoEvents(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}") from None
        members["data"] = msgspec.Raw(body)
    return msgspec.json.encode(members)


def _decoded(name: str, value: str) -> str:
    """A header's value, as the binding says: bytes of UTF-8, what is not printable ASCII percent-encoded."""
    try:
        return unquote(value.encode("latin-1").decode(), errors="strict")
    except UnicodeError:
        raise NoEvents(HTTPStatus.BAD_REQUEST, f"the header {_HEADER + name!r} is not UTF-8, percent-encoded") from None
