"""The HTTP binding of CloudEvents 1.0: from a request's headers and body to events as the Publisher takes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from email.message import Message as Header
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from caselog.events.errors import CaselogError, EventError, MalformedEvent, OversizedMessage
from caselog.events.model.envelope import is_json_type, names_in
from caselog.events.model.message import BATCH_TYPE, EVENT_BYTES_MAX, EVENT_TYPE, Event, elements
from caselog.events.transport.encoding import check_event

JSON_TYPE: Final = "application/json"
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
BATCH_EVENTS_MAX: Final = 1000
FAULTS_SHOWN_MAX: Final = 100
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]+")
_HEADER: Final = "ce-"
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_NO_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UTF8: Final = ("", "utf-8", "utf8", "us-ascii")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with an event of a request. `position` counts from 1; `id` and `source` where they can be read.

    `reason` is the one that its dead letter would have.
    """

    position: int
    reason: str
    error: str
    source: str | None = None
    id: str | None = None


class NoEvents(CaselogError):
    """A request that cannot be published, with the HTTP status that says so; `faults` name its events."""

    def __init__(self, status: HTTPStatus, detail: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.faults = faults


Refuses = Callable[[Event], EventError | None]
"""Why an event would be a dead letter for what it says itself, as far as is known here."""


def read_events(headers: Iterable[tuple[str, str]], body: bytes, refuses: Refuses = lambda _: None) -> list[bytes]:
    """The request's events in JSON, in their order; each is as the sender wrote it, or put together in binary mode.

    An empty batch has none. Raises `NoEvents`: all or none are taken.
    """
    named = [(name.lower(), value) for name, value in headers]
    kind, charset = _content_type([value for name, value in named if name == "content-type"])
    attributes = [(name[len(_HEADER) :], value) for name, value in named if name.startswith(_HEADER)]
    if charset not in _UTF8:
        raise NoEvents(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"charset {charset!r} is not understood: send UTF-8")
    if kind == BATCH_TYPE:
        return _checked(_batch(body), refuses)
    if kind == EVENT_TYPE:
        return _checked([body], refuses)
    if (is_json_type(kind) or not kind) and any(name == "specversion" for name, _ in attributes):
        return _checked([_put_together(attributes, kind, body)], refuses)
    raise NoEvents(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"send an event as {EVENT_TYPE}, several as {BATCH_TYPE}, or the data as {JSON_TYPE} with the attributes in "
        f"headers such as ce-specversion: 1.0",
    )


def _content_type(values: Sequence[str]) -> tuple[str, str]:
    """The media type and the charset, in small letters; each empty where the header does not say."""
    if not values:
        return "", ""
    if len(values) > 1:
        raise NoEvents(HTTPStatus.BAD_REQUEST, "the header 'content-type' is there twice")
    header = Header()
    header["content-type"] = values[0]
    return header.get_content_type() if values[0].strip() else "", header.get_content_charset("")


def _batch(body: bytes) -> list[bytes]:
    if body.lstrip()[:1] != b"[":
        raise NoEvents(HTTPStatus.BAD_REQUEST, f"the body is no JSON array of events; one event is {EVENT_TYPE}")
    try:
        return elements(body, BATCH_EVENTS_MAX)
    except OversizedMessage as error:
        raise NoEvents(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from None
    except MalformedEvent as error:
        fault = Fault(position=1, reason=error.reason, error=str(error))
        raise NoEvents(HTTPStatus.BAD_REQUEST, "the batch is malformed; nothing was published", (fault,)) from None


def _checked(raws: list[bytes], refuses: Refuses) -> list[bytes]:
    """The same, where each is an event that may be published."""
    refused = {at: error for at, raw in enumerate(raws) if (error := _refusal(raw, refuses)) is not None}
    if not refused:
        return raws
    what = "malformed" if all(isinstance(error, MalformedEvent) for error in refused.values()) else "refused"
    which = (
        f"{len(refused):,} of {len(raws):,} events {'is' if len(refused) == 1 else 'are'}"
        if len(raws) > 1
        else "the event is"
    )
    faults = []
    for at, error in refused.items():
        source, id_, *_ = names_in(raws[at])
        faults.append(Fault(position=at + 1, reason=error.reason, error=str(error), source=source, id=id_))
    too_large = all(len(raws[at]) > EVENT_BYTES_MAX for at in refused)
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
    raise NoEvents(status, f"{which} {what}; nothing was published", tuple(faults))


def _refusal(raw: bytes, refuses: Refuses) -> EventError | None:
    try:
        return refuses(check_event(raw))
    except MalformedEvent as error:
        return error


def _put_together(attributes: list[tuple[str, str]], kind: str, body: bytes) -> bytes:
    """The event of a request in binary mode: its attributes are headers, its data is the body."""
    if len(body) > EVENT_BYTES_MAX:
        detail = f"the body has {len(body):,} bytes, and an event at most {EVENT_BYTES_MAX:,}"
        raise NoEvents(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    members: dict[str, Any] = {}
    faults = []
    for name, value in attributes:
        header = f"the header {_HEADER + name!r}"
        if not _ATTRIBUTE.fullmatch(name) or name in ("data", "datacontenttype"):
            faults.append(f"{header} is no CloudEvents attribute")
            continue
        if name in members:
            faults.append(f"{header} is there twice")
        try:
            members[name] = _decoded(value)
        except ValueError as error:
            faults.append(f"{header} {error}")
            members[name] = "?"  # it is there, so that it is not called missing as well
    if kind:
        members["datacontenttype"] = kind
    if body.strip():
        try:
            msgspec.json.decode(body)  # what is put into the event as it stands must be one JSON value
            members["data"] = msgspec.Raw(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            faults.append(f"the body is no JSON: {error}")
    raw = msgspec.json.encode(members)
    if faults:
        raise _unreadable(raw, faults)
    return raw


def _unreadable(raw: bytes, faults: list[str]) -> NoEvents:
    """Headers or a body that cannot be read, with what is wrong with the rest of the event."""
    try:
        check_event(raw)
    except MalformedEvent as error:
        more = [str(error)]
    else:
        more = []
    said = "; ".join(faults)
    source, id_, *_ = names_in(raw)
    fault = Fault(position=1, reason=MalformedEvent.reason, error=". ".join([said, *more]), source=source, id=id_)
    return NoEvents(HTTPStatus.BAD_REQUEST, f"{said}; nothing was published", (fault,))


def _decoded(value: str) -> str:
    """A header's value as the binding says (3.1.3.2): unquoted, then percent-decoded, then UTF-8.

    Raises `ValueError` that says what is wrong with it.
    """
    try:
        written = value.encode("latin-1").strip(b" \t")
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8, percent-encoded") from None
    if written.startswith(b'"'):
        quoted = _QUOTED.fullmatch(written)
        if quoted is None:
            raise ValueError("begins with a double quote, and is no quoted string: percent-encode a quote as %22")
        written = _ESCAPED.sub(rb"\1", quoted[1])
    if _NO_PERCENT.search(written):
        raise ValueError("has a percent sign without two hexadecimal digits behind it: percent-encode the sign as %25")
    try:
        return unquote_to_bytes(written).decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8, percent-encoded") from None
