"""The queue of events as RabbitMQ has it: used where that is safe, refused where it is not, and always said why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
import redis
from broker_under_test import Broker, CuttableRabbitMq, eventually
from kombu import Queue
from kombu.utils.url import parse_url
from support.processes.patience import DEADLINE_S

from caselog.events.errors import BrokerRefusal, PublishError
from caselog.events.transport import amqp, broker
from caselog.events.transport import publisher as publishing
from caselog.events.transport.events_queue import (
    Standing,
    consume_removed,
    exists,
    open_events,
    reasons_of,
    standing_of,
)
from caselog.events.transport.publisher import Publisher
from caselog.events.transport.refusals import refusal

EVENT = {"type": "case", "subject": "AB-1", "source": "/tests", "data": {"code": "CASE_CREATED"}}


@pytest.fixture
def url(amqp_url: str) -> str:
    return amqp_url


def declare(url: str, **arguments: Any) -> None:
    with broker.connect(url) as connection, broker.open_channel(connection) as channel:
        channel.queue_declare("caselog.events", durable=True, auto_delete=False, arguments=arguments)


def failure_of(url: str, events: int = 1) -> str:
    """What a Publisher says that cannot publish."""
    publisher = Publisher(url, retry_for_s=0.2)
    for _ in range(events):
        publisher.publish(EVENT)
    with pytest.raises(PublishError) as failed:
        publisher.close()
    return str(failed.value)


def test_a_queue_that_caselog_makes_is_safe(url: str) -> None:
    with broker.connect(url) as connection:
        assert standing_of(connection) is None
        _, standing = open_events(connection)
        assert (standing, standing_of(connection)) == (Standing.SAFE, Standing.SAFE)


@pytest.mark.parametrize(
    "arguments",
    [
        broker.FORMER_ARGUMENTS,
        {"x-queue-type": "quorum"},
        {"x-queue-type": "quorum", "x-max-length": 1_000_000, "x-overflow": "reject-publish"},
        {**broker.EVENTS_QUEUE.queue_arguments, "x-dead-letter-routing-key": "elsewhere"},
    ],
    ids=["earlier version", "by hand", "with a limit", "dead letters elsewhere"],
)
def test_a_quorum_queue_of_other_arguments_is_used_as_it_is_and_told_apart(url: str, arguments: dict[str, Any]) -> None:
    declare(url, **arguments)
    with broker.connect(url) as connection:
        assert standing_of(connection) is Standing.UNSAFE
        channel, standing = open_events(connection)
        assert standing is Standing.UNSAFE
        with Publisher(url) as publisher:
            publisher.publish(EVENT)
        assert channel.basic_get("caselog.events", no_ack=True) is not None


@pytest.mark.parametrize("arguments", [{}, {"x-queue-type": "classic"}, {"x-max-length": 7, "x-max-priority": 3}])
def test_a_classic_queue_is_refused_with_what_it_is_and_what_to_do(url: str, arguments: dict[str, Any]) -> None:
    declare(url, **arguments)
    with broker.connect(url) as connection, pytest.raises(BrokerRefusal) as refused:
        open_events(connection)
    for said in (str(refused.value), failure_of(url)):
        assert "caselog.events is a classic queue" in said
        assert "quorum" in said
        assert "caselog move-queue" in said


def test_what_a_live_broker_refuses_is_not_called_away(url: str) -> None:
    """406: the exchange is of another type."""
    with broker.connect(url) as connection, broker.open_channel(connection) as channel:
        channel.exchange_declare("caselog.events", "fanout", durable=True, auto_delete=False)
    said = failure_of(url)
    assert "RabbitMQ refuses: 406" in said
    assert "exchange 'caselog.events'" in said
    assert "list_exchanges" in said


def test_a_queue_that_another_connection_has_for_itself_is_named(url: str) -> None:
    """405."""
    with broker.connect(url) as other, broker.open_channel(other) as channel:
        channel.queue_declare("caselog.events", durable=False, exclusive=True)
        said = failure_of(url)
    assert "RabbitMQ refuses: 405" in said
    assert "list_connections" in said


@pytest.fixture
def stranger(url: str) -> Iterator[Callable[[str, str, str], str]]:
    """The URL of a user of this test's own, with these permissions (configure, write, read) on the virtual host."""
    name, parts = f"caselog-test-{uuid4().hex[:8]}", parse_url(url)

    def control(*arguments: str) -> int:
        done = subprocess.run(
            ["rabbitmqctl", "--quiet", *arguments], capture_output=True, timeout=DEADLINE_S, check=False
        )
        return done.returncode

    def make(configure: str, write: str, read: str) -> str:
        if control("add_user", name, "s3cr3t"):
            pytest.skip("rabbitmqctl cannot make a user (it may want to be run as root)")
        permissions = (configure, write, read)
        assert control("set_permissions", "--vhost", str(parts["virtual_host"]), name, *permissions) == 0
        return f"amqp://{name}:s3cr3t@{parts['hostname']}:{parts['port'] or 5672}/{parts['virtual_host']}"

    yield make
    control("delete_user", name)


def test_who_may_only_publish_publishes_to_a_queue_that_is_there_and_is_told_what_lacks_where_it_is_not(
    url: str, stranger: Callable[[str, str, str], str]
) -> None:
    mine = stranger("^$", r"^caselog\.events$", "^$")
    said = failure_of(mine)
    assert "RabbitMQ refuses: 403" in said
    assert "rabbitmqctl set_permissions" in said
    assert "s3cr3t" not in said
    with broker.connect(url) as connection:
        channel, _ = open_events(connection)
        with Publisher(mine) as publisher:
            publisher.publish(EVENT)
        assert channel.basic_get("caselog.events", no_ack=True) is not None


def test_a_user_who_may_use_no_queue_of_removed_messages_records_from_the_queue_of_events_all_the_same(
    url: str, stranger: Callable[[str, str, str], str]
) -> None:
    """Permissions that were enough for an earlier version: an upgrade stops nothing."""
    with broker.connect(url) as connection:
        open_events(connection)
    with broker.connect(stranger(*[r"^caselog\.events$"] * 3)) as connection:
        channel, standing = open_events(connection)
        assert standing is Standing.SAFE
        taken: list[Any] = []
        events = Queue("caselog.events", no_declare=True)
        with (
            broker.consume(channel, events, taken.append, prefetch_messages=5),
            consume_removed(channel, taken.append, prefetch_messages=5) as look_again,
        ):
            look_again()
            with Publisher(url) as publisher:
                publisher.publish(EVENT)

            def comes() -> bool:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)
                return bool(taken)

            eventually(comes, "the event")
            taken[0].ack()


def test_a_wrong_password_is_named_without_it(url: str) -> None:
    said = failure_of(url.replace("guest:guest", "guest:s3cr3t"))
    assert "CASELOG_BROKER_URL" in said
    assert "password" in said
    assert "s3cr3t" not in said


def test_a_virtual_host_that_is_missing_is_named(url: str) -> None:
    said = failure_of(url.rpartition("/")[0] + "/no-such-host")
    assert "no-such-host" in said
    assert "add_vhost" in said


def test_a_broker_that_is_away_is_not_called_a_refusal(any_broker: Broker) -> None:
    any_broker.server.stop()
    connection = any_broker.connect()
    with pytest.raises(connection.connection_errors) as failed:
        open_events(connection)
    assert refusal(failed.value) is None


def test_a_redis_that_is_full_is_named_with_the_remedy(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    raw_redis.config_set("maxmemory", 1)
    try:
        said = failure_of(redis_broker.url)
    finally:
        raw_redis.config_set("maxmemory", 0)
    assert "Redis refuses" in said
    assert "maxmemory" in said


def test_a_key_of_another_kind_is_named(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    raw_redis.set("caselog.events", "not a stream")
    said = failure_of(redis_broker.url)
    assert "Redis refuses" in said
    assert "a database of caselog's own" in said


def test_the_reasons_of_a_removal_are_read_from_what_anybody_may_have_sent() -> None:
    """RabbitMQ lists the latest removal first; a sender may write anything there."""
    deaths = [{"reason": "maxlen", "queue": "b"}, {"reason": "expired", "queue": "a"}]
    assert reasons_of({"x-death": deaths}) == ["expired", "maxlen"]
    for odd in ({}, {"x-death": None}, {"x-death": "expired"}, {"x-death": 7}, {"x-death": [7, None]}):
        assert reasons_of(odd) == []


def test_no_event_gets_lost_when_the_wire_is_cut_while_the_queue_is_opened(rabbitmq: CuttableRabbitMq) -> None:
    """The Publisher opens it anew, whatever it found before."""
    under_test = Broker("rabbitmq", rabbitmq)
    with broker.connect(rabbitmq.url) as connection:
        channel, _ = open_events(connection)
        channel.queue_purge("caselog.events")
    with Publisher(rabbitmq.url, batch_events=1) as publisher:
        for number in range(4):
            publisher.publish({**EVENT, "id": str(number)}).result(DEADLINE_S)
            rabbitmq.stop()
            rabbitmq.start()
    eventually(lambda: under_test.status(with_age=False).ready >= 4, "all are there")
    with broker.connect(rabbitmq.url) as connection:
        channel = broker.open_channel(connection)
        ids = set()
        while (message := channel.basic_get("caselog.events", no_ack=True)) is not None:
            ids.add(json.loads(message.body)["id"])
    assert ids == {"0", "1", "2", "3"}
    under_test.close()


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(open_events, id="open"),
        pytest.param(lambda connection: exists(connection, "caselog.events"), id="look"),
        pytest.param(lambda connection: broker.queue_status(connection, "caselog.events"), id="count"),
    ],
)
def test_whoever_asks_on_a_wire_that_fell_silent_is_told_so(
    rabbitmq: CuttableRabbitMq, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Any], Any]
) -> None:
    """Nothing comes back, no reset either: it is an error of the connection, as when it is cut."""
    with broker.connect(rabbitmq.url) as connection:
        open_events(connection)
        rabbitmq.is_silent = True
        monkeypatch.setattr(amqp, "ANSWER_TIMEOUT_S", 0.3)
        with pytest.raises(connection.connection_errors) as silent:
            ask(connection)
        assert isinstance(silent.value, TimeoutError)


def test_a_publisher_whose_wire_falls_silent_while_it_connects_goes_on_with_another(
    rabbitmq: CuttableRabbitMq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stands, the queue is asked for, and the answer never comes."""
    asked: list[Any] = []

    def open_silently(connection: Any) -> Any:
        rabbitmq.is_silent = False
        connection.ensure_connection(max_retries=0)
        rabbitmq.is_silent = not asked
        monkeypatch.setattr(amqp, "ANSWER_TIMEOUT_S", DEADLINE_S if asked else 0.3)
        asked.append(connection)
        return open_events(connection)

    monkeypatch.setattr(publishing, "open_events", open_silently)
    with Publisher(rabbitmq.url) as publisher:
        publisher.publish(EVENT).result(DEADLINE_S)
    assert len(asked) > 1
