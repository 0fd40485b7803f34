"""A batch is a span that links to the spans in which its events were sent; without OpenTelemetry nothing is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from redis import Redis
from support.oracle.stored import body
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually

from caselog.events import Publisher
from caselog.events.folding.resolve import Rules
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.model.traceparent import TraceParent, parse_traceparent
from caselog.events.transport.encoding import encode
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Recorded
from caselog.workers.recording.pause_watch import Breaker, PauseWatch
from caselog.workers.recording.recorder import Recorder
from caselog.workers.servers.database_errors import DatabaseAway
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.telemetry.heartbeat import Heartbeat
from caselog.workers.telemetry.tracing import LINKS_MAX, batch_span

ROOT = Path(__file__).parents[3]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the example of W3C Trace Context
WITHOUT = """
import sys
sys.modules["opentelemetry"] = None  # as where it is not installed: importing it fails
from caselog.events.transport.encoding import encode
from caselog.events.model.message import decode
from caselog.workers.telemetry.tracing import batch_span, no_span
import caselog.workers.roles.recorder
span = batch_span()
assert span is no_span
with span([decode(b"{}")]):
    raw, _ = encode({"type": "timer"}, "/s")
assert b"traceparent" not in raw
print([name for name in sys.modules if name.startswith("opentelemetry.")])
"""


@pytest.fixture
def provider() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def parent(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


def links_of(span: Any) -> list[tuple[str, str]]:
    return [(format_trace_id(link.context.trace_id), format_span_id(link.context.span_id)) for link in span.links]


def test_what_a_publisher_sends_within_a_span_is_linked_to_by_the_batch_that_records_it(
    provider: tuple[TracerProvider, InMemorySpanExporter], redis_pipeline: Pipeline
) -> None:
    """From the sender's span to the recorder's, through a real broker and a real recorder."""
    tracers, exporter = provider
    autodiscover()
    recording = Recording(
        make_engine(redis_pipeline.database_url), event_registry, Rules(zone=ZoneInfo("Europe/London"))
    )
    batches: list[Recorded] = []
    with Redis.from_url(redis_py_url(redis_pipeline.settings["CASELOG_REDIS_URL"])) as client:
        recorder = Recorder(
            redis_pipeline.broker_url,
            recording,
            batch_events=10,
            batch_age_s=0.01,
            heartbeat=Heartbeat(client, "recorder"),
            pauses=PauseWatch(recording.engine, Breaker(0, 0), "tests"),
            after_commit=lambda recorded, _: batches.append(recorded),
            span=batch_span(tracers),
        )
        thread = Thread(target=recorder.run)
        thread.start()
        try:
            with (
                Publisher(redis_pipeline.broker_url) as publisher,
                tracers.get_tracer("sender").start_as_current_span("call ended") as sent,
            ):
                publisher.publish_many([created("AB-1"), event("accept_case", "NOPE", "AB-1")])
                publisher.flush(30)
            eventually(lambda: sum(batch.recorded + batch.dead.total() for batch in batches) == 2, "it is recorded")
        finally:
            recorder.stop()
            thread.join()
            recording.engine.dispose()
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "record caselog.events"]
    trace_id = format_trace_id(sent.get_span_context().trace_id)
    assert links_of(span) == [(trace_id, format_span_id(sent.get_span_context().span_id))]
    assert span.kind is SpanKind.CONSUMER
    assert span.attributes is not None
    assert span.attributes["caselog.batch.events"] == 2
    assert span.parent is None
    # And a dead letter's trace is told, so that its log line can name it.
    assert [trace for batch in batches for trace in batch.dead_traces] == [trace_id]


def test_a_span_links_to_each_sender_once_and_to_so_many_at_most(
    provider: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    """Whatever stands in `traceparent`: what is none is left out."""
    tracers, exporter = provider
    numbers = [1, 1, *range(1, LINKS_MAX + 50)]
    events = [created(f"AB-{at}", traceparent=parent(number)) for at, number in enumerate(numbers)]
    odd = [created("AB-x", traceparent="nonsense"), created("AB-y"), {"no": "event"}]
    with batch_span(tracers)([decode(body(*odd)), decode(body(*events))]):
        pass
    (span,) = exporter.get_finished_spans()
    expected = [parse_traceparent(parent(number)) for number in range(1, LINKS_MAX + 1)]
    assert links_of(span) == [(one.trace_id, one.span_id) for one in expected if one is not None]


def test_a_database_that_is_away_is_told_in_the_span_and_raised(
    provider: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    tracers, exporter = provider
    with pytest.raises(DatabaseAway), batch_span(tracers)([]):
        raise DatabaseAway("PostgreSQL: it is away")
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_the_log_line_about_dead_letters_names_their_traces(redis_pipeline: Pipeline) -> None:
    worker = redis_pipeline.start("recorder")
    redis_pipeline.publish([event("accept_case", "NOPE", "AB-1", traceparent=PARENT)])
    eventually(lambda: "events were set aside" in worker.said(), "it is logged")
    (line,) = [json.loads(line) for line in worker.said().splitlines() if "set aside" in line]
    assert line["trace_ids"] == ["0af7651916cd43dd8448eb211c80319c"]
    assert line["unknown_code"] == 1


def test_an_event_keeps_the_traceparent_that_it_has(provider: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    tracers, _ = provider
    with tracers.get_tracer("sender").start_as_current_span("call ended") as span:
        raw, _ = encode({"type": "timer", "traceparent": PARENT}, "/s")
        ours, _ = encode({"type": "timer"}, "/s")
    assert json.loads(raw)["traceparent"] == PARENT
    expected: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(expected, trace.set_span_in_context(span))
    assert json.loads(ours)["traceparent"] == expected["traceparent"]
    assert "traceparent" not in json.loads(encode({"type": "timer"}, "/s")[0])


def test_without_opentelemetry_nothing_is_imported_and_nothing_is_traced() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


ODD = (
    PARENT,
    f"{PARENT}-more",  # version 00 has no more
    f"01{PARENT[2:]}-more",
    f"01{PARENT[2:]}more",
    f"ff{PARENT[2:]}",
    PARENT.upper(),
    f"00-{'0' * 32}{PARENT[35:]}",
    f"{PARENT[:36]}{'0' * 16}-01",
)


@given(st.one_of(st.sampled_from(ODD), st.text(max_size=70)))
def test_a_traceparent_is_read_as_opentelemetry_reads_it(text: str) -> None:
    context = trace.get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text})).get_span_context()
    ids = TraceParent(format_trace_id(context.trace_id), format_span_id(context.span_id), int(context.trace_flags))
    assert parse_traceparent(text) == (ids if context.is_valid else None)
