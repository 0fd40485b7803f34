"""Hostile messages on the whole road into PostgreSQL: each event ends in the log or in dead_letter, exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import psutil
import pytest
from kombu.compression import compress
from sqlalchemy import Engine
from support.builders.corpus import SECRET, good, messages
from support.oracle.stored import count, dead_letters, dump
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created
from support.processes.served import APP, Served, bearer

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import BATCH_TYPE, EVENT_TYPE, Event, decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.transport import broker
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.batch import Recording


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
                connection.drain_events(timeout=DEADLINE_S)
    assert [len(body) for body in bodies] == [len(packed)] * 2
    assert bodies == [packed] * 2


MIB = 1024 * 1024
FLOODS = {
    "zeros": b"[" + b"0," * (2 * MIB - 1) + b"0]",
    "objects": b"[" + b"{}," * MIB + b"{}]",
    "arrays that do not close": b"[" * (4 * MIB),
    "arrays": b"[" * (2 * MIB) + b"]" * (2 * MIB),
    "an object in an object": b'{"a":' * (MIB // 2),
    "a number": b"9" * (4 * MIB),
    "a huge exponent": good("exponent", b"1e999999"),
    "a name a million times": b"{" + b'"a":1,' * (MIB // 2) + b'"a":1}',
    "gzip": compress(b"[" * 50_000_000, "gzip")[0],
}


@pytest.mark.timeout(400)
def test_whatever_is_posted_the_status_worker_stays_small_and_answers(redis_pipeline: Pipeline) -> None:
    """Refused in each of the three ways to send it, compressed or not; it costs a few times its size at most."""
    served = Served(redis_pipeline)
    process = psutil.Process(served.worker.pid)
    before = process.memory_info().rss
    attributes = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "case"}
    for name, flood in FLOODS.items():
        for kind in ({"content-type": EVENT_TYPE}, {"content-type": BATCH_TYPE}, {**attributes}):
            headers = {**kind, **bearer(APP), **({"content-encoding": "gzip"} if name == "gzip" else {})}
            answer = served.post("/events", content=flood, headers=headers)
            assert answer.status_code in {400, 413}, (name, kind)
            assert len(answer.content) < 64 * 1024
    assert served.get("/livez").is_success
    assert process.memory_info().rss - before < 150 * MIB
    assert redis_pipeline.queue().ready == 0


@pytest.mark.timeout(400)
def test_whatever_is_in_the_queue_a_recorder_stays_small_and_goes_on(redis_pipeline: Pipeline) -> None:
    """Each is one dead letter, also where it holds millions of events; what comes behind them is recorded."""
    recorder = redis_pipeline.start("recorder", CASELOG_BREAKER_COUNT="0")
    redis_pipeline.publish([created("AB-1")])
    redis_pipeline.recorded(1)
    before = psutil.Process(recorder.pid).memory_info().rss
    redis_pipeline.send(*FLOODS.values(), b"[" + b"{}," * (6 * MIB) + b"{}]")
    redis_pipeline.publish([created("AB-2")])
    redis_pipeline.recorded(2, within_s=DEADLINE_S)
    assert count(redis_pipeline.database_url, "dead_letter") == len(FLOODS) + 1
    assert psutil.Process(recorder.pid).memory_info().rss - before < 400 * MIB
    redis_pipeline.drain_reports()
