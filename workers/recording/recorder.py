"""The recorder: takes events off the queue in micro-batches, records each batch in one transaction, then acks it."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from kombu import Connection, Consumer, Queue

from caselog.events.errors import BrokerRefusal
from caselog.events.model.message import Event, Message, decode
from caselog.events.transport.broker import (
    EVENTS_QUEUE,
    connect,
    consume,
    disconnect,
    keep_alive,
    leave_host,
    limit_prefetch,
    published_s,
)
from caselog.events.transport.events_queue import Standing, consume_removed, open_events, reasons_of
from caselog.events.transport.refusals import refusal
from caselog.workers.process import crash_points
from caselog.workers.process.backoff import FIRST_DELAY_S, LONGEST_DELAY_S, Backoff
from caselog.workers.process.logs import get_logger
from caselog.workers.process.shutdown import exit_in_time
from caselog.workers.process.trouble import Trouble
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Recorded
from caselog.workers.recording.pause_watch import PauseWatch
from caselog.workers.servers.database_errors import DatabaseAway, OtherSchema
from caselog.workers.telemetry.heartbeat import Doing, Heartbeat
from caselog.workers.telemetry.tracing import Span, no_span

POLL_S: Final = 1.0
PAUSED_POLL_S: Final = 0.2
# Which events were set aside is for `caselog dead list`; the log line of a batch names the first of them.
NAMED_DEAD: Final = 10
# Taken ahead is about one batch, whatever a message holds, and not a message more: what another recorder takes
# meanwhile is recorded first, and what is left over here then comes late. The first messages tell how large they are:
# as the Publisher sends them, of 100 events each, these are a batch.
FIRST_PREFETCH_MESSAGES: Final = 20
# On RabbitMQ a change is two round trips: more is taken ahead only where it is worth that.
WORTH_A_CHANGE: Final = 1.5
# Of large events a batch holds fewer: what it holds in memory is several times what was sent.
BATCH_BYTES: Final = 8 * 1024 * 1024
# Once nothing follows within half a millisecond, there is no load that waiting would help. RabbitMQ hands over messages
# one by one, some every 0.1 ms: closed 2 ms after its first, a batch had 50 of them, and took twice as long an event.
HEELS_S: Final = 0.0005
# A message that is there already is read within this time.
THERE_S: Final = 0.0001


class Recorder:
    """One consumer of the raw events, in micro-batches of `batch_events` or 8 MiB.

    A batch is closed before that when no more messages come, so a lone event does not wait for others; and once it is
    `batch_age_s` old, when there is none just then. Killed at any instruction it loses nothing: what it had not acked
    comes back, and is found recorded or is recorded then.
    """

    def __init__(
        self,
        broker_url: str,
        recording: Recording,
        *,
        batch_events: int,
        batch_age_s: float,
        heartbeat: Heartbeat,
        pauses: PauseWatch,
        after_commit: Callable[[Recorded, list[float]], None],
        on_removed: Callable[[Mapping[str, int]], None] = lambda _: None,
        span: Span = no_span,
    ) -> None:
        """`after_commit` is told what became of a batch, and for each event the seconds since its arrival here.

        `on_removed` is told how many messages a policy of the broker's had removed, by its reason, before they came.
        """
        self._broker_url = broker_url
        self._recording = recording
        self._batch_events = batch_events
        self._batch_age_s = batch_age_s
        self._heartbeat = heartbeat
        self._pauses = pauses
        self._after_commit = after_commit
        self._on_removed = on_removed
        self._span = span
        self._backoff = Backoff()
        self._stopping = threading.Event()
        self._trouble = Trouble()
        self._inbox: deque[Any] = deque()
        self._messages: list[Message] = []
        self._removed: Counter[str] = Counter()
        self._arrivals_s: list[float] = []
        self._first: Any = None
        self._last: Any = None
        self._events = self._bytes = 0
        self._prefetch_messages = min(batch_events, FIRST_PREFETCH_MESSAGES)

    def run(self) -> None:
        """Record until `stop` is called; the batch in hand is finished first. Reconnects to a broker that was away."""
        while not self._stopping.is_set():
            if (pause := self._pauses.look()) is not None:
                self._heartbeat.wait(Doing.TRIPPED if pause.is_breakers else Doing.PAUSED, pause.in_words())
                self._stopping.wait(PAUSED_POLL_S)
                continue
            connection = connect(self._broker_url)
            try:
                self._consume(connection)
            except (*connection.connection_errors, *connection.channel_errors, BrokerRefusal) as error:
                leave_host(connection, error)
                self._tell_broker(error)
                self._backoff.wait(self._stopping)
            except OtherSchema as error:
                # Another version's recorder may be able to record it: nothing is kept from that one.
                self._trouble.tell("nothing is recorded; the batch went back to the queue", error)
                self._heartbeat.wait(Doing.NO_DATABASE, str(error))
                self._backoff.wait(self._stopping)
            finally:
                self._forget()
                self._inbox.clear()
                disconnect(connection)
        self._heartbeat.stop()

    def stop(self, *_: object) -> None:
        """Finish the batch in hand and return from `run`; usable as a signal handler."""
        self._stopping.set()

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT stop it; where a server does not answer, it is ended in time all the same."""

        def stop(*_: object) -> None:
            exit_in_time()
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    def _consume(self, connection: Connection) -> None:
        """Consume until told to stop, or paused: what is held then goes back to the broker with the connection."""
        channel, standing = open_events(connection)
        if standing is not Standing.SAFE:
            get_logger().warning("the queue of events is not safe from policies of the broker", why=standing.value)
        events = Queue(EVENTS_QUEUE.name, no_declare=True)  # it is there, whatever it was declared with
        with (
            consume(channel, events, self._take, prefetch_messages=self._prefetch_messages) as consumer,
            consume_removed(channel, self._take, prefetch_messages=FIRST_PREFETCH_MESSAGES) as look_again,
        ):
            while not self._stopping.is_set():
                self._fill(connection)
                if self._pauses.look() is not None:
                    return
                if self._messages:
                    messages, filled = len(self._messages), self._filled()
                    if not self._record(connection):
                        return
                    self._backoff.worked()
                    self._take_ahead(consumer, messages, filled)
                else:
                    self._backoff.worked()
                    look_again()
                    keep_alive(connection)
                    self._heartbeat.beat(idle=not self._inbox, **self._held())

    def _tell_broker(self, error: Exception) -> None:
        """Say what is wrong with the broker: that it is away, or what it refuses."""
        refused = refusal(error)
        delay_s = round(self._backoff.delay_s, 1)
        if refused is None:
            get_logger().warning("the broker is away; connecting again", error=str(error), delay_s=delay_s)
            self._heartbeat.wait(Doing.NO_BROKER)
        else:
            get_logger().warning("the broker refuses; trying again", error=refused, delay_s=delay_s)
            self._heartbeat.wait(Doing.REFUSED, refused)

    def _take(self, message: Any) -> None:
        # As it came: what is decoded is ten times as large, and only the batch in hand needs to be.
        self._inbox.append((time.monotonic(), message))

    def _fill(self, connection: Connection) -> None:
        """Wait for a first message, then take what follows on its heels until the batch is full.

        Once it is old enough, it takes only what is there already: that there is so much means that we are behind, and
        a larger batch catches up.
        """
        closes_s = time.monotonic() + POLL_S
        while self._filled() < 1 and len(self._messages) < self._prefetch_messages:
            if self._inbox:
                if not self._messages:
                    closes_s = time.monotonic() + self._batch_age_s
                arrived_s, self._last = self._inbox.popleft()
                self._first = self._first or self._last
                self._messages.append(decode(self._last.body))
                if reasons := reasons_of(self._last.headers):
                    self._removed[reasons[-1]] += 1
                self._arrivals_s += [arrived_s] * len(self._messages[-1].events)
                self._events += len(self._messages[-1].events)
                self._bytes += len(self._last.body)
                continue
            left_s = max(closes_s - time.monotonic(), THERE_S)
            try:
                connection.drain_events(timeout=min(left_s, HEELS_S) if self._messages else left_s)
            except TimeoutError:
                return

    def _filled(self) -> float:
        """How full the batch in hand is: 1 and more is full."""
        return max(self._events / self._batch_events, self._bytes / BATCH_BYTES)

    def _take_ahead(self, consumer: Consumer, messages: int, filled: float) -> None:
        """Take messages ahead for one batch, of messages like those that filled the last one so far.

        Only where that batch was full, or had all messages that it may: while little comes, nothing is changed.
        """
        # Rounded down: a message more would be a transaction of its own. (The quotient of 7 and 0.35 is not quite 20.)
        wanted = min(self._batch_events, max(1, int(messages / filled + 0.001)))
        too_many = filled >= 1 and self._prefetch_messages > wanted
        too_few = messages >= self._prefetch_messages and wanted >= self._prefetch_messages * WORTH_A_CHANGE
        if too_many or too_few:
            limit_prefetch(consumer, wanted)
            self._prefetch_messages = wanted

    def _record(self, connection: Connection) -> bool:
        """Record and ack the batch in hand; False where it was told to stop while the database was away."""
        crash_points.reach("recorder.received")
        delay_s = FIRST_DELAY_S
        self._heartbeat.take(**self._held())
        began_s = time.monotonic()
        while True:
            try:
                with self._span(self._messages):
                    recorded = self._recording.record(self._messages, alive=partial(self._stay, connection))
                break
            except OtherSchema:
                raise
            except DatabaseAway as error:
                self._trouble.tell("the batch waits for the database", error, events=self._events)
                # Not acked, not requeued: the messages stay ours until they are recorded or this process ends.
                if self._wait(connection, delay_s):
                    return False
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
        self._trouble.end("the database takes batches again")
        committed_s = time.monotonic()
        waits_s = [committed_s - arrived_s for arrived_s in self._arrivals_s]
        self._last.channel.basic_ack(self._last.delivery_tag, multiple=True)
        crash_points.reach("recorder.acked")
        messages, events, removed = self._messages, self._events, self._removed
        self._forget()
        self._heartbeat.beat(messages=len(messages), events=events, **self._held())
        self._pauses.observe(recorded)
        self._after_commit(recorded, waits_s)
        if removed:
            get_logger().warning(
                "a policy of the broker's removes messages; they came back and are recorded", **removed
            )
            self._on_removed(removed)
        _log_batch(recorded, messages, committed_s - began_s)
        return True

    def _stay(self, connection: Connection) -> None:
        """While a batch is folded for long the broker is told that we live. Where it is away, the ack will find out."""
        with suppress(*connection.connection_errors, *connection.channel_errors):
            keep_alive(connection)

    def _wait(self, connection: Connection, seconds: float) -> bool:
        """Wait, telling the broker that we live; True as soon as we are to stop."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            keep_alive(connection)
            self._heartbeat.wait(Doing.NO_DATABASE, **self._held())
            if self._stopping.wait(min(left, POLL_S)):
                return True
        return self._stopping.is_set()

    def _forget(self) -> None:
        """The batch in hand is done with."""
        self._messages, self._arrivals_s, self._events, self._bytes = [], [], 0, 0
        self._removed = Counter()
        self._first = self._last = None

    def _held(self) -> dict[str, Any]:
        """How many messages are held unacked, and when the oldest of them was published."""
        oldest = self._first or (self._inbox[0][1] if self._inbox else None)
        return {
            "unacked": len(self._messages) + len(self._inbox),
            "held_since_s": None if oldest is None else published_s(oldest),
        }


def _log_batch(recorded: Recorded, messages: list[Message], took_s: float) -> None:
    """One line a batch: counts, and of what was set aside its identity; nothing of what an event says."""
    log = get_logger()
    counts = {name: getattr(recorded, name) for name in ("recorded", "suppressed", "duplicates", "parked")}
    counts = {"messages": len(messages), **counts, "took_ms": round(took_s * 1000, 1)}
    if not recorded.dead:
        log.info("batch", **counts)
        return
    events = (event for message in messages for event in message.events if isinstance(event, Event))
    traces = {(event.source, event.id): event.traceparent for event in events}
    named = [
        {
            "reason": letter.reason,
            "key": letter.key,
            "source": letter.source,
            "event_id": letter.event_id,
            "traceparent": traces.get((letter.source or "", letter.event_id or "")),
        }
        for letter in recorded.set_aside[:NAMED_DEAD]
    ]
    ids = {"trace_ids": sorted(set(recorded.dead_traces))[:NAMED_DEAD]} if recorded.dead_traces else {}
    log.warning("batch: events were set aside", **counts, **recorded.dead, set_aside=named, **ids)
