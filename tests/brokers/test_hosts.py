"""A list of RabbitMQ's nodes: the next one after a failure, and the good one first from then on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic
from urllib.parse import urlsplit

import msgspec
import pytest
from broker_under_test import CuttableRabbitMq, eventually
from support.processes.patience import DEADLINE_S, allowance_s
from support.servers.dead_ports import Silent, in_turn, refusing

from caselog.events.errors import PublishError
from caselog.events.transport.broker import EVENTS_QUEUE, PING_QUEUE, connect, is_redis, open_channel, queue_status
from caselog.events.transport.hosts import hosts_of
from caselog.events.transport.publisher import Publisher
from caselog.events.transport.refusals import refusal
from caselog.events.transport.urls import AMQP_SCHEMES, read_urls
from caselog.workers.health.ping import answer_pings, ping

EVENT = {"type": "case", "subject": "AB-1", "source": "/tests", "data": {"code": "CASE_CREATED"}}
WELL = {"checks": {"*": {"status": True}}}


@pytest.fixture
def dead() -> Iterator[list[int]]:
    with ExitStack() as stack:
        yield [stack.enter_context(refusing()) for _ in range(2)]


@pytest.fixture
def second(amqp_virtual_host: str, rabbitmq: CuttableRabbitMq) -> Iterator[CuttableRabbitMq]:
    """Another way to the same RabbitMQ, as another node of a cluster would be."""
    rabbitmq.start()
    with connect(amqp_virtual_host) as connection, open_channel(connection) as channel:
        for queue in (EVENTS_QUEUE, PING_QUEUE):
            queue(channel).delete()
    wire = CuttableRabbitMq(amqp_virtual_host)
    yield wire
    wire.close()
    rabbitmq.start()


def at_port(url: str, port: int) -> str:
    """The same, with a user of its own, at another port."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"other:secret@127.0.0.1:{port}").geturl()


def first_of(urls: str) -> int:
    """The port of the node with which this process would begin."""
    return int(hosts_of(read_urls(urls, AMQP_SCHEMES)).in_order()[0].hosts[0][1])


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "in the middle", "last"])
def test_with_two_of_three_ports_dead_all_goes_through_the_third(amqp_url: str, dead: list[int], position: int) -> None:
    urls = ";".join(in_turn(amqp_url, [at_port(amqp_url, port) for port in dead])[position])
    with Publisher(urls) as publisher:
        publisher.publish(EVENT).result(10)
    with connect(urls) as connection:
        assert queue_status(connection, "caselog.events").ready == 1
        assert not is_redis(connection)
    stopping = threading.Event()
    worker = threading.Thread(target=answer_pings, args=(urls, lambda: msgspec.json.encode(WELL), stopping))
    worker.start()
    try:
        assert ping(urls, 30) == WELL
    finally:
        stopping.set()
        worker.join(20)
    assert first_of(urls) == urlsplit(amqp_url).port


def test_a_silent_node_costs_its_time_out_once_and_the_good_one_is_remembered(amqp_url: str) -> None:
    with Silent() as silent:
        urls = f"{at_port(amqp_url, silent.port)}?connect_timeout=1;{amqp_url}"
        began_s = monotonic()
        for _ in range(3):
            with connect(urls) as connection:
                assert queue_status(connection, "caselog.events").ready == 0
        assert monotonic() - began_s < allowance_s(1.5)
        assert silent.calls == 1


def test_after_a_cut_the_publisher_goes_on_with_the_next_node_and_all_others_of_the_process_too(
    rabbitmq: CuttableRabbitMq, second: CuttableRabbitMq
) -> None:
    urls = f"{rabbitmq.url};{second.url}"
    with Publisher(urls) as publisher:
        publisher.publish(EVENT).result(10)
        assert first_of(urls) == urlsplit(rabbitmq.url).port
        rabbitmq.stop()
        publisher.publish(EVENT).result(10)
        assert first_of(urls) == urlsplit(second.url).port
        rabbitmq.start()
        publisher.publish(EVENT).result(10)
        second.stop()
        publisher.publish(EVENT).result(10)
        assert first_of(urls) == urlsplit(rabbitmq.url).port
    with connect(urls) as connection:
        # What was under way in a cut may have been taken before it: then it is there twice, with one id.
        assert queue_status(connection, "caselog.events").ready >= 4


def test_who_is_cut_off_while_it_works_begins_with_the_next_node(
    rabbitmq: CuttableRabbitMq, second: CuttableRabbitMq
) -> None:
    """A node may take each connection and serve none of them: then the first one must not be the first for ever."""
    urls = f"{rabbitmq.url};{second.url}"

    def cut_off() -> None:
        with connect(urls) as connection:
            channel = open_channel(connection)
            assert first_of(urls) == urlsplit(rabbitmq.url).port
            rabbitmq.stop()
            channel.queue_declare("caselog.events", passive=True)

    with pytest.raises(OSError, match=r"."):
        cut_off()
    assert first_of(urls) == urlsplit(second.url).port


def test_a_node_that_refuses_is_passed_over_and_told_where_no_other_takes_us(amqp_url: str, dead: list[int]) -> None:
    refuses = at_port(amqp_url, urlsplit(amqp_url).port or 0)
    with connect(f"{refuses};{amqp_url}") as connection:
        open_channel(connection)
    urls = f"{at_port(amqp_url, dead[0])};{refuses};{at_port(amqp_url, dead[1])}"
    with connect(urls) as connection, pytest.raises(connection.channel_errors) as refused:
        open_channel(connection)
    said = str(refusal(refused.value))
    assert "check the user and the password of CASELOG_BROKER_URL" in said
    place = f"127.0.0.1:{urlsplit(amqp_url).port}"
    assert f"It is URL 2 of 3, {place} that says so. Of the others, URL 1 of 3, 127.0.0.1:{dead[0]}: " in said
    assert f"URL 3 of 3, 127.0.0.1:{dead[1]}: " in said
    assert said.count("refused") > 2, "each says why"
    assert "secret" not in said


def test_where_all_are_silent_a_publisher_that_was_never_connected_gives_up_in_its_time_and_keeps_the_events() -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(Silent()) for _ in range(3)]
        urls = ";".join(f"amqp://anna:secret@127.0.0.1:{one.port}?connect_timeout=1" for one in silent)
        began_s = monotonic()
        publisher = Publisher(urls, reach_for_s=4)
        publisher.publish(EVENT)
        with pytest.raises(PublishError, match="within 4 s") as away:
            publisher.close()
        assert monotonic() - began_s < allowance_s(5)
        assert all(one.calls for one in silent)
    assert all(f"URL {number} of 3, 127.0.0.1:{one.port}: " in str(away.value) for number, one in enumerate(silent, 1))
    assert len(away.value.unsent) == 1
    assert "secret" not in str(away.value)


def test_a_publisher_that_was_connected_tries_for_longer(rabbitmq: CuttableRabbitMq, second: CuttableRabbitMq) -> None:
    second.stop()
    with Publisher(f"{rabbitmq.url};{second.url}", reach_for_s=0) as publisher:
        publisher.publish(EVENT).result(DEADLINE_S)
        rabbitmq.stop()
        later = publisher.publish(EVENT)
        with pytest.raises(TimeoutError):
            later.result(1)
        second.start()
        later.result(DEADLINE_S)


def test_where_all_are_away_each_is_named_without_its_password(amqp_url: str, dead: list[int]) -> None:
    urls = ";".join(at_port(amqp_url, port) for port in dead)
    with connect(urls) as connection, pytest.raises(ConnectionError) as away:
        open_channel(connection)
    eventually(lambda: all(f"127.0.0.1:{port}: " in str(away.value) for port in dead), "each is named")
    assert "secret" not in str(away.value)


def test_an_alarm_is_still_heard_on_the_node_that_was_found_last(amqp_url: str, dead: list[int]) -> None:
    """Kombu's own lists of hosts would go on with a transport that knows nothing of alarms."""
    with connect(f"{at_port(amqp_url, dead[0])};{amqp_url}") as connection:
        open_channel(connection)
        driver = connection.connection
        driver._on_blocked("low on memory")  # noqa: SLF001 - what py-amqp calls when RabbitMQ says so
        assert connection.alarm == "low on memory"
