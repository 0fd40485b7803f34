"""The producers' door: check events, send them in small batches, and know that the broker has them.

    with Publisher("redis://localhost:6379/0", source="/call-centre") as publisher:
        publisher.publish({"type": "accept_case", "subject": "AB-1234-5678", "data": {"code": "SPOP"}})

One background thread sends; everything here may be called from any thread.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, Final, Self

from kombu import Connection

from caselog.events.credentials import hide
from caselog.events.errors import BufferFull, PublisherClosed, PublishError
from caselog.events.model.message import BATCH_TYPE, EVENT_BYTES_MAX, EVENT_TYPE
from caselog.events.phrases import count_of
from caselog.events.transport import broker
from caselog.events.transport.encoding import Publishable, encode, routing_key
from caselog.events.transport.events_queue import open_events
from caselog.events.transport.refusals import alarm_refusal, refusal

# A message up to this size is decoded in one pass at the other end; it is also one event's limit.
BATCH_BYTES_MAX: Final = EVENT_BYTES_MAX
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0


class _Batch:
    """Events that go as one message, and the future of its confirmation."""

    __slots__ = ("body_bytes", "events", "future", "key")

    def __init__(self, key: str) -> None:
        self.events: list[bytes] = []
        self.body_bytes = 2
        self.key = key
        self.future = _running()

    def message(self) -> tuple[bytes, str, str]:
        """Body, content type and routing key."""
        if len(self.events) == 1:
            return self.events[0], EVENT_TYPE, self.key
        return b"[" + b",".join(self.events) + b"]", BATCH_TYPE, "event.batch"


class Publisher:
    """Publishes events in the order in which it is given them.

    `url` is Redis, RabbitMQ, or a list of RabbitMQ's nodes, `amqp://a;amqp://b`: after a failure the next one is tried.
    `source` is put into events that name none. An event that comes alone goes at once; those that come within
    `linger_ms` after a message went share the next one, up to `batch_events`. `buffer_events` may wait for the broker;
    then `publish` blocks, or raises `BufferFull` where `block_when_full` is False. A message that the broker does not
    confirm is sent again, with the same ids, for `retry_for_s` seconds; then it and all that wait behind it are given
    up: their futures fail, and the next `flush` or `close` raises `PublishError`, which holds them. (So does
    `publish`, where nobody flushes and as many were given up as the buffer holds: with its own event among them.)
    `reach_for_s`: the same as long as this publisher never had a connection; None: as `retry_for_s`. Connecting counts;
    an attempt that is under way then still ends.

    Close it, or use it as a context manager. It is of the process that made it: a process that is forked from that one
    has none of its thread, so there `publish` and `flush` raise `PublisherClosed`, and `close` leaves it to its owner.
    """

    def __init__(
        self,
        url: str,
        *,
        source: str | None = None,
        linger_ms: float = 5,
        batch_events: int = 100,
        buffer_events: int = 100_000,
        block_when_full: bool = True,
        retry_for_s: float = 30,
        reach_for_s: float | None = None,
    ) -> None:
        # No heartbeats: nothing reads this connection between messages, and a dead one shows when it is used.
        self._connection: Connection = broker.connect(url, heartbeat_s=0)
        self._channel: Any = None
        self._source = source
        self._linger_s = linger_ms / 1000
        self._batch_events = batch_events
        self._buffer_events = buffer_events
        self._block_when_full = block_when_full
        self._retry_for_s = retry_for_s
        # How long a message is tried for now.
        self._try_for_s = retry_for_s if reach_for_s is None else reach_for_s

        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[_Batch] = deque()
        self._sent_s = -self._linger_s
        self._given_up: list[bytes] = []
        self._last_error: Exception | None = None
        self._gave_up_after_s = self._try_for_s
        # Counts of events since the start: all were accepted in order, and are settled (sent or given up) in order.
        self._accepted = 0
        self._settled = 0
        self._flush_up_to = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="caselog-publisher", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def publish(self, event: Publishable) -> Future[None]:
        """Give an event to the broker; the future is done when the broker has confirmed it.

        An event is a mapping of CloudEvents attributes or an event of the package `cloudevents` (missing attributes
        among `specversion`, `id`, `source` and `time` are filled in, and `traceparent` where an OpenTelemetry span is
        active), an `Event`, or a whole event in JSON. Raises `MalformedEvent` at once for one that is none, which names
        all that is wrong with it; a normal return promises nothing yet. Blocks while the buffer is full. The future
        may be shared by the events of one message; it cannot be cancelled, and what it calls back must not publish.
        """
        return self._add([encode(event, self._source)])[0]

    def publish_many(self, events: Iterable[Publishable]) -> Future[None]:
        """As `publish`, for several: none is sent where one is malformed. The future is done when all are confirmed."""
        encoded = [encode(event, self._source) for event in events]
        return _all_of(self._add(encoded))

    def flush(self, timeout_s: float | None = None) -> None:
        """Send at once what waits, and return when the broker has confirmed it.

        Raises `PublishError` with the events that were given up since the last call, and `TimeoutError` where the
        broker has not confirmed all in time; those go on being sent.
        """
        self._refuse_another_process()
        with self._changed:
            target = self._flush_up_to = self._accepted
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._settled >= target, timeout_s):
                raise TimeoutError(
                    f"{count_of(target - self._settled, 'event is', 'events are')} not confirmed after {timeout_s:g} s"
                )
            self._raise_given_up()

    def close(self) -> None:
        """Flush and disconnect. Raises as `flush` does; the publisher is closed all the same."""
        if os.getpid() != self._process:
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self._close_at_exit)
        with self._changed:
            self._raise_given_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_at_exit(self) -> None:
        if os.getpid() != self._process:
            return
        warnings.warn("a Publisher was not closed: close it, or use it in a with block", ResourceWarning, stacklevel=1)
        self.close()

    def _add(self, encoded: list[tuple[bytes, str]]) -> list[Future[None]]:
        """Append the events to the open batch, or to new ones; the futures of their batches, in order."""
        futures: list[Future[None]] = []
        self._refuse_another_process()
        with self._changed:
            if len(self._given_up) >= self._buffer_events:
                self._raise_given_up(also=[raw for raw, _ in encoded])
            held = self._accepted - self._settled
            if not self._block_when_full and held + len(encoded) > self._buffer_events:
                raise BufferFull(
                    f"{held:,} of {count_of(self._buffer_events, 'event')} {'waits' if held == 1 else 'wait'} for the "
                    f"broker, and {count_of(len(encoded), 'more has', 'more have')} no room: none of these "
                    f"was taken. Publish them again later, or let the publisher block."
                )
            for raw, key in encoded:
                while self._accepted - self._settled >= self._buffer_events and not self._is_closing:
                    self._changed.wait()
                if self._is_closing:
                    raise PublisherClosed("the publisher is closed: make a new one")
                batch = self._waiting[-1] if self._waiting else None
                if batch is None or self._is_full(batch) or batch.body_bytes + len(raw) > BATCH_BYTES_MAX:
                    batch = _Batch(routing_key(key))
                    self._waiting.append(batch)
                    self._changed.notify_all()
                batch.events.append(raw)
                batch.body_bytes += len(raw) + 1
                self._accepted += 1
                if not futures or futures[-1] is not batch.future:
                    futures.append(batch.future)
            if self._waiting and self._is_full(self._waiting[0]):
                self._changed.notify_all()
        return futures

    def _refuse_another_process(self) -> None:
        """Before its lock is asked for, which nobody may ever give back here."""
        if os.getpid() != self._process:
            raise PublisherClosed(
                f"this Publisher belongs to process {self._process}, from which this one was forked, and nothing was "
                f"taken: make one in each process, after the fork"
            )

    def _is_full(self, batch: _Batch) -> bool:
        return len(batch.events) >= self._batch_events

    def _raise_given_up(self, also: Iterable[bytes] = ()) -> None:
        if self._given_up:
            unsent, self._given_up = [*self._given_up, *also], []
            raise PublishError(
                f"the broker did not confirm {count_of(len(unsent), 'event')} within {self._gave_up_after_s:g} s "
                f"({_in_words(self._last_error)}). When it takes events again, publish what `unsent` holds: the ids "
                f"are the same, so it is safe.",
                unsent,
            ) from self._last_error

    # The sending thread

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            error = self._send(batch)
            self._settle(batch, error)
        with suppress(Exception):  # everything is confirmed or given up; nothing hangs on a polite goodbye
            broker.disconnect(self._connection)

    def _next_batch(self) -> _Batch | None:
        """The first batch once it is full, due or to be flushed; None when closed and nothing is left."""
        with self._changed:
            while True:
                if self._waiting:
                    first = self._waiting[0]
                    at_once = len(self._waiting) > 1 or self._flush_up_to > self._settled or self._is_closing
                    linger_s = self._sent_s + self._linger_s - monotonic()
                    if at_once or self._is_full(first) or linger_s <= 0:
                        self._sent_s = monotonic()
                        return self._waiting.popleft()
                    self._changed.wait(linger_s)
                elif self._is_closing:
                    return None
                else:
                    self._changed.wait()

    def _send(self, batch: _Batch) -> Exception | None:
        """None when the broker has the batch; the last error when it was given up."""
        body, content_type, key = batch.message()
        deadline_s: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            if (alarm := broker.alarm_of(self._connection)) is not None:
                deadline_s = monotonic() + self._try_for_s if deadline_s is None else deadline_s
                if not broker.outlast_alarm(self._connection, deadline_s - monotonic()):
                    return alarm_refusal(alarm)
            began_s = monotonic()
            is_connecting = self._channel is None
            try:
                if is_connecting:
                    deadline_s = self._connect(deadline_s)
                    is_connecting = False
                broker.publish(
                    self._channel,
                    body,
                    exchange=broker.EVENTS_EXCHANGE.name,
                    routing_key=key,
                    content_type=content_type,
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, the events are kept and the thread goes on
                # Nobody knows whether the broker has it: a new connection, and the same bytes again.
                self._drop_connection(error)
                if deadline_s is None:  # a connection that had worked, and hung, leaves all the time to a new one
                    deadline_s = (began_s if is_connecting else monotonic()) + self._try_for_s
                if broker.alarm_of(self._connection) is not None:
                    continue
                if monotonic() >= deadline_s:
                    return error
                sleep(min(pause_s, max(deadline_s - monotonic(), 0)))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            else:
                return None

    def _connect(self, deadline_s: float | None) -> float | None:
        """Open the channel; the deadline that holds from here on. The first attempt has all the time it needs."""
        broker.limit_connecting(self._connection, deadline_s)
        self._channel, _ = open_events(self._connection)
        if self._try_for_s == self._retry_for_s:
            return deadline_s
        self._try_for_s = self._retry_for_s
        return None

    def _drop_connection(self, error: Exception) -> None:
        """Drop it, unless an alarm of RabbitMQ holds it up: that one is kept, with a new channel, until it is over."""
        self._channel = None
        if broker.alarm_of(self._connection) is not None:
            return
        broker.leave_host(self._connection, error)
        with suppress(Exception):  # a connection that is broken already may well fail to close
            self._connection.collect()

    def _settle(self, batch: _Batch, error: Exception | None) -> None:
        batches = [batch]
        if error is not None:
            with self._changed:
                batches += self._waiting
                self._waiting.clear()
        for settled in batches:  # before they are counted: after a flush every future is done
            if error is None:
                settled.future.set_result(None)
            else:
                settled.future.set_exception(_failure(settled, error))
        with self._changed:
            if error is not None:
                self._last_error = error
                self._gave_up_after_s = self._try_for_s
                self._given_up += [raw for lost in batches for raw in lost.events]
            self._settled += sum(len(settled.events) for settled in batches)
            self._changed.notify_all()


def _in_words(error: Exception | None) -> str:
    """What the broker refuses and what to do, or what the driver says of one that is away."""
    refused = None if error is None else refusal(error)
    return refused or hide(f"{type(error).__name__}: {error}")


def _running() -> Future[None]:
    """A future that nobody can cancel: it may be shared, and what was accepted is sent."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _failure(batch: _Batch, error: Exception) -> PublishError:
    failure = PublishError(f"the broker did not confirm the event: {_in_words(error)}", batch.events)
    failure.__cause__ = error
    return failure


def _all_of(futures: list[Future[None]]) -> Future[None]:
    """One future for several, done when all are; its error holds the unsent events of all that failed."""
    if len(futures) == 1:
        return futures[0]
    together = _running()
    lock, remaining = threading.Lock(), len(futures)

    def on_done(_: Future[None]) -> None:
        nonlocal remaining
        with lock:
            remaining -= 1
            if remaining:
                return
        failures = [failure for future in futures if isinstance(failure := future.exception(), PublishError)]
        if failures:
            together.set_exception(PublishError(str(failures[0]), [raw for f in failures for raw in f.unsent]))
        else:
            together.set_result(None)

    if not futures:
        together.set_result(None)
    for future in futures:
        future.add_done_callback(on_done)
    return together
