"""What the Publisher promises to a producer, on either broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Any

import pytest
from broker_under_test import Broker, eventually
from support.processes.patience import DEADLINE_S

from caselog.events import MalformedEvent, Publisher, PublishError
from caselog.events.errors import BufferFull, PublisherClosed, SettingsError
from caselog.events.model.message import BATCH_TYPE, EVENT_BYTES_MAX, EVENT_TYPE, parse_event
from caselog.events.transport import broker

WHEN = "2026-11-22T10:15:00.123Z"


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "accept_case", "id": f"e-{number}", "subject": f"C-{number}", "time": WHEN, **more}


def ids(first: int, count: int) -> list[str]:
    return [f"e-{number}" for number in range(first, first + count)]


def ids_of(unsent: tuple[bytes, ...]) -> list[str]:
    return [json.loads(raw)["id"] for raw in unsent]


def test_events_arrive_in_the_order_in_which_they_were_published(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test", batch_events=7) as publisher:
        publisher.publish_many([event(number) for number in range(50)])
        for number in range(50, 100):
            publisher.publish(event(number))
    assert [found.id for found in any_broker.events(100)] == ids(0, 100)


def test_a_future_is_done_when_the_broker_has_the_event(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test") as publisher:
        publisher.publish(event(0)).result(timeout=DEADLINE_S)
        assert any_broker.status().ready == 1
        publisher.publish_many([event(number) for number in range(1, 250)]).result(timeout=DEADLINE_S)
        publisher.publish_many([]).result(timeout=DEADLINE_S)
    assert len(any_broker.events(250)) == 250


def test_a_lone_event_goes_at_once_and_those_within_the_linger_share_a_message(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test", linger_ms=60_000, batch_events=10) as publisher:
        publisher.publish(event(0)).result(timeout=DEADLINE_S)
        shared = {publisher.publish(event(number)) for number in range(1, 5)}
        assert len(shared) == 1
        assert not wait(shared, timeout=0.2).done
        publisher.flush(timeout_s=10)
        publisher.publish_many([event(number) for number in range(5, 16)])
    messages = any_broker.take(any_broker.connect(), 4)
    assert [message.content_type for message in messages] == [EVENT_TYPE, BATCH_TYPE, BATCH_TYPE, EVENT_TYPE]
    assert [message.body.count(b'"specversion"') for message in messages] == [1, 4, 10, 1]


def test_a_message_is_no_larger_than_one_event_may_be(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test", linger_ms=60_000) as publisher:
        publisher.publish_many([event(number, data={"context": {"text": "x" * 100_000}}) for number in range(5)])
    messages = any_broker.take(any_broker.connect(), 3)
    assert [message.body.count(b'"specversion"') for message in messages] == [2, 2, 1]
    assert all(len(message.body) <= EVENT_BYTES_MAX for message in messages)


def test_many_threads_may_publish_at_once(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test", batch_events=20, buffer_events=100) as publisher:

        def publish(first: int) -> None:
            for number in range(first, first + 200):
                publisher.publish(event(number))

        threads = [threading.Thread(target=publish, args=(thread * 1000,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [arrived.id for arrived in any_broker.events(1200)]
    for first in range(0, 6000, 1000):
        mine = ids(first, 200)
        assert [name for name in found if name in set(mine)] == mine


def test_a_broker_that_stays_away_gives_the_unsent_events_back(any_broker: Broker) -> None:
    publisher = Publisher(any_broker.url, source="/test", batch_events=5, retry_for_s=0.5)
    publisher.publish(event(0)).result(timeout=DEADLINE_S)
    any_broker.server.stop()
    futures = [publisher.publish(event(number)) for number in range(1, 8)]
    together = publisher.publish_many([event(number) for number in range(8, 20)])
    with pytest.raises(PublishError, match="the broker did not confirm 19 events") as failure:
        publisher.flush()
    assert ids_of(failure.value.unsent) == ids(1, 19)
    for future in futures:
        assert isinstance(future.exception(timeout=DEADLINE_S), PublishError)
    lost = together.exception(timeout=DEADLINE_S)
    assert isinstance(lost, PublishError)
    assert set(ids(8, 12)) <= set(ids_of(lost.unsent))
    any_broker.server.start()
    publisher.publish_many(list(failure.value.unsent))
    publisher.close()
    assert [found.id for found in any_broker.events(20)] == ids(0, 20)


def test_a_failure_that_nobody_collected_surfaces_on_close(any_broker: Broker) -> None:
    any_broker.server.stop()
    publisher = Publisher(any_broker.url, source="/test", retry_for_s=0.1)
    assert publisher.publish(event(0)).exception(timeout=DEADLINE_S) is not None
    with pytest.raises(PublishError) as failure:
        publisher.close()
    assert ids_of(failure.value.unsent) == ids(0, 1)
    publisher.close()


def test_a_broker_that_comes_back_in_time_gets_the_same_events_once(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test") as publisher:
        publisher.publish(event(0)).result(timeout=DEADLINE_S)
        any_broker.server.stop()
        future = publisher.publish_many([event(number) for number in range(1, 300)])
        with pytest.raises(TimeoutError, match="299 events are not confirmed"):
            publisher.flush(timeout_s=0.3)
        assert not future.done()
        any_broker.server.start()
        future.result(timeout=DEADLINE_S)
    assert [found.id for found in any_broker.events(300)] == ids(0, 300)


def test_publishing_blocks_while_the_buffer_is_full(any_broker: Broker) -> None:
    any_broker.server.stop()
    with Publisher(any_broker.url, source="/test", buffer_events=10) as publisher:
        published: list[Future[None]] = []

        def publish() -> None:
            for number in range(30):
                published.append(publisher.publish(event(number)))  # noqa: PERF401 - the length is watched

        thread = threading.Thread(target=publish)
        thread.start()
        eventually(lambda: len(published) == 10, "the buffer is full")
        thread.join(timeout=0.2)
        assert (thread.is_alive(), len(published)) == (True, 10)
        any_broker.server.start()
        thread.join(timeout=DEADLINE_S)
    assert [found.id for found in any_broker.events(30)] == ids(0, 30)


def test_a_publisher_that_may_not_block_takes_nothing_that_has_no_room(any_broker: Broker) -> None:
    any_broker.server.stop()
    with Publisher(any_broker.url, source="/test", buffer_events=10, block_when_full=False) as publisher:
        publisher.publish_many([event(number) for number in range(8)])
        with pytest.raises(BufferFull, match="8 of 10 events wait for the broker, and 3 more have no room"):
            publisher.publish_many([event(number) for number in range(90, 93)])
        publisher.publish_many([event(8), event(9)])
        with pytest.raises(BufferFull):
            publisher.publish(event(99))
        any_broker.server.start()
        publisher.flush(timeout_s=20)
        publisher.publish(event(10))
    assert [found.id for found in any_broker.events(11)] == ids(0, 11)


def test_a_producer_that_is_faster_than_the_broker_does_not_fill_the_memory(redis_broker: Broker) -> None:
    """20 MB of events in messages of their own, through a buffer of 400 KB."""
    tracemalloc.start()
    try:
        with Publisher(redis_broker.url, source="/test", batch_events=1, buffer_events=100) as publisher:
            for number in range(5_000):
                publisher.publish(event(number, data={"notes": "n" * 4_000}))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000
    assert redis_broker.status().ready == 5_000


def test_giving_up_is_told_by_publish_where_nobody_flushes(any_broker: Broker) -> None:
    any_broker.server.stop()
    publisher = Publisher(any_broker.url, source="/test", buffer_events=3, retry_for_s=0.1)
    for number in range(3):
        publisher.publish(event(number))
    eventually(lambda: len(publisher._given_up) == 3, "three events were given up")  # noqa: SLF001 - no promise, but its cause
    with pytest.raises(PublishError) as failure:
        publisher.publish(event(3))
    assert ids_of(failure.value.unsent) == ids(0, 4)
    publisher.close()


def test_what_an_event_lacks_is_filled_in(any_broker: Broker) -> None:
    before = datetime.now(UTC)
    with Publisher(any_broker.url, source="/test") as publisher:
        for number in range(100):
            publisher.publish({"type": "open_case", "subject": f"C-{number}"})
        publisher.publish({"type": "open_case", "subject": "C-4", "source": "/own", "id": "mine", "time": WHEN})
    *filled, whole = any_broker.events(101)
    assert {found.source for found in filled} == {"/test"}
    assert sorted({found.id for found in filled}) == [found.id for found in filled]
    assert all(before <= found.time <= datetime.now(UTC) for found in filled)
    assert (whole.source, whole.id, whole.time) == ("/own", "mine", datetime.fromisoformat(WHEN))


def test_an_event_may_be_a_mapping_an_event_or_json(any_broker: Broker) -> None:
    raw = json.dumps({
        "specversion": "1.0", "source": "/s", "myattribute": 7, "data": {"code": "X", "later": [1]}, **event(0),
    }).encode()  # fmt: skip
    parsed = parse_event(raw)
    with Publisher(any_broker.url) as publisher:
        publisher.publish(raw)
        publisher.publish(raw.decode())
        publisher.publish(json.loads(raw))
        publisher.publish(parsed)
    assert any_broker.events(4) == [parsed] * 4
    assert parsed.extensions == {"myattribute": 7, "data.later": [1]}


def test_an_event_type_that_is_no_routing_key_is_delivered_all_the_same(any_broker: Broker) -> None:
    types = ["a b", "\N{SNOWMAN}" * 100, "line\nfeed", "dots..", "#", "x" * 100]
    with Publisher(any_broker.url, source="/test", batch_events=1) as publisher:
        for number, name in enumerate(types):
            publisher.publish(event(number, type=name))
    assert [found.type for found in any_broker.events(len(types))] == types


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"type": None}, "type"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"time": "yesterday"}, "time"),
        ({"time": datetime(2026, 1, 1)}, "time"),  # noqa: DTZ001 - what is wrong with it
        ({"data": {"notes": "x" * 5001}}, "notes"),
        ({"data": {"actor": {"id": "a", "role": "king"}}}, "role"),
        ({"data": {"context": {"n": float("nan")}}}, "NaN"),
        ({"data": {"context": {"n": object()}}}, "JSON"),
        ({"data": {"context": {"n": "x\x00"}}}, "NUL"),
        ({"data": {"context": {"n": "x" * 300_000}}}, "bytes"),
    ],
)
def test_a_malformed_event_is_refused_at_the_call_and_the_member_is_named(wrong: dict[str, Any], named: str) -> None:
    with Publisher("redis+socket:///nowhere", source="/test") as publisher:
        with pytest.raises(MalformedEvent, match=named):
            publisher.publish(event(0, **wrong))
        with pytest.raises(MalformedEvent, match=named):
            publisher.publish_many([event(1), event(0, **wrong)])
        publisher.flush(timeout_s=0)  # nothing was kept of either


def test_an_event_without_a_source_is_refused_where_the_publisher_has_none() -> None:
    with Publisher("redis+socket:///nowhere") as publisher, pytest.raises(MalformedEvent, match="source"):
        publisher.publish(event(0))


def test_a_closed_publisher_says_so() -> None:
    publisher = Publisher("redis+socket:///nowhere", source="/test")
    publisher.close()
    with pytest.raises(PublisherClosed):
        publisher.publish(event(0))


def test_a_url_of_another_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(SettingsError, match=r"redis://.*amqp://"):
        Publisher("kafka://localhost")


def test_importing_the_publisher_brings_no_database_and_no_jobs() -> None:
    check = (
        "import sys, caselog.events; assert 'kombu' not in sys.modules; from caselog.events import Publisher; "
        "heavy = ('sqlalchemy', 'psycopg', 'dramatiq', 'caselog.workers', 'caselog.schema'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_publisher_left_open_still_sends_at_exit_and_warns(any_broker: Broker) -> None:
    script = (
        "import sys; from caselog.events import Publisher\n"
        "publisher = Publisher(sys.argv[1], source='/test', linger_ms=60_000)\n"
        "publisher.publish({'type': 'a', 'id': 'e-0', 'subject': 'C-0'}).result(60)\n"
        "publisher.publish({'type': 'a', 'id': 'e-1', 'subject': 'C-0'})"
    )
    arguments = [sys.executable, "-W", "default::ResourceWarning", "-c", script, any_broker.url]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert "a Publisher was not closed" in done.stderr
    assert [found.id for found in any_broker.events(2)] == ids(0, 2)


def test_the_publisher_needs_no_recorder_to_have_been_there_first(any_broker: Broker) -> None:
    with Publisher(any_broker.url, source="/test") as publisher:
        publisher.publish(event(0)).result(timeout=DEADLINE_S)
    assert broker.queue_status(any_broker.connect(), "caselog.events").ready == 1


FORKED = """
import os, sys
from caselog.events import Publisher, PublisherClosed
publisher = Publisher(sys.argv[1], source="/test")
publisher.publish({"type": "a", "id": "e-0", "subject": "C-0"}).result(60)
child = os.fork()
if child == 0:
    for work in (lambda: publisher.publish({"type": "a", "id": "lost", "subject": "C-0"}), publisher.flush):
        try:
            work()
        except PublisherClosed as error:
            print(error, flush=True)
    publisher.close()
    with Publisher(sys.argv[1], source="/test") as own:
        own.publish({"type": "a", "id": "e-1", "subject": "C-0"})
    sys.exit(3)
_, status = os.waitpid(child, 0)
with publisher:
    publisher.publish({"type": "a", "id": "e-2", "subject": "C-0"})
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_is_told_that_the_publisher_is_its_parents(any_broker: Broker) -> None:
    """It would take events that nobody sends. The parent's goes on, and one of its own works."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, any_broker.url], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.count("from which this one was forked, and nothing was taken") == 2
    assert sorted(found.id for found in any_broker.events(3)) == ids(0, 3)
