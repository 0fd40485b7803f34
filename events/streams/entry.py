"""A message as an entry of a Redis stream: the body in the field `event`, what else it has in `envelope`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from kombu.message import Message

from caselog.events.model.message import BATCH_TYPE, EVENT_TYPE
from caselog.events.streams.queue import Entry

BODY_FIELD: Final = "event"
ENVELOPE_FIELD: Final = "envelope"
_KEPT_PROPERTIES: Final = ("reply_to", "correlation_id", "message_id", "type", "app_id", "expiration")


class Envelope(msgspec.Struct, omit_defaults=True):
    """What a message has besides its body, where that is more than the content type of a CloudEvent."""

    content_type: str | None = None
    content_encoding: str = "utf-8"
    headers: dict[str, Any] = {}  # msgspec copies it
    properties: dict[str, Any] = {}


_envelopes: Final = msgspec.json.Decoder(Envelope)


def to_fields(message: Mapping[str, Any]) -> dict[str, bytes]:
    body = message["body"].encode() if isinstance(message["body"], str) else bytes(message["body"])
    properties = message.get("properties") or {}
    content_type, encoding = message.get("content-type"), message.get("content-encoding")
    envelope = Envelope(
        content_type=None if content_type == _content_type(body) else content_type,
        content_encoding="utf-8" if encoding in (None, "binary") else encoding,
        headers=message.get("headers") or {},
        properties={name: properties[name] for name in _KEPT_PROPERTIES if properties.get(name) is not None},
    )
    plain = envelope == Envelope()
    return {BODY_FIELD: body} if plain else {BODY_FIELD: body, ENVELOPE_FIELD: msgspec.json.encode(envelope)}


def from_entry(entry: Entry, tag: int, channel: Any) -> Message:
    body = entry.fields.get(BODY_FIELD.encode())
    if body is None:  # not a message of caselog: shown as it is, and malformed for whoever decodes it
        texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in entry.fields.items()}
        body = msgspec.json.encode({"stream_entry": entry.entry_id.decode(), "fields": texts})
    raw_envelope = entry.fields.get(ENVELOPE_FIELD.encode())
    try:
        envelope = _envelopes.decode(raw_envelope) if raw_envelope else Envelope()
    except (msgspec.DecodeError, UnicodeDecodeError):
        envelope = Envelope()
    return Message(
        body=body,
        channel=channel,
        delivery_tag=tag,
        content_type=envelope.content_type or _content_type(body),
        content_encoding=envelope.content_encoding,
        # By this header kombu would unpack the body, however large it turns out to be.
        headers={name: value for name, value in envelope.headers.items() if name != "compression"},
        properties={"timestamp": entry.added_ms // 1000, **envelope.properties},
        delivery_info={
            "routing_key": entry.queue,
            "redelivered": entry.redelivered,
            "stream_id": entry.entry_id.decode(),
        },
    )


def _content_type(body: bytes) -> str:
    return BATCH_TYPE if body.lstrip()[:1] == b"[" else EVENT_TYPE
