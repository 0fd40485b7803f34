"""What holds on Redis beside the laws of every broker: foreign entries, leases, consumers, lost data, URLs."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from broker_under_test import Broker, eventually
from kombu import Queue
from support.processes.patience import DEADLINE_S, allowance_s

from caselog.events.model.message import BATCH_TYPE, EVENT_TYPE, Event, Malformed, decode
from caselog.events.streams.queue import GROUP, RELEASED, StreamConsumer
from caselog.events.transport import broker

QUEUE = "caselog.events"
EVENT = b'{"specversion":"1.0","id":"1","source":"/s","type":"a","subject":"c","time":"2026-01-01T00:00:00Z"}'


def names(raw_redis: redis.Redis) -> list[str]:
    found: Any = raw_redis.xinfo_consumers(QUEUE, GROUP)
    return [consumer["name"].decode() for consumer in found]


def test_what_any_client_adds_is_as_good_as_one_of_ours(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    raw_redis.xadd(QUEUE, {"event": EVENT})  # before there is a group: it will be delivered all the same
    connection = redis_broker.connect()
    taken = redis_broker.take(connection, 1)
    raw_redis.xadd(QUEUE, {"event": b"  [" + EVENT + b"," + EVENT + b"]", "other": "ignored"})
    redis_broker.drain(connection, lambda: len(taken) == 2)
    assert [message.content_type for message in taken] == [EVENT_TYPE, BATCH_TYPE]
    decoded = [item for message in taken for item in decode(message.body).events]
    assert [type(item) for item in decoded] == [Event] * 3
    taken[-1].ack(multiple=True)
    assert raw_redis.xlen(QUEUE) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "time": "2026-01-01T00:00:00Z"},
        {"evnet": EVENT},
        {b"\xff": b"\xfe\x00"},
        {"event": b""},
        {"event": b"\xff\xfe"},
        {"event": b"[]"},
    ],
)
def test_an_entry_that_is_no_message_is_delivered_as_malformed(
    redis_broker: Broker, raw_redis: redis.Redis, fields: dict[Any, Any]
) -> None:
    raw_redis.xadd(QUEUE, fields)
    raw_redis.xadd(QUEUE, {"event": EVENT})
    connection = redis_broker.connect()
    taken = redis_broker.take(connection, 2)
    assert [type(decode(message.body).events[0]) for message in taken] == [Malformed, Event]
    taken[1].ack(multiple=True)
    assert redis_broker.status().ready == 0


@pytest.mark.parametrize("envelope", [b"", b"[]", b"{", b"\xff", b'{"headers": 7}', b'{"properties": null}'])
def test_an_envelope_that_cannot_be_read_is_ignored(
    redis_broker: Broker, raw_redis: redis.Redis, envelope: bytes
) -> None:
    raw_redis.xadd(QUEUE, {"event": EVENT, "envelope": envelope})
    message = redis_broker.take(redis_broker.connect(), 1)[0]
    assert (message.body, message.content_type, message.headers) == (EVENT, EVENT_TYPE, {})


def test_a_plain_event_is_written_as_any_client_would(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    channel = broker.open_channel(redis_broker.connect())
    broker.EVENTS_QUEUE(channel).declare()
    broker.publish(channel, EVENT, exchange=QUEUE, routing_key="event.a", content_type=EVENT_TYPE)
    entries: Any = raw_redis.xrange(QUEUE)
    assert [fields for _, fields in entries] == [{b"event": EVENT}]


def test_a_consumer_busy_beyond_its_lease_loses_its_messages_to_others(redis_broker: Broker) -> None:
    redis_broker.send(EVENT)
    first, second = redis_broker.connect(lease_ms=300), redis_broker.connect(lease_ms=300)
    held = redis_broker.take(first, 1)
    others = redis_broker.take(second, 1)
    assert others[0].delivery_info["redelivered"]
    held[0].ack()  # whoever is done first is done for both
    others[0].ack()
    status = redis_broker.status()
    assert (status.ready, status.unacked, status.oldest_age_s) == (0, 0, None)


def test_taking_over_respects_the_prefetch_limit(redis_broker: Broker) -> None:
    redis_broker.send(*[EVENT] * 10)
    first, second = redis_broker.connect(), redis_broker.connect()
    redis_broker.take(first, 10)
    first.release()
    taken = redis_broker.take(second, 4, prefetch=4)
    assert redis_broker.is_silent(second)
    assert len(taken) == 4
    assert (redis_broker.status().ready, redis_broker.status().unacked) == (6, 4)


def test_of_two_that_wait_for_a_released_message_one_gets_it(redis_broker: Broker) -> None:
    redis_broker.send(*[EVENT] * 50)
    first, second, third = redis_broker.connect(), redis_broker.connect(), redis_broker.connect()
    redis_broker.take(first, 50)
    one, other = redis_broker.take(second, 0, prefetch=30), redis_broker.take(third, 0, prefetch=30)
    first.release()
    redis_broker.drain(second, lambda: len(one) == 30)
    redis_broker.drain(third, lambda: len(other) == 20)
    assert len({message.delivery_info["stream_id"] for message in one + other}) == 50


def test_of_many_that_take_over_at_the_same_instant_each_entry_goes_to_one(raw_redis: redis.Redis) -> None:
    raw_redis.flushdb()
    consumers = [StreamConsumer(raw_redis) for _ in range(4)]
    consumers[0].create(QUEUE)
    for number in range(100):
        consumers[0].add(QUEUE, {"event": str(number).encode()})
    entries = consumers[0].read([QUEUE], 100, 0)
    for _ in range(20):
        consumers[0].release({QUEUE: [entry.entry_id for entry in entries]})
        with ThreadPoolExecutor() as pool:
            taken = list(pool.map(lambda consumer: consumer.take_over(QUEUE, 100, lapsed=False), consumers))
        assert sorted(entry.entry_id for part in taken for entry in part) == sorted(entry.entry_id for entry in entries)


def test_a_released_message_keeps_its_age(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    an_hour_ago = int(raw_redis.time()[0] - 3600) * 1000
    raw_redis.xadd(QUEUE, {"event": EVENT}, id=f"{an_hour_ago}-0")
    first = redis_broker.connect()
    redis_broker.take(first, 1)
    first.release()
    age_s = redis_broker.status().oldest_age_s
    assert age_s is not None
    assert 3600 <= age_s < 3700


def test_a_consumer_that_closed_is_gone_and_a_silent_one_is_forgotten(
    redis_broker: Broker, raw_redis: redis.Redis
) -> None:
    redis_broker.send(EVENT)
    with redis_broker.holder(lease_ms=100, count=1) as holder:
        holder.kill()
    assert len(names(raw_redis)) == 1
    connection = redis_broker.connect(lease_ms=100)
    taken = redis_broker.take(connection, 1)

    def only_one_is_left() -> bool:
        redis_broker.is_silent(connection, 0.05)
        return len([name for name in names(raw_redis) if name != RELEASED]) == 1

    eventually(only_one_is_left, "the killed consumer was forgotten")
    taken[0].ack()
    connection.release()
    assert [name for name in names(raw_redis) if name != RELEASED] == []


def test_a_living_consumer_without_work_is_not_forgotten(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    idle, other = redis_broker.connect(lease_ms=100), redis_broker.connect(lease_ms=100)
    redis_broker.take(idle, 0)
    mine = names(raw_redis)
    redis_broker.take(other, 0)
    until_s = monotonic() + 1.2  # twice the time after which silence counts
    while monotonic() < until_s:
        redis_broker.is_silent(idle, 0.02)
        redis_broker.is_silent(other, 0.02)
    assert set(mine) <= set(names(raw_redis))
    assert redis_broker.status().consumers == 2


def test_an_entry_deleted_while_held_is_no_longer_counted(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    redis_broker.send(EVENT, EVENT)
    first = redis_broker.connect()
    redis_broker.take(first, 2)
    raw_redis.xtrim(QUEUE, maxlen=1, approximate=False)
    first.release()
    assert len(redis_broker.take(redis_broker.connect(), 1)) == 1
    status = redis_broker.status()
    assert (status.ready, status.unacked) == (0, 1)


def test_a_consumer_goes_on_after_the_data_were_flushed(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    connection = redis_broker.connect()
    taken = redis_broker.take(connection, 0)
    raw_redis.flushdb()
    raw_redis.xadd(QUEUE, {"event": EVENT})
    redis_broker.drain(connection, lambda: len(taken) == 1)


def test_a_restart_of_redis_loses_neither_ready_nor_held_messages(redis_broker: Broker) -> None:
    redis_broker.send(*[EVENT] * 10)
    first = redis_broker.connect(lease_ms=500)
    redis_broker.take(first, 6, prefetch=6)
    redis_broker.server.stop()
    with pytest.raises(first.connection_errors):
        first.drain_events(timeout=DEADLINE_S)
    first.release()
    redis_broker.server.start()
    assert len(redis_broker.take(redis_broker.connect(lease_ms=500), 10)) == 10


def test_two_queues_share_a_channels_prefetch_limit_in_turn(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    connection = redis_broker.connect()
    channel = broker.open_channel(connection)
    taken: list[Any] = []
    for name in ("one", "two"):
        for _ in range(5):
            raw_redis.xadd(name, {"event": EVENT})
        broker.consume(channel, Queue(name), taken.append, prefetch_messages=1).consume()
    while len(taken) < 10:
        redis_broker.take_one_more(connection, taken)
        assert redis_broker.is_silent(connection, 0.01)
        taken[-1].ack()
    assert sorted(message.delivery_info["routing_key"] for message in taken) == ["one"] * 5 + ["two"] * 5
    assert len({message.delivery_info["routing_key"] for message in taken[:3]}) == 2


def test_what_a_failing_callback_left_is_delivered_by_the_next_drain(redis_broker: Broker) -> None:
    redis_broker.send(b"1", b"2", b"3")
    connection = redis_broker.connect()
    seen: list[bytes] = []

    def fail_once(message: Any) -> None:
        seen.append(message.body)
        if len(seen) == 1:
            raise ValueError("once")

    channel = broker.open_channel(connection)
    with broker.consume(channel, broker.EVENTS_QUEUE, fail_once, prefetch_messages=10):
        with pytest.raises(ValueError, match="once"):
            connection.drain_events(timeout=DEADLINE_S)
        redis_broker.drain(connection, lambda: len(seen) == 3)
    assert seen == [b"1", b"2", b"3"]


def test_pings_that_nobody_answers_do_not_pile_up(redis_broker: Broker, raw_redis: redis.Redis) -> None:
    channel = broker.open_channel(redis_broker.connect())
    broker.PING_QUEUE(channel).declare()
    for _ in range(2 * broker.PINGS_MAX):
        broker.publish(channel, b"ping", routing_key="caselog.ping", content_type="text/plain")
    assert raw_redis.xlen("caselog.ping") <= 1.2 * broker.PINGS_MAX


def test_a_reply_queue_is_deleted_with_its_channel_and_expires_without(
    redis_broker: Broker, raw_redis: redis.Redis
) -> None:
    connection = redis_broker.connect()
    replies = broker.reply_queue()
    redis_broker.take(connection, 0, queue=replies)
    assert 0 < int(str(raw_redis.pttl(replies.name))) <= broker.REPLY_QUEUE_IDLE_S * 1000
    connection.release()
    assert not raw_redis.exists(replies.name)


def test_an_ack_on_a_closed_channel_is_an_error(redis_broker: Broker) -> None:
    redis_broker.send(EVENT)
    connection = redis_broker.connect()
    message = redis_broker.take(connection, 1)[0]
    message.channel.close()
    with pytest.raises(connection.connection_errors):
        message.ack()


def test_purging_deletes_what_is_ready_and_spares_what_is_held(redis_broker: Broker) -> None:
    redis_broker.send(*[EVENT] * 5)
    redis_broker.take(redis_broker.connect(), 2, prefetch=2)
    channel = broker.open_channel(redis_broker.connect())
    assert broker.EVENTS_QUEUE(channel).purge() == 3
    assert (redis_broker.status().ready, redis_broker.status().unacked) == (0, 2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host:7000/3", {"host": "host", "port": 7000, "db": 3}),
        ("redis://host?virtual_host=4", {"host": "host", "db": 4}),
        ("redis://:p%40ss@host", {"host": "host", "password": "p@ss"}),
        ("redis://ann:pw@host/0", {"username": "ann", "password": "pw", "db": 0}),
        ("redis+socket:///run/a%20b.sock?virtual_host=2", {"path": "/run/a b.sock", "db": 2}),
        ("redis+socket://:pw@/run/r.sock", {"path": "/run/r.sock", "password": "pw"}),
        ("rediss://host", {"host": "host"}),
    ],
)
def test_the_url_names_host_database_and_password(url: str, expected: dict[str, Any]) -> None:
    transport = broker.connect(url).transport
    settings = transport.redis.connection_pool.connection_kwargs
    assert {name: settings.get(name) for name in expected} == expected


def test_a_password_is_not_shown(redis_broker: Broker) -> None:
    assert "secret" not in broker.connect("redis://:secret@host/0").as_uri()
    assert "secret" not in broker.connect("redis+socket://:secret@/run/r.sock").as_uri()
    assert json.dumps(redis_broker.connect().as_uri())


def test_the_data_of_one_database_number_are_not_seen_in_another(redis_broker: Broker) -> None:
    redis_broker.send(EVENT)
    other = broker.connect(redis_broker.url.replace("virtual_host=1", "virtual_host=2"))
    assert broker.queue_status(other, QUEUE).ready == 0
    other.release()


def test_a_broker_that_is_away_is_an_error_at_once(tmp_path: Path) -> None:
    begun_s = monotonic()
    connection = broker.connect(f"redis+socket://{os.fspath(tmp_path)}/none.sock")
    with pytest.raises(connection.connection_errors):
        broker.open_channel(connection)
    assert monotonic() - begun_s < allowance_s(1)
