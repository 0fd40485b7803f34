"""Pings through the broker: `caselog ping` asks, the status worker answers (docs/operations.md "What health means").

A ping is a message with `reply_to` and `correlation_id`; the answer is JSON. That it arrives proves more than a page
over HTTP: the broker carries messages both ways. On RabbitMQ it goes to the exchange `caselog.pings`, and each status
worker has a queue there that is its own, on the node that it is connected to: all of them answer, and the first answer
counts. On Redis it goes to the queue `caselog.ping`, which they share. Older callers and workers know that one alone:
on RabbitMQ it is asked where no worker has a queue of its own, and answered too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import msgspec
from kombu import Connection

from caselog.events.errors import CaselogError
from caselog.events.transport.broker import (
    PING_AGE_S,
    PING_QUEUE,
    PINGS_EXCHANGE,
    alarm_of,
    connect,
    consume,
    disconnect,
    is_redis,
    is_reply_queue,
    keep_alive,
    leave_host,
    open_channel,
    pings_queue,
    publish,
    reply_queue,
)
from caselog.events.transport.refusals import alarm_refusal, refusal
from caselog.workers.process.backoff import Backoff
from caselog.workers.process.logs import get_logger

POLL_S: Final = 0.5
# Pings that piled up are answered together, with one look at the parts of the pipeline.
PINGS_AT_ONCE: Final = 100
JSON_TYPE: Final = "application/json"
# RabbitMQ's code for a message that no queue gets.
_NO_ROUTE: Final = 312
# The queue that older callers know may lie on a node that is away; nobody waits for it.
_OLDER_AGAIN_S: Final = 30.0


class PingFailed(CaselogError):
    """No answer to a ping came back; the message says what to look at."""


def ping(broker_url: str, timeout_s: float) -> dict[str, Any]:
    """Ask the status worker through the broker and give back its answer.

    `{"version": {"version_number": …, …}, "checks": {"*": {"status": bool}, "database": {"status": bool, …}, …}}`.
    A normal return does not mean that all is well: see `["checks"]["*"]["status"]`. Blocks up to `timeout_s` seconds
    for the answer, and longer only where the broker does not even accept the connection. Raises `PingFailed`.
    """
    connection = connect(broker_url)
    try:
        return _ask(connection, timeout_s)
    except (*connection.connection_errors, *connection.channel_errors) as error:
        alarm = alarm_of(connection)
        refused = refusal(error if alarm is None else alarm_refusal(alarm))
        connection.collect()  # no goodbye: a broker that is silent would not answer it
        if refused is not None:
            raise PingFailed(f"the broker does not carry pings. {refused}") from error
        raise PingFailed(
            f"the broker does not carry pings ({type(error).__name__}: {error}). "
            "Check that it runs, and CASELOG_BROKER_URL"
        ) from error
    finally:
        disconnect(connection)


def _ask(connection: Connection, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    correlation_id = str(uuid4())
    answers: list[bytes] = []

    def receive(message: Any) -> None:
        message.ack()
        if message.properties.get("correlation_id") == correlation_id:
            answers.append(message.body)

    # What is opened here is closed with the connection: under an alarm RabbitMQ would not answer a goodbye.
    channel, replies = open_channel(connection), reply_queue()
    consume(channel, replies, receive, prefetch_messages=1).consume()
    question = _Question(connection, reply_to=replies.name, correlation_id=correlation_id)
    while not answers:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PingFailed(
                f"no status worker answered within {timeout_s:g} s. Is one running? Start it with: "
                f"caselog worker status"
            )
        question.ask(left_s)
        with suppress(TimeoutError):
            connection.drain_events(timeout=min(max(0.0, deadline - time.monotonic()), POLL_S))
    try:
        return msgspec.json.decode(answers[0], type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise PingFailed(f"the answer is no JSON object ({error}): does the status worker run this version?") from error


class _Question:
    """One ping, asked until somebody has it."""

    def __init__(self, connection: Connection, **properties: str) -> None:
        self._connection = connection
        self._properties = properties
        self._is_with_worker = self._is_in_queue = False

    def ask(self, within_s: float) -> None:
        """Send it where no status worker has it yet. Where none runs, it waits a minute for one that starts."""
        if self._is_with_worker or (is_redis(self._connection) and self._is_in_queue):
            return
        if is_redis(self._connection):
            PING_QUEUE(open_channel(self._connection)).declare()
            self._is_in_queue = self._send(within_s, routing_key=PING_QUEUE.name)
            return
        channel = open_channel(self._connection)
        PINGS_EXCHANGE(channel).declare()
        channel.close()
        self._is_with_worker = self._send(within_s, exchange=PINGS_EXCHANGE.name, routing_key="")
        if not self._is_with_worker and not self._is_in_queue:
            # One of an older version may consume it. Where it lies on a node that is away, none does.
            with suppress(*self._connection.channel_errors):
                self._is_in_queue = self._send(within_s, routing_key=PING_QUEUE.name)

    def _send(self, within_s: float, **to: str) -> bool:
        """True when a queue has it."""
        channel = open_channel(self._connection)
        try:
            publish(channel, b"{}", content_type=JSON_TYPE, confirm_timeout_s=within_s, **to, **self._properties)
        except self._connection.channel_errors as error:
            if getattr(error, "reply_code", None) != _NO_ROUTE:
                raise
            # RabbitMQ confirms even what it gives back; py-amqp complains of one that meets a closed channel.
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=within_s)
            channel.close()
            return False
        channel.close()
        return True


def answer_pings(broker_url: str, answer: Callable[[], bytes], stopping: threading.Event) -> None:
    """Answer every ping with what `answer` gives, JSON as bytes, until `stopping` is set; returns soon after.

    Connects again, for ever, to a broker that was away. Pings older than a minute are dropped: nobody waits for them.
    """
    backoff = Backoff()
    while not stopping.is_set():
        connection = connect(broker_url)
        try:
            _serve(connection, answer, stopping, backoff)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            leave_host(connection, error)
            alarm = alarm_of(connection)
            refused = refusal(error if alarm is None else alarm_refusal(alarm))
            get_logger().warning(
                "pings cannot be answered, the broker is away; connecting again"
                if refused is None
                else "pings cannot be answered, the broker refuses; trying again",
                error=refused or f"{type(error).__name__}: {error}",
                delay_s=round(backoff.delay_s, 1),
            )
            backoff.wait(stopping)
        finally:
            disconnect(connection)


def _serve(connection: Connection, answer: Callable[[], bytes], stopping: threading.Event, backoff: Backoff) -> None:
    pings: list[Any] = []

    def receive(message: Any) -> None:
        # Acked before it is answered: who asked will ask again, and a ping must not outlive its minute.
        message.ack()
        pings.append(message)

    # Closed with the connection, as above.
    own = PING_QUEUE if is_redis(connection) else pings_queue()
    consume(open_channel(connection), own, receive, prefetch_messages=PINGS_AT_ONCE).consume()
    older_due = time.monotonic() if own is not PING_QUEUE else float("inf")
    while not stopping.is_set():
        if time.monotonic() >= older_due:
            older_due = float("inf") if _serve_older(connection, receive) else time.monotonic() + _OLDER_AGAIN_S
        with suppress(TimeoutError):
            connection.drain_events(timeout=POLL_S)
        while pings:
            # Taken first: on RabbitMQ more may arrive while an answer waits for its confirmation.
            taken, pings[:] = pings[:], []
            _reply(connection, taken, answer)
        keep_alive(connection)
        backoff.worked()


def _serve_older(connection: Connection, receive: Callable[[Any], None]) -> bool:
    """Consume the queue that older callers ask, too; False where it cannot be had just now."""
    try:
        consume(open_channel(connection), PING_QUEUE, receive, prefetch_messages=PINGS_AT_ONCE).consume()
    except connection.channel_errors as error:
        get_logger().info("pings of older callers are not answered", error=refusal(error) or str(error))
        return False
    return True


def _reply(connection: Connection, pings: list[Any], answer: Callable[[], bytes]) -> None:
    asked = [message for message in pings if _may_be_answered(message) and not _is_old(message)]
    if not asked:
        return
    body = answer()
    for message in asked:
        properties = message.properties
        # A channel for each answer: one whose asker is gone makes the broker refuse it, which may cost the channel.
        channel = open_channel(connection)
        try:
            publish(
                channel,
                body,
                routing_key=properties["reply_to"],
                content_type=JSON_TYPE,
                correlation_id=properties.get("correlation_id"),
            )
        except connection.channel_errors:
            get_logger().info("an answer to a ping was not wanted any more")
        finally:
            if alarm_of(connection) is None:
                channel.close()


def _may_be_answered(message: Any) -> bool:
    """Whether it names a reply queue: an answer must not get into the queue of events, or any other."""
    reply_to = message.properties.get("reply_to")
    if is_reply_queue(reply_to):
        return True
    get_logger().warning(
        "a ping is not answered: its reply_to is no reply queue (caselog.reply.<uuid>, or a name that RabbitMQ gave)",
        reply_to=str(reply_to)[:100],
    )
    return False


def _is_old(message: Any) -> bool:
    """By the clocks of this machine and of the sender (RabbitMQ) or of Redis: they must agree to the minute."""
    sent_s = message.properties.get("timestamp")
    if sent_s is None:
        return False
    age_s = time.time() - (sent_s.timestamp() if hasattr(sent_s, "timestamp") else float(sent_s))
    if age_s > PING_AGE_S:
        get_logger().warning("a ping is too old to be answered; if it is not, compare the clocks", age_s=round(age_s))
        return True
    return False
