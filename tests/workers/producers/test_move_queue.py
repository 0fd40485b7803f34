"""`caselog move-queue`: the queue of events on RabbitMQ is made anew, and no event is lost, whatever comes between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Queue

from caselog.events.transport import broker
from caselog.events.transport.events_queue import MOVING, Standing, exists, open_events, standing_of
from caselog.events.transport.publisher import Publisher
from caselog.workers.producers import move_queue as moving_queue
from caselog.workers.producers.move_queue import Moved, NotMoved, move_queue

BEFORE = 50
KINDS = {"earlier version": broker.FORMER_ARGUMENTS, "classic": {}, "by hand": {"x-queue-type": "quorum"}}


def publish(url: str, *numbers: int) -> None:
    """As a sender does it that has no library of ours: to the exchange, whatever queue is behind it."""
    with broker.connect(url) as connection, broker.open_channel(connection) as channel:
        for number in numbers:
            body = json.dumps({"id": str(number)}).encode()
            broker.publish(
                channel, body, exchange="caselog.events", routing_key="event.x", content_type="application/json"
            )


@pytest.fixture(params=KINDS)
def old_queue(amqp_url: str, request: pytest.FixtureRequest) -> str:
    """The broker's URL: the queue of events is there as caselog does not make it, with messages in it."""
    with broker.connect(amqp_url) as connection, broker.open_channel(connection) as channel:
        broker.EVENTS_EXCHANGE(channel).declare()
        channel.queue_declare("caselog.events", durable=True, auto_delete=False, arguments=KINDS[request.param])
        channel.queue_bind("caselog.events", "caselog.events", "event.#")
    publish(amqp_url, *range(BEFORE))
    return amqp_url


def numbers_in(url: str) -> set[int]:
    """What is in the queue of events, which is safe, alone and empty afterwards."""
    found = set()
    with broker.connect(url) as connection:
        assert standing_of(connection) is Standing.SAFE
        assert not exists(connection, MOVING)
        channel = broker.open_channel(connection)
        while (message := channel.basic_get("caselog.events", no_ack=True)) is not None:
            found.add(int(json.loads(message.body)["id"]))
            assert message.properties["delivery_mode"] == 2
            assert message.properties["timestamp"]
    return found


def test_all_that_waits_is_in_the_new_queue_and_a_second_move_has_nothing_to_do(old_queue: str) -> None:
    assert move_queue(old_queue, 5) == Moved(BEFORE)
    assert move_queue(old_queue, 5) == Moved(None)
    publish(old_queue, BEFORE)
    assert numbers_in(old_queue) == set(range(BEFORE + 1))


def test_publishers_go_on_while_it_is_moved_and_lose_nothing(old_queue: str) -> None:
    ended, sent = threading.Event(), BEFORE
    failures: list[BaseException] = []

    def go_on() -> None:
        nonlocal sent
        try:
            while not ended.is_set():
                publish(old_queue, sent)
                sent += 1
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert move_queue(old_queue, 5).messages
    finally:
        ended.set()
        thread.join()
    assert failures == []
    assert sent > BEFORE
    assert numbers_in(old_queue) == set(range(sent))


# Before it is unbound, while it is emptied, before it is deleted, made anew, bound, filled, and the other one deleted.
@pytest.mark.parametrize("at", [1, 2, 30, 52, 53, 54, 80, 105])
def test_broken_off_anywhere_it_is_ended_by_another_run(
    old_queue: str, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The connection is lost before the n-th of the steps that take something away; events come meanwhile."""
    steps = 0
    connect: Callable[..., Any] = broker.connect

    def counting(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        original = connection.channel

        def channel() -> Any:
            one = original()
            for name in ("queue_unbind", "queue_delete", "queue_bind", "basic_ack"):
                setattr(one, name, breaking(getattr(one, name)))
            return one

        connection.channel = channel
        return connection

    def breaking(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == at:
                raise ConnectionResetError("the connection is lost")
            return step(*arguments, **options)

        return run

    monkeypatch.setattr(moving_queue, "connect", counting)
    try:
        with pytest.raises(ConnectionResetError):
            move_queue(old_queue, 5)
    finally:
        monkeypatch.undo()
    publish(old_queue, BEFORE)
    assert move_queue(old_queue, 5).messages is not None
    assert numbers_in(old_queue) == set(range(BEFORE + 1))


@pytest.mark.usefixtures("former_queue")
def test_it_refuses_while_a_recorder_consumes(amqp_url: str) -> None:
    with broker.connect(amqp_url) as connection:
        channel, standing = open_events(connection)
        assert standing is Standing.UNSAFE
        events = Queue("caselog.events", no_declare=True)
        with (
            broker.consume(channel, events, lambda _: None, prefetch_messages=1),
            pytest.raises(NotMoved, match="caselog pause"),
        ):
            move_queue(amqp_url, 0.3)
        assert standing_of(connection) is Standing.UNSAFE
    assert move_queue(amqp_url, 5) == Moved(0)


def test_where_all_is_right_nothing_is_moved(amqp_url: str) -> None:
    assert move_queue(amqp_url, 0) == Moved(None)
    with Publisher(amqp_url) as publisher:
        publisher.publish(
            {"type": "case", "subject": "AB-7", "source": "/tests", "id": "7", "data": {"code": "CASE_CREATED"}}
        )
    assert move_queue(amqp_url, 0) == Moved(None)
    assert numbers_in(amqp_url) == {7}


def test_on_redis_there_is_nothing_to_move(redis_url: str) -> None:
    with pytest.raises(NotMoved, match="Redis"):
        move_queue(redis_url, 0)
