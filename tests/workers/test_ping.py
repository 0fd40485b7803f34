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

from events.broker import PING_QUEUE, connect, publish, queue_status, reply_queue
from events.stream_message import to_fields
from workers.ping import PingFailed, answer_pings, ping
from workers.services import redis_py_url

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
        self.thread.join(STOPS_WITHIN_S)
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

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
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


def eventually(is_so: Callable[[], Any], what: str) -> None:
    deadline = monotonic() + 15
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
    with connect(broker_url) as connection:
        eventually(lambda: queue_status(connection, PING_QUEUE.name).ready == 1, "the ping waits in its queue")
    answering(broker_url)
    thread.join()
    assert answers == [WELL]


def test_without_a_worker_the_error_says_what_to_start_and_no_reply_queue_stays(broker_url: str) -> None:
    with pytest.raises(PingFailed, match="caselog worker status"):
        ping(broker_url, 0.3)
    with connect(broker_url) as connection, connection.channel() as channel:
        asked = PING_QUEUE(channel).get()
        assert asked is not None
        reply_to = asked.properties["reply_to"]
        asked.ack()
        assert reply_to.startswith("caselog.reply.")
        with pytest.raises(connection.channel_errors, match=r"NOT_FOUND|404"):
            connection.channel().queue_declare(reply_to, passive=True)


def test_a_broker_that_is_away_is_named_as_the_cause(broker_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        scheme = "amqp" if broker_url.startswith("amqp") else "redis"
        with pytest.raises(PingFailed, match="CASELOG_BROKER_URL"):
            ping(f"{scheme}://127.0.0.1:{taken.getsockname()[1]}/0", 1)


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
        answerer.stop()
        assert answers == [WELL]
        assert queue_status(connection, PING_QUEUE.name).ready == 0


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
