"""Pings through the broker, on Redis and on RabbitMQ alike."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic, sleep, time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest
from redis import Redis
from structlog.testing import capture_logs
from support.processes.patience import DEADLINE_S, allowance_s

from caselog.events.streams.entry import to_fields
from caselog.events.transport.broker import (
    EVENTS_QUEUE,
    PING_QUEUE,
    PINGS_EXCHANGE,
    connect,
    is_redis,
    is_reply_queue,
    open_channel,
    publish,
    queue_status,
    reply_queue,
)
from caselog.events.transport.events_queue import open_events
from caselog.workers.health.ping import PingFailed, answer_pings, ping
from caselog.workers.servers.locate import redis_py_url

WELL = {"version": {"version_number": "1"}, "checks": {"*": {"status": True}}}
STOPS_WITHIN_S = 10


class Answerer:
    """`answer_pings` in a thread, as the status worker runs it; counts how often it was asked."""

    def __init__(self, broker_url: str) -> None:
        self.asked = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=answer_pings, args=(broker_url, self.answer, self.stopping))
        self.thread.start()

    def answer(self) -> bytes:
        self.asked += 1
        return msgspec.json.encode(WELL)

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join(allowance_s(STOPS_WITHIN_S))
        assert not self.thread.is_alive()


@pytest.fixture
def answering() -> Iterator[Callable[[str], Answerer]]:
    started: list[Answerer] = []

    def start(broker_url: str) -> Answerer:
        started.append(Answerer(broker_url))
        return started[-1]

    yield start
    for answerer in started:
        answerer.stop()


class Cable:
    """Carries connections from a local port to the broker; can be cut, and plugged in again on the same port."""

    def __init__(self, broker_url: str) -> None:
        if broker_url.startswith("redis+socket"):
            parts = urlsplit(broker_url)
            number = dict(part.split("=") for part in parts.query.split("&")).get("virtual_host", "0")
            self._target: Any = (socket.AF_UNIX, parts.path)
            form = f"redis://127.0.0.1:{{port}}/{number}"
        else:
            parts = urlsplit(broker_url)
            self._target = (socket.AF_INET, (parts.hostname, parts.port or 5672))
            form = f"amqp://{parts.username}:{parts.password}@127.0.0.1:{{port}}{parts.path}"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port: int = probe.getsockname()[1]
        self.url = form.format(port=self._port)
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self.falls_silent_at: bytes | None = None
        self._is_silent = False

    def plug_in(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            ends = [*self._ends, *([self._listener] if self._listener else [])]
            self._ends, self._listener = [], None
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(self._target[0])
                with self._lock:
                    if self._listener is not listener:  # cut meanwhile
                        near.close()
                        far.close()
                        return
                    self._ends += [near, far]
                far.connect(self._target[1])
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.falls_silent_at is not None and self.falls_silent_at in data:
                    self._is_silent = True
                if not self._is_silent:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def cable(broker_url: str) -> Iterator[Cable]:
    made = Cable(broker_url)
    yield made
    made.cut()


def send_ping(broker_url: str, reply_to: str, sent_s: float | None = None) -> None:
    """A ping as any client may send it, as if at that moment. On Redis the stream must hold nothing younger."""
    with connect(broker_url) as connection, connection.channel() as channel:
        PING_QUEUE(channel).declare()
        if sent_s is None or broker_url.startswith("amqp"):
            properties: dict[str, Any] = {} if sent_s is None else {"timestamp": int(sent_s)}
            publish(
                channel,
                b"{}",
                routing_key=PING_QUEUE.name,
                content_type="application/json",
                reply_to=reply_to,
                correlation_id="c",
                **properties,
            )
        else:
            fields = to_fields(
                {"body": b"{}", "content-type": "application/json", "properties": {"reply_to": reply_to}}
            )
            with Redis.from_url(redis_py_url(broker_url)) as client:
                client.xadd(PING_QUEUE.name, dict(fields), id=f"{int(sent_s * 1000)}-0")


def asked_in_vain(broker_url: str) -> bool:
    """Somebody asked while no status worker ran: on Redis the ping waits; on RabbitMQ it goes out again and again."""
    with connect(broker_url) as connection, connection.channel() as channel:
        if is_redis(connection):
            return queue_status(connection, PING_QUEUE.name).ready == 1
        try:
            channel.exchange_declare(PINGS_EXCHANGE.name, "fanout", passive=True)
        except connection.channel_errors:
            return False
        return True


def eventually(is_so: Callable[[], Any], what: str) -> None:
    deadline = monotonic() + DEADLINE_S
    while not is_so():
        assert monotonic() < deadline, f"did not come about: {what}"
        sleep(0.02)


def test_a_ping_is_answered_with_what_the_worker_says(broker_url: str, answering: Callable[[str], Answerer]) -> None:
    answering(broker_url)
    for _ in range(3):
        assert ping(broker_url, 10) == WELL


def test_each_of_many_that_ask_at_once_gets_an_answer(broker_url: str, answering: Callable[[str], Answerer]) -> None:
    answering(broker_url)
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(ping(broker_url, 10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [WELL] * 8


def test_a_ping_waits_for_a_worker_that_starts_while_it_waits(
    broker_url: str, answering: Callable[[str], Answerer]
) -> None:
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(ping(broker_url, 15)))
    thread.start()
    eventually(lambda: asked_in_vain(broker_url), "the ping is sent")
    answering(broker_url)
    thread.join()
    assert answers == [WELL]


def test_without_a_worker_the_error_says_what_to_start_and_no_reply_queue_stays(broker_url: str) -> None:
    listening: Any = None
    with connect(broker_url) as connection, connection.channel() as channel:
        if not is_redis(connection):  # a worker of an earlier version, which listens here and never answers
            PING_QUEUE(channel).declare()
        with pytest.raises(PingFailed, match="caselog worker status"):
            ping(broker_url, 0.3)
        listening = PING_QUEUE(channel).get()
        assert listening is not None
        reply_to = listening.properties["reply_to"]
        listening.ack()
        assert is_reply_queue(reply_to)
        with pytest.raises(connection.channel_errors, match=r"NOT_FOUND|404"):
            connection.channel().queue_declare(reply_to, passive=True)


def test_a_broker_that_is_away_is_named_as_the_cause(broker_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        scheme = "amqp" if broker_url.startswith("amqp") else "redis"
        with pytest.raises(PingFailed, match="CASELOG_BROKER_URL"):
            ping(f"{scheme}://127.0.0.1:{taken.getsockname()[1]}/0", 1)


def test_a_broker_that_falls_silent_is_not_waited_for_longer_than_asked(cable: Cable, broker_url: str) -> None:
    """It takes the connection and the question, and nothing comes back any more."""
    if broker_url.startswith("redis"):
        pytest.skip("redis-py has a time-out of its own")
    cable.plug_in()
    cable.falls_silent_at = b"application/json"
    began_s = monotonic()
    with pytest.raises(PingFailed, match="does not carry pings"):
        ping(cable.url, 2)
    assert monotonic() - began_s < STOPS_WITHIN_S


def test_a_ping_older_than_a_minute_is_not_answered(broker_url: str, answering: Callable[[str], Answerer]) -> None:
    """Both pings want their answer in one queue: the one answer there is the young one's."""
    with connect(broker_url) as connection, connection.channel() as channel:
        replies = reply_queue()(channel)
        replies.declare()
        send_ping(broker_url, replies.name, sent_s=time() - 61)
        answerer = answering(broker_url)
        eventually(lambda: queue_status(connection, PING_QUEUE.name).ready == 0, "the old ping was taken")
        send_ping(broker_url, replies.name)
        eventually(lambda: queue_status(connection, replies.name).ready, "an answer to the young ping")
        answerer.stop()
        found = replies.get(no_ack=True)
        assert found is not None
        assert found.properties["correlation_id"] == "c"
        assert replies.get(no_ack=True) is None
    assert answerer.asked == 1


def test_a_ping_whose_asker_has_gone_does_not_keep_others_from_their_answer(
    broker_url: str, answering: Callable[[str], Answerer]
) -> None:
    """They are taken off the queue together, and none of them comes back."""
    for _ in range(3):
        send_ping(broker_url, f"caselog.reply.{uuid4()}")
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(ping(broker_url, 10)))
    thread.start()
    with connect(broker_url) as connection:
        eventually(lambda: queue_status(connection, PING_QUEUE.name).ready == 4, "all pings wait")
        answerer = answering(broker_url)
        thread.join()
        assert answers == [WELL]
        eventually(lambda: queue_status(connection, PING_QUEUE.name).ready == 0, "all were taken")
        answerer.stop()
        assert queue_status(connection, PING_QUEUE.name).ready == 0


@pytest.mark.parametrize(
    "reply_to", ["caselog.events", "caselog.reply.", "caselog.reply.x", "caselog.ping", "amq.topic", "x" * 200, ""]
)
def test_a_ping_that_names_no_reply_queue_is_answered_nowhere(
    broker_url: str, answering: Callable[[str], Answerer], reply_to: str
) -> None:
    """Least of all in the queue of events, where the answer would be a dead letter."""
    with connect(broker_url) as connection:
        open_events(connection)
        answerer = answering(broker_url)
        with capture_logs() as lines:
            send_ping(broker_url, reply_to)
            eventually(
                lambda: [line for line in lines if "no reply queue" in line["event"]], "it is refused in the log"
            )
        assert ping(broker_url, 10) == WELL  # others are answered after it
        assert answerer.asked == 1
        assert queue_status(connection, EVENTS_QUEUE.name).ready == 0


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("caselog.reply.0b5e4a1c-9c1f-4a55-8f0e-2f6b7a8c9d0e", True),
        ("amq.gen-JzTY20BRgKO-HjmUJj0wLg", True),
        ("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAyNzg1MjY0OAAAJY8AAAAAAw==.NDnFSqk4lq", True),
        ("caselog.reply.0b5e4a1c-9c1f-4a55-8f0e-2f6b7a8c9d0ex", False),
        ("caselog.reply.0b5e4a1c-9c1f-4a55-8f0e-2f6b7a8c9d0e\n", False),
        ("amq.topic", False),
        ("caselog.events", False),
        (None, False),
        (b"caselog.events", False),
    ],
)
def test_a_reply_queue_is_known_by_its_name(name: object, *, is_one: bool) -> None:
    assert is_reply_queue(name) is is_one
    assert is_reply_queue(reply_queue().name)


def test_every_status_worker_answers_and_the_caller_takes_the_first_answer(
    amqp_url: str, answering: Callable[[str], Answerer]
) -> None:
    """On RabbitMQ each has a queue of its own, so none of them depends on a node that another is connected to."""
    answerers = [answering(amqp_url) for _ in range(3)]
    # Each is asked once it has its queue.
    eventually(lambda: ping(amqp_url, 10) == WELL and all(one.asked for one in answerers), "all are asked")
    answerers[0].stop()
    answerers[1].stop()
    assert ping(amqp_url, 10) == WELL


def test_a_caller_of_an_earlier_version_is_answered(broker_url: str, answering: Callable[[str], Answerer]) -> None:
    """It declares the queue caselog.ping as it was, and asks there."""
    answering(broker_url)
    with connect(broker_url) as connection:
        channel, replies = open_channel(connection), reply_queue()
        replies(channel).declare()
        send_ping(broker_url, replies.name)
        eventually(lambda: replies(channel).get(no_ack=True), "an answer")


def test_a_worker_of_an_earlier_version_answers_a_caller_of_today(amqp_url: str) -> None:
    """It consumes the queue caselog.ping alone, and knows no exchange for pings."""
    with connect(amqp_url) as worker:
        channel = open_channel(worker)
        PING_QUEUE(channel).declare()
        answers: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: answers.append(ping(amqp_url, 15)))
        thread.start()
        asked: list[Any] = []

        def take() -> bool:
            asked.extend(filter(None, [PING_QUEUE(channel).get(no_ack=True)]))
            return bool(asked)

        eventually(take, "the ping")
        reply = {"routing_key": asked[0].properties["reply_to"], "content_type": "application/json"}
        publish(channel, msgspec.json.encode(WELL), **reply, correlation_id=asked[0].properties["correlation_id"])
        thread.join()
    assert answers == [WELL]


def test_where_what_comes_after_the_connection_fails_the_delay_grows(amqp_url: str) -> None:
    """A broker may take every connection and refuse what is asked of it: it is not asked five times a second."""
    with connect(amqp_url) as connection, capture_logs() as lines:
        # In the place of the exchange for pings there is one of another type.
        open_channel(connection).exchange_declare(PINGS_EXCHANGE.name, "direct", durable=True, auto_delete=False)
        answerer = Answerer(amqp_url)
        eventually(lambda: len(lines) >= 3, "it has tried three times")
        answerer.stop()
    assert [line["delay_s"] for line in lines[:3]] == [0.2, 0.4, 0.8]
    assert "inequivalent arg 'type'" in lines[0]["error"]
    assert "away" not in lines[0]["event"]


def test_pings_are_answered_again_after_the_broker_was_away(
    cable: Cable, broker_url: str, answering: Callable[[str], Answerer]
) -> None:
    """Away at the start, and cut off later: each time the answerer comes back by itself."""
    with capture_logs() as lines:
        answering(cable.url)
        for _ in range(2):
            lines.clear()
            eventually(lambda: [line for line in lines if "refused" in line["error"]], "connecting has failed")
            cable.plug_in()
            assert ping(broker_url, 15) == WELL
            cable.cut()
