"""Hostile messages on the whole road into PostgreSQL: each event ends in the log or in dead_letter, exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from corpus import SECRET, messages
from kombu.compression import compress
from pipeline import Pipeline
from sqlalchemy import Engine
from stored import count, dead_letters, dump

from events import broker
from events.message import Event, decode
from events.registry import autodiscover, event_registry
from events.resolve import Rules
from schema.connection import make_engine
from workers.recording import Recording


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    autodiscover()
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def test_every_nasty_message_ends_in_the_log_or_among_the_dead_letters_once(database_url: str, engine: Engine) -> None:
    recording = Recording(engine, event_registry, Rules(zone=ZoneInfo("Europe/London")))
    nasty = [decode(body) for body in messages().values()]
    entries = [(message.raw(at), event) for message in nasty for at, event in enumerate(message.events)]
    names = {(event.source, event.id) for _, event in entries if isinstance(event, Event)}
    unreadable = {raw for raw, event in entries if not isinstance(event, Event)}
    result = recording.record(nasty)
    logged = count(database_url, "log")
    dead = dead_letters(database_url)
    assert result.recorded == logged
    assert {letter["raw"] for letter in dead if letter["reason"] == "malformed"} >= unreadable
    others = {(letter["source"], letter["event_id"]) for letter in dead if letter["raw"] not in unreadable}
    assert logged + len(others) == len(names)
    assert not any(SECRET in letter["message"] for letter in dead)
    stands = dump(database_url)
    for message in nasty:
        assert recording.record([message]).recorded == 0
    assert dump(database_url) == stands


def test_what_claims_to_be_compressed_is_never_unpacked(pipeline: Pipeline) -> None:
    """A bomb of 50 MB in 50 KB, which kombu would unpack before anybody could look at it: it arrives as it was sent."""
    packed, kind = compress(b"[" * 50_000_000, "gzip")
    with broker.connect(pipeline.broker_url) as connection, broker.open_channel(connection) as channel:
        broker.EVENTS_QUEUE(channel).declare()
        for claimed in (kind, "no-such"):
            sent = channel.prepare_message(
                packed, content_type="application/json", content_encoding="utf-8", headers={"compression": claimed}
            )
            channel.basic_publish(sent, exchange="caselog.events", routing_key="event.x")
        bodies: list[bytes] = []
        with broker.consume(channel, broker.EVENTS_QUEUE, lambda m: bodies.append(m.body), prefetch_messages=10):
            while len(bodies) < 2:
                connection.drain_events(timeout=20)
    assert [len(body) for body in bodies] == [len(packed)] * 2
    assert bodies == [packed] * 2
