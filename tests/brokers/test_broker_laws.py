"""What every broker owes the recorder, whichever it is."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

import msgspec
import pytest
from broker_under_test import Broker, eventually
from kombu.message import Message
from support.processes.patience import allowance_s

from caselog.events.transport import broker

BODIES = [json.dumps({"number": number}).encode() for number in range(20)]


def bodies(messages: list[Message]) -> list[bytes]:
    return [message.body for message in messages]


def test_what_is_published_is_delivered_once_and_in_order(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    connection = any_broker.connect()
    taken = any_broker.take(connection, len(BODIES))
    assert bodies(taken) == BODIES
    assert any_broker.is_silent(connection)


def test_an_acked_message_never_comes_back(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    first = any_broker.connect()
    for message in any_broker.take(first, len(BODIES))[::2]:
        message.ack()
    first.release()
    second = any_broker.connect()
    taken = any_broker.take(second, 10)
    assert bodies(taken) == BODIES[1::2]
    taken[-1].ack(multiple=True)
    second.release()
    third = any_broker.connect()
    any_broker.take(third, 0)
    assert any_broker.is_silent(third)


def test_acking_multiple_acks_all_up_to_that_message_and_none_behind_it(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    first = any_broker.connect()
    any_broker.take(first, len(BODIES))[14].ack(multiple=True)
    first.release()
    assert bodies(any_broker.take(any_broker.connect(), 5)) == BODIES[15:]


def test_what_a_consumer_held_when_it_closed_goes_to_others_at_once(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    first, second = any_broker.connect(), any_broker.connect()
    any_broker.take(first, len(BODIES))
    others = any_broker.take(second, 0)
    assert any_broker.is_silent(second)
    first.release()
    asked_s = monotonic()
    any_broker.drain(second, lambda: len(others) == len(BODIES))
    assert monotonic() - asked_s < allowance_s(5), "sooner than any lease of 10 s"
    assert sorted(bodies(others)) == sorted(BODIES)
    assert all(message.delivery_info["redelivered"] for message in others)


def test_what_a_killed_consumer_held_goes_to_others(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    with any_broker.holder(lease_ms=500, count=len(BODIES)) as holder:
        holder.kill()
    taken = any_broker.take(any_broker.connect(lease_ms=500), len(BODIES))
    assert sorted(bodies(taken)) == sorted(BODIES)


def test_at_most_the_prefetched_messages_are_held(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    connection = any_broker.connect()
    taken = any_broker.take(connection, 7, prefetch=7)
    assert any_broker.is_silent(connection)
    assert bodies(taken) == BODIES[:7]
    taken[2].ack(multiple=True)
    any_broker.drain(connection, lambda: len(taken) == 10)
    assert any_broker.is_silent(connection)
    assert bodies(taken) == BODIES[:10]


def test_a_requeued_message_comes_back_and_a_rejected_one_does_not(any_broker: Broker) -> None:
    any_broker.send(*BODIES[:2])
    connection = any_broker.connect()
    taken = any_broker.take(connection, 2)
    taken[0].reject()
    taken[1].requeue()
    any_broker.drain(connection, lambda: len(taken) == 3)
    assert taken[2].body == BODIES[1]
    assert any_broker.is_silent(connection)
    connection.release()
    another = any_broker.connect()
    assert bodies(any_broker.take(another, 1)) == [BODIES[1]]
    assert any_broker.is_silent(another)


def test_how_many_messages_a_consumer_holds_can_be_changed_and_it_keeps_those_it_holds(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    connection = any_broker.connect()
    taken: list[Any] = []
    channel = broker.open_channel(connection)
    consumer = broker.consume(channel, broker.EVENTS_QUEUE, taken.append, prefetch_messages=2)
    consumer.consume()
    any_broker.drain(connection, lambda: len(taken) == 2)
    assert any_broker.is_silent(connection)
    taken[-1].ack(multiple=True)
    broker.limit_prefetch(consumer, 7)
    any_broker.drain(connection, lambda: any_broker.is_silent(connection))
    assert 9 <= len(taken) <= 11  # 2 acked and 7 held, and on RabbitMQ perhaps 2 that came before it changed
    broker.limit_prefetch(consumer, 3)
    acked = len(taken)
    taken[-1].ack(multiple=True)
    any_broker.drain(connection, lambda: any_broker.is_silent(connection))
    assert acked + 3 <= len(taken) <= acked + 6
    assert bodies(taken) == BODIES[: len(taken)]
    eventually(lambda: any_broker.status(with_age=False).consumers == 1, "it is one consumer all the same")


def test_the_status_counts_ready_unacked_consumers_and_age(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    connection = any_broker.connect()
    taken = any_broker.take(connection, 5, prefetch=5)
    is_redis = any_broker.name == "redis"
    # Who looked at RabbitMQ's first message is a consumer for an instant: so no age while waiting.
    eventually(lambda: any_broker.status(with_age=False).ready == 15, "15 of 20 messages are ready")
    status = any_broker.status()
    assert (status.queue, status.unacked, status.consumers) == ("caselog.events", 5 if is_redis else None, 1)
    assert status.oldest_age_s is not None
    assert 0 <= status.oldest_age_s < 10
    taken[4].ack(multiple=True)
    any_broker.drain(connection, lambda: len(taken) == 10)
    eventually(lambda: any_broker.status().ready == 10, "10 of 20 messages are ready")
    connection.release()
    eventually(lambda: any_broker.status().ready == 15, "what was held is ready again")
    eventually(lambda: any_broker.status().consumers == 0, "the consumer is gone")


def test_the_status_of_no_queue_and_of_an_empty_one_is_zero(any_broker: Broker) -> None:
    nothing = broker.QueueStatus("caselog.events", 0, 0 if any_broker.name == "redis" else None, None, 0)
    assert any_broker.status() == nothing
    any_broker.send()
    status = any_broker.status()
    assert not status.arrived  # older Redis and RabbitMQ do not tell
    assert msgspec.structs.replace(status, arrived=None) == nothing


def test_waiting_for_messages_ends_on_time(any_broker: Broker) -> None:
    connection = any_broker.connect()
    any_broker.take(connection, 0)
    begun_s = monotonic()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)
    assert 0.25 < monotonic() - begun_s < allowance_s(5)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)


def test_publishing_where_no_queue_would_get_it_is_an_error(any_broker: Broker) -> None:
    connection = any_broker.connect()
    channel = broker.open_channel(connection)
    broker.EVENTS_EXCHANGE(channel).declare()
    with pytest.raises(connection.channel_errors):
        broker.publish(channel, b"{}", exchange="caselog.events", routing_key="event.x", content_type="text/plain")
    channel = broker.open_channel(connection)
    with pytest.raises(connection.channel_errors):
        broker.publish(channel, b"{}", routing_key="caselog.no-such-queue", content_type="text/plain")


def test_a_question_is_answered_and_the_reply_queue_vanishes(any_broker: Broker) -> None:
    asker, answerer = any_broker.connect(), any_broker.connect()
    replies = broker.reply_queue()
    answers = any_broker.take(asker, 0, queue=replies)
    questions = any_broker.take(answerer, 0, queue=broker.PING_QUEUE)
    asking = broker.open_channel(asker)
    ping = {"content_type": "application/json", "reply_to": replies.name, "correlation_id": "42"}
    broker.publish(asking, b"ping", routing_key="caselog.ping", **ping)
    any_broker.drain(answerer, lambda: questions)
    question = questions[0]
    assert question.properties["reply_to"] == replies.name
    reply: dict[str, Any] = {"content_type": "application/json", "routing_key": replies.name}
    broker.publish(broker.open_channel(answerer), b"pong", correlation_id="42", **reply)
    question.ack()
    any_broker.drain(asker, lambda: answers)
    assert (answers[0].body, answers[0].properties["correlation_id"]) == (b"pong", "42")
    asker.release()
    eventually(lambda: broker.queue_status(answerer, replies.name).consumers == 0, "the asker is gone")
    with pytest.raises(answerer.channel_errors):
        broker.publish(broker.open_channel(answerer), b"late", **reply)


def test_a_body_arrives_as_bytes_whatever_the_sender_claims_of_it(any_broker: Broker) -> None:
    any_broker.send()
    connection = any_broker.connect()
    channel = broker.open_channel(connection)
    body = '{"notes": "\N{SNOWMAN}"}'.encode()
    broker.EVENTS_QUEUE(channel).declare()
    for encoding, headers in (("utf-8", {}), ("no-such", {}), (None, {}), ("binary", {"compression": "no-such"})):
        message = channel.prepare_message(body, content_type="x/y", content_encoding=encoding, headers=headers)
        channel.basic_publish(message, exchange="caselog.events", routing_key="event.x")
    assert bodies(any_broker.take(connection, 4)) == [body] * 4


def test_a_consumer_that_keeps_alive_keeps_what_it_holds(any_broker: Broker) -> None:
    any_broker.send(*BODIES)
    first, second = any_broker.connect(lease_ms=400), any_broker.connect(lease_ms=400)
    any_broker.take(first, len(BODIES))
    others = any_broker.take(second, 0)
    until_s = monotonic() + 1.5
    while monotonic() < until_s:
        broker.keep_alive(first)
        assert any_broker.is_silent(second, 0.05)
    assert others == []


def test_a_mark_is_reached_when_all_below_it_is_acked(any_broker: Broker) -> None:
    any_broker.send(*BODIES[:10])
    connection = any_broker.connect()
    mark = broker.high_water(connection, "caselog.events")
    if mark is None:
        assert any_broker.name == "rabbitmq"
        return
    any_broker.send(*BODIES[10:])
    taken = any_broker.take(connection, 20)
    taken[8].ack(multiple=True)
    assert not broker.is_handled(connection, "caselog.events", mark)
    taken[9].ack()
    assert broker.is_handled(connection, "caselog.events", mark)
