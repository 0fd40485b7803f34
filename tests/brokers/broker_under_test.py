"""Both brokers, real ones that can be stopped and started, and what the laws do with them."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection, Queue
from kombu.message import Message
from support.processes.patience import DEADLINE_S
from support.servers.children import start_child

from caselog.events.errors import SettingsError
from caselog.events.model.message import Event, decode
from caselog.events.transport import broker
from caselog.workers.servers.redis import find_redis_server

HOLDER = """
import sys
from caselog.events.transport import broker
connection = broker.connect(sys.argv[1], lease_ms=int(sys.argv[2]))
held = []
with broker.consume(broker.open_channel(connection), broker.EVENTS_QUEUE, held.append, prefetch_messages=1000):
    while len(held) < int(sys.argv[3]):
        connection.drain_events(timeout=180)
    print("holding", flush=True)
    sys.stdin.read()
"""


class Server(Protocol):
    url: str

    def start(self) -> None: ...
    def stop(self) -> None: ...


def eventually(is_so: Callable[[], Any], what: str) -> None:
    """Wait until it is so; fails after the deadline."""
    deadline_s = monotonic() + DEADLINE_S
    while not is_so():
        assert monotonic() < deadline_s, f"never came true: {what}"
        sleep(0.01)


class Broker:
    """A broker under test, with the verbs that the laws need."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.url = server.url
        self.server = server
        self._connections: list[Connection] = []

    def connect(self, lease_ms: int = 10_000) -> Connection:
        connection = broker.connect(self.url, lease_ms=lease_ms)
        self._connections.append(connection)
        return connection

    def send(self, *bodies: bytes) -> None:
        channel = broker.open_channel(self.connect())
        broker.EVENTS_QUEUE(channel).declare()
        for body in bodies:
            broker.publish(
                channel, body, exchange="caselog.events", routing_key="event.x", content_type="application/json"
            )

    def take(self, connection: Connection, count: int, *, prefetch: int = 1000, queue: Queue | None = None) -> Any:
        """Consume until `count` messages are there; gives them with their channel left open and consuming."""
        taken: list[Message] = []
        channel = broker.open_channel(connection)
        consumer = broker.consume(channel, queue or broker.EVENTS_QUEUE, taken.append, prefetch_messages=prefetch)
        consumer.consume()
        self.drain(connection, lambda: len(taken) >= count)
        return taken

    def drain(self, connection: Connection, is_so: Callable[[], Any]) -> None:
        deadline_s = monotonic() + DEADLINE_S
        while not is_so():
            assert monotonic() < deadline_s, "the messages did not come"
            try:
                connection.drain_events(timeout=0.1)
            except TimeoutError:
                continue

    def take_one_more(self, connection: Connection, taken: list[Message]) -> None:
        before = len(taken)
        self.drain(connection, lambda: len(taken) > before)

    def is_silent(self, connection: Connection, for_s: float = 0.5) -> bool:
        """True when nothing is delivered for that long."""
        try:
            connection.drain_events(timeout=for_s)
        except TimeoutError:
            return True
        return False

    def events(self, count: int) -> list[Event]:
        """Consume and ack until `count` events have come; the messages' events, in order."""
        connection = self.connect()
        found: list[Event] = []

        def on_message(message: Message) -> None:
            found.extend(event for event in decode(message.body).events if isinstance(event, Event))
            message.ack()

        with broker.consume(broker.open_channel(connection), broker.EVENTS_QUEUE, on_message, prefetch_messages=1000):
            self.drain(connection, lambda: len(found) >= count)
            assert self.is_silent(connection, 0.2)
        connection.release()
        return found

    def status(self, *, with_age: bool = True) -> broker.QueueStatus:
        return broker.queue_status(self.connect(), "caselog.events", with_age=with_age)

    def holder(self, lease_ms: int, count: int) -> subprocess.Popen[str]:
        """Another process that holds `count` messages and never acks them."""
        process = start_child(
            [sys.executable, "-c", HOLDER, self.url, str(lease_ms), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        return process

    def close(self) -> None:
        for connection in self._connections:
            connection.release()


class RedisServer:
    """A Redis of our own on a Unix socket, which can be stopped and started on the same data."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"redis+socket://{self.socket}?virtual_host=1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        arguments = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory)]
        arguments += ["--appendonly", "yes", "--save", "", "--logfile", str(self.directory / "redis.log")]
        self._process = start_child([redis_executable(), *arguments])
        eventually(self._answers, "Redis answers")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), db=1, protocol=2)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class CuttableRabbitMq:
    """A wire to RabbitMQ: `stop` cuts all connections and refuses new ones, as a broker does that is down.

    `is_silent` swallows what is sent, both ways, as a firewall does that forgot the connection.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._listener: socket.socket | None = None
        self._port = 0
        self._thread: threading.Thread | None = None
        self._stopping, self._wake = socket.socketpair()
        self.start()
        self.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{self._port}").geturl()

    def start(self) -> None:
        if self._thread is None:
            self.is_silent = False
            self._listener = socket.create_server(("127.0.0.1", self._port))
            self._port = self._listener.getsockname()[1]
            self._thread = threading.Thread(target=self._carry, args=(self._listener,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._wake.send(b"x")
            self._thread.join()
            self._stopping.recv(1)
            self._thread = None

    def close(self) -> None:
        self.stop()
        self._stopping.close()
        self._wake.close()

    def _carry(self, listener: socket.socket) -> None:
        peers: dict[socket.socket, socket.socket] = {}
        with selectors.DefaultSelector() as selector, listener:
            selector.register(self._stopping, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._stopping in ready:
                    break
                for end in ready:
                    assert isinstance(end, socket.socket)
                    if end is listener:
                        client, server = listener.accept()[0], socket.create_connection(self._target)
                        for one, other in ((client, server), (server, client)):
                            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                            peers[one] = other
                            selector.register(one, selectors.EVENT_READ)
                    elif end in peers:
                        _carry_once(end, peers, selector, is_silent=self.is_silent)
        for end in peers:
            end.close()


def _carry_once(
    end: socket.socket,
    peers: dict[socket.socket, socket.socket],
    selector: selectors.BaseSelector,
    *,
    is_silent: bool,
) -> None:
    try:
        data = end.recv(65536)
        if data and not is_silent:
            peers[end].sendall(data)
    except OSError:
        data = b""
    if not data:
        for closed in (end, peers[end]):
            selector.unregister(closed)
            peers.pop(closed)
            closed.close()


def redis_executable() -> str:
    try:
        return find_redis_server()
    except SettingsError as error:
        missing(str(error))


def missing(what: str) -> NoReturn:
    if os.environ.get("CASELOG_REQUIRE_SERVICES") == "1":
        pytest.fail(what)
    pytest.skip(what)
