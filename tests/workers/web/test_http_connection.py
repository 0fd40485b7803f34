"""Connections to the status worker: who sends slowly, or nothing, is not waited for; and answers are sent at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest
import uvicorn
from structlog.testing import capture_logs
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import eventually

from caselog.workers.roles.status import listen
from caselog.workers.web import connection
from caselog.workers.web.connection import HttpConnection

PATIENCE_S = 0.3


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """The port on which this application is asked."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=HttpConnection, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        eventually(lambda: server.started, "it listens")
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(DEADLINE_S)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where an application listens that reads a body to its end."""
    monkeypatch.setattr(connection, "REQUEST_WITHIN_S", PATIENCE_S)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with serving(app) as found:
        yield found


def answers(client: socket.socket) -> bytes:
    """All that comes until the connection is closed; fails where it stays open."""
    client.settimeout(30)
    found = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            found += piece
    return found


GET = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n"


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


def test_what_an_application_raises_is_told_once_in_full_and_then_as_a_number() -> None:
    """Whoever finds out how to make it raise does not fill the log, and nobody is left to think that it was once."""
    many = 100

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        if scope["path"] == "/other":
            raise LookupError("another one")
        raise ValueError("what was asked for")

    with capture_logs() as told, serving(app) as port:
        for path in ["/"] * many + ["/other"]:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
                assert answers(client).startswith(b"HTTP/1.1 500")
    assert all(line["log_level"] == "error" and line["address"] == "127.0.0.1" for line in told)
    assert [line.get("in_a_minute") for line in told] == [None, 2, 4, 8, 16, 32, 64, None]
    assert [str(line["exc_info"]) for line in told if "exc_info" in line] == ["what was asked for", "another one"]


BROKEN: Final = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("pieces", [[BROKEN, b"zzz\r\n"], [BROKEN + b"zzz\r\n"]], ids=["after the answer", "before it"])
def test_what_is_no_http_behind_a_request_ends_the_connection_and_raises_nothing(
    caplog: pytest.LogCaptureFixture, pieces: list[bytes]
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with serving(app) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(DEADLINE_S)
        client.sendall(pieces[0])
        first = client.recv(65536)
        assert first.split()[1] == (b"200" if len(pieces) > 1 else b"400")
        with suppress(OSError):
            client.sendall(b"".join(pieces[1:]))
        answers(client)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_answer_on_a_connection_that_stays_open_is_sent_at_once() -> None:
    """Its body does not wait for the acknowledgement of its head, which takes 40 ms."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
