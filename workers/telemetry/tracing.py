"""A span a batch for OpenTelemetry, linked to the traces that its events came from, where its API is installed.

That is the extra `otel`. Without it nothing is imported; with it and no SDK set up, a batch costs microseconds.
docs/decisions/0079-a-span-a-batch.md says why a span is a batch's and not an event's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, TypeAlias

from caselog.events.model.message import Event, Message
from caselog.events.model.traceparent import TraceParent, parse_traceparent
from caselog.events.transport.broker import EVENTS_QUEUE

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

NAME: Final = "caselog"
# What the SDK keeps of a span unless told otherwise (OTEL_SPAN_LINK_COUNT_LIMIT).
LINKS_MAX: Final = 128

Span: TypeAlias = Callable[[Sequence[Message]], AbstractContextManager[None]]


def no_span(_messages: Sequence[Message]) -> AbstractContextManager[None]:
    """Traces nothing."""
    return nullcontext()


def batch_span(provider: TracerProvider | None = None) -> Span:
    """What to record a batch within: a span of that provider or the one set up for the process; `no_span` without API.

    What is raised within is noted in the span, and raised.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 - it need not be installed
    except ImportError:
        return no_span
    tracer = trace.get_tracer(NAME, tracer_provider=provider)

    @contextmanager
    def span(messages: Sequence[Message]) -> Iterator[None]:
        if provider is None and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            yield  # no SDK is set up, so nobody would see it
            return
        events = [item for message in messages for item in message.events]
        links = [
            trace.Link(
                trace.SpanContext(
                    int(parent.trace_id, 16),
                    int(parent.span_id, 16),
                    is_remote=True,
                    trace_flags=trace.TraceFlags(parent.flags),
                )
            )
            for parent in senders(item.traceparent for item in events if isinstance(item, Event))
        ]
        attributes = {
            "messaging.destination.name": EVENTS_QUEUE.name,
            "messaging.operation.name": "record",
            "messaging.operation.type": "process",
            "messaging.batch.message_count": len(messages),
            "caselog.batch.events": len(events),
        }
        name = f"record {EVENTS_QUEUE.name}"
        with tracer.start_as_current_span(name, kind=trace.SpanKind.CONSUMER, links=links, attributes=attributes):
            yield

    return span


def senders(traceparents: Iterable[str | None], most: int = LINKS_MAX) -> list[TraceParent]:
    """The spans in which events were sent, each once, in order; the first `most` of them."""
    found: dict[TraceParent, None] = {}
    seen: str | None = None
    for text in traceparents:
        if len(found) == most:
            break
        if text == seen:
            continue  # one sender's events often come together
        seen = text
        if (parent := parse_traceparent(text)) is not None:
            found[parent] = None
    return list(found)
