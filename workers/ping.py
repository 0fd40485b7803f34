"""Pings through the broker: `caselog ping` asks, the status worker answers (DESIGN.md, "Command line").

A ping is a message to the queue `caselog.ping` with `reply_to` and `correlation_id`; the answer is JSON. That it
arrives proves more than a page over HTTP: the broker carries messages both ways.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import msgspec
from kombu import Connection

from events.broker import PING_AGE_S, PING_QUEUE, connect, consume, keep_alive, publish, reply_queue
from events.errors import CaselogError
from workers.logs import get_logger

POLL_S: Final = 0.5
FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 5.0
# Pings that piled up are answered together, with one look at the parts of the pipeline.
PINGS_AT_ONCE: Final = 100
JSON_TYPE: Final = "application/json"


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
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        return _ask(connection, timeout_s)
    except (*connection.connection_errors, *connection.channel_errors) as error:
        raise PingFailed(
            f"the broker does not carry pings ({type(error).__name__}: {error}). "
            "Check that it runs, and CASELOG_BROKER_URL"
        ) from error
    finally:
        _close(connection)


def _ask(connection: Connection, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    correlation_id = str(uuid4())
    answers: list[bytes] = []

    def receive(message: Any) -> None:
        message.ack()
        if message.properties.get("correlation_id") == correlation_id:
            answers.append(message.body)

    replies = reply_queue()
    with connection.channel() as channel, consume(channel, replies, receive, prefetch_messages=1):
        # The broker keeps it for a status worker that starts within the minute.
        PING_QUEUE(channel).declare()
        publish(
            channel,
            b"{}",
            routing_key=PING_QUEUE.name,
            content_type=JSON_TYPE,
            reply_to=replies.name,
            correlation_id=correlation_id,
        )
        while not answers:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise PingFailed(
                    f"no status worker answered within {timeout_s:g} s. Is one running? Start it with: "
                    "caselog worker status"
                )
            try:
                connection.drain_events(timeout=min(left_s, POLL_S))
            except TimeoutError:
                continue
    try:
        return msgspec.json.decode(answers[0], type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise PingFailed(f"the answer is no JSON object ({error}): does the status worker run this version?") from error


def answer_pings(broker_url: str, answer: Callable[[], bytes], stopping: threading.Event) -> None:
    """Answer every ping with what `answer` gives, JSON as bytes, until `stopping` is set; returns soon after.

    Connects again, for ever, to a broker that was away. Pings older than a minute are dropped: nobody waits for them.
    """
    delay_s = FIRST_DELAY_S
    while not stopping.is_set():
        connection = connect(broker_url)
        try:
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            delay_s = FIRST_DELAY_S
            _serve(connection, answer, stopping)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            get_logger().warning(
                "pings cannot be answered, the broker is away; connecting again",
                error=f"{type(error).__name__}: {error}",
                delay_s=round(delay_s, 1),
            )
            stopping.wait(delay_s * random.uniform(0.5, 1))  # noqa: S311 - spreads reconnections, no secret
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)
        finally:
            _close(connection)


def _serve(connection: Connection, answer: Callable[[], bytes], stopping: threading.Event) -> None:
    pings: list[Any] = []

    def receive(message: Any) -> None:
        # Acked before it is answered: who asked will ask again, and a ping must not outlive its minute.
        message.ack()
        pings.append(message)

    with connection.channel() as channel, consume(channel, PING_QUEUE, receive, prefetch_messages=PINGS_AT_ONCE):
        while not stopping.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=POLL_S)
            while pings:
                # Taken first: on RabbitMQ more may arrive while an answer waits for its confirmation.
                taken, pings[:] = pings[:], []
                _reply(connection, taken, answer)
            keep_alive(connection)


def _reply(connection: Connection, pings: list[Any], answer: Callable[[], bytes]) -> None:
    asked = [message for message in pings if message.properties.get("reply_to") and not _is_old(message)]
    if not asked:
        return
    body = answer()
    for message in asked:
        properties = message.properties
        # A channel for each answer: one whose asker is gone makes the broker refuse it, which may cost the channel.
        channel = connection.channel()
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
            channel.close()


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


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except (*connection.connection_errors, *connection.channel_errors):
        return  # it is gone already, and its temporary queues with it
