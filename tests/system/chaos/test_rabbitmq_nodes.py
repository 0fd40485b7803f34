"""RabbitMQ nodes of the tests' own: an alarm is named to whom it holds up, and a ping needs no node but its own."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
from brokers.broker_under_test import missing
from rabbitmq import Node, find_programs
from support.processes.pipeline import eventually

from caselog.events.errors import PublishError
from caselog.events.transport.broker import PING_QUEUE, connect, open_channel, queue_status
from caselog.events.transport.publisher import Publisher
from caselog.workers.health.broker_checks import AlarmWatch
from caselog.workers.health.ping import PingFailed, answer_pings, ping

EVENT = {"type": "case", "subject": "AB-1", "source": "/tests", "data": {"code": "CASE_CREATED"}}
WELL = {"checks": {"*": {"status": True}}}


@pytest.fixture
def start_nodes() -> Iterator[Callable[[int], list[Node]]]:
    programs = find_programs()
    if programs is None:
        missing("there is no rabbitmq-server to start")
    directory = Path(tempfile.mkdtemp(prefix="caselog-nodes-", dir="/tmp"))
    nodes: list[Node] = []

    def start(count: int) -> list[Node]:
        for number in range(count):
            nodes.append(Node(programs, directory / str(number), beside=nodes[0] if nodes else None))
            nodes[-1].start()
            nodes[-1].wait_until_ready()
        for node in nodes[1:]:
            node.join(nodes[0])
        return nodes

    yield start
    for node in reversed(nodes):
        node.close()
    shutil.rmtree(directory, ignore_errors=True)


def url_of(node: Node) -> str:
    return f"amqp://guest:guest@127.0.0.1:{node.port}/caselog"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_alarm_is_named_to_whom_it_holds_up_and_ends_by_itself(start_nodes: Callable[[int], list[Node]]) -> None:
    (node,) = start_nodes(1)
    url, watch = url_of(node), AlarmWatch(url_of(node))
    assert watch.alarm() is None
    with Publisher(url) as publisher:
        publisher.publish(EVENT)
    assert node.control("set_vm_memory_high_watermark", "absolute", "1")
    eventually(lambda: "low on memory" in str(watch.alarm()), "the alarm is seen")
    assert "low on memory" in str(watch.alarm()), "also by the connection that it holds up"
    with connect(url) as connection:
        before = _connections(node)
        assert watch.alarm()
        assert _connections(node) == before, "who looks again adds no connection"
        assert queue_status(connection, "caselog.events").ready == 1

    publisher = Publisher(url, retry_for_s=1)
    future = publisher.publish(EVENT)
    with pytest.raises(PublishError, match="low on memory"):
        publisher.flush()
    assert "alarm" in str(future.exception())
    publisher.publish(EVENT)
    with pytest.raises(PublishError, match="diagnostics alarms"):
        publisher.flush()
    asked_s = monotonic()
    with pytest.raises(PingFailed, match="low on memory"):
        ping(url, 2)
    assert monotonic() - asked_s < 30, "and no goodbye is waited for"

    lasting = Publisher(url, retry_for_s=120)
    waiting = lasting.publish(EVENT)
    assert node.control("set_vm_memory_high_watermark", "0.6")
    assert waiting.result(60) is None
    publisher.publish(EVENT)
    publisher.close()
    lasting.close()
    eventually(lambda: watch.alarm() is None, "the alarm is over")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_any_one_of_three_nodes_down_a_ping_is_answered(start_nodes: Callable[[int], list[Node]]) -> None:
    """Also with the one on which the queue lies that earlier callers and workers share."""
    first, second, third = start_nodes(3)
    with connect(url_of(third)) as connection:
        PING_QUEUE(open_channel(connection)).declare()  # on the node that is stopped
    stopping = threading.Event()

    def answer() -> bytes:
        return msgspec.json.encode(WELL)

    workers = [threading.Thread(target=answer_pings, args=(url_of(node), answer, stopping)) for node in (first, second)]
    for worker in workers:
        worker.start()
    try:
        _until_answered(url_of(first))
        third.stop()
        for node in (first, second):
            _until_answered(url_of(node))
            with Publisher(url_of(node)) as publisher:
                publisher.publish(EVENT)
    finally:
        stopping.set()
        for worker in workers:
            worker.join(20)
    assert not any(worker.is_alive() for worker in workers)


def _until_answered(url: str) -> None:
    eventually(lambda: _answer(url) == WELL, "a ping is answered")


def _answer(url: str) -> dict[str, Any] | None:
    try:
        return ping(url, 5)
    except PingFailed:
        return None


def _connections(node: Node) -> int:
    with connect(url_of(node)) as connection:
        connection.connect()
        return len(node.control.output("list_connections", "pid").splitlines())
