"""Fixtures: an own Redis, and an own virtual host of a RabbitMQ behind a wire that can be cut."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from broker_under_test import Broker, CuttableRabbitMq, RedisServer

from caselog.events.transport import broker


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="caselog-", dir="/tmp") as directory:  # a socket's path is short
        server = RedisServer(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def rabbitmq(amqp_virtual_host: str) -> Iterator[CuttableRabbitMq]:
    wire = CuttableRabbitMq(amqp_virtual_host)
    yield wire
    wire.close()


@pytest.fixture(params=["redis", "rabbitmq"])
def any_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Each broker in turn, running and empty."""
    server = request.getfixturevalue("redis_server" if request.param == "redis" else "rabbitmq")
    yield from _running(Broker(request.param, server))


@pytest.fixture
def redis_broker(redis_server: RedisServer) -> Iterator[Broker]:
    yield from _running(Broker("redis", redis_server))


@pytest.fixture
def raw_redis(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


def _running(under_test: Broker) -> Iterator[Broker]:
    under_test.server.start()
    connection = under_test.connect()
    if broker.is_redis(connection):
        broker.open_channel(connection).consumer._redis.flushdb()  # noqa: SLF001 - there is no other way to its client
    else:
        for queue in (broker.EVENTS_QUEUE, broker.REMOVED_QUEUE, broker.HELD_QUEUE, broker.PING_QUEUE):
            queue(broker.open_channel(connection)).delete()
    yield under_test
    under_test.close()
    under_test.server.start()
