"""Connections to the status worker: who sends slowly, or nothing, is not waited for; and answers are sent at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from pipeline import eventually

from workers import http_connection
from workers.http_connection import HttpConnection
from workers.status import listen

PATIENCE_S = 0.3


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where an application listens that reads a body to its end."""
    monkeypatch.setattr(http_connection, "REQUEST_WITHIN_S", PATIENCE_S)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=HttpConnection, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        eventually(lambda: server.started, "it listens")
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def answers(client: socket.socket) -> bytes:
    """All that comes until the connection is closed; fails where it stays open."""
    client.settimeout(30)
    found = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            found += piece
    return found


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", GET[:-2], POST, POST + b"x", GET + b"GET", GET + POST + b"x"],
    ids=["nothing", "a letter", "half a head", "no body", "half a body", "a letter more", "half a body later"],
)
def test_a_request_that_does_not_come_to_its_end_is_not_waited_for(port: int, sent: bytes) -> None:
    """Also after others that did."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        assert answers(client).count(b"HTTP/1.1 200") == sent.count(GET)


def test_whoever_sends_a_byte_now_and_then_is_not_waited_for_either(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(POST)
        client.settimeout(PATIENCE_S / 10)
        eventually(lambda: is_cut(client), "it is cut off")


def is_cut(client: socket.socket) -> bool:
    """Whether the connection is gone; sends a byte and waits a moment."""
    try:
        client.sendall(b"x")
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_an_answer_on_a_connection_that_stays_open_is_sent_at_once() -> None:
    """Its body does not wait for the acknowledgement of its head, which takes 40 ms."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
