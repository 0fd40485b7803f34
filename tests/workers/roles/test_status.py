"""The status worker as a process: its pages over HTTP, pings through the broker, and how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import httpx
import pytest
from redis import Redis
from support.processes.patience import DEADLINE_S, allowance_s
from support.servers.children import start_child

from caselog.events.transport.broker import PING_QUEUE, connect, queue_status
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.telemetry.heartbeat import Heartbeat

Start = Callable[..., "StatusWorker"]
STOPS_WITHIN_S = 5


class StatusWorker:
    """A running `caselog worker status`."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=DEADLINE_S)

    def wait_until_it_answers(self) -> None:
        deadline = monotonic() + DEADLINE_S
        while True:
            try:
                self.get("/livez")
            except httpx.TransportError:
                assert self.process.poll() is None, self.process.communicate()
                assert monotonic() < deadline, "the status worker does not answer"
                sleep(0.05)
            else:
                return


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def start(nobody: int) -> Iterator[Start]:
    """Starts a status worker with these settings; servers that are not named are away."""
    started: list[StatusWorker] = []

    def begin(**settings: str) -> StatusWorker:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        away = {
            "CASELOG_DATABASE_URL": f"postgresql://caselog@127.0.0.1:{nobody}/caselog",
            "CASELOG_BROKER_URL": f"redis://127.0.0.1:{nobody}/0",
            "CASELOG_HTTP_PORT": str(port),
        }
        process = start_child(
            [*caselog_program(), "worker", "status"],
            env=without_settings() | away | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(StatusWorker(port, process))
        started[-1].wait_until_it_answers()
        return started[-1]

    yield begin
    for worker in started:
        worker.process.kill()
        worker.process.communicate()


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CASELOG_")}


def run_caselog(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*caselog_program(), *arguments],
        env=without_settings() | settings,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_healthcheck_is_red_until_every_part_of_the_pipeline_works(
    database_url: str, broker_url: str, redis_url: str, start: Start
) -> None:
    """And `caselog ping`, through the broker, says the same with its exit status."""
    services = {
        "CASELOG_DATABASE_URL": database_url,
        "CASELOG_BROKER_URL": broker_url,
        "CASELOG_REDIS_URL": redis_url,
        "CASELOG_ACCEPT_LOSS": "1",  # the tests' PostgreSQL is a quick one
    }
    worker = start(**services)
    assert worker.get("/readyz").status_code == 200
    answer = worker.get("/healthcheck.json")
    assert answer.status_code == 503
    assert {name for name, check in answer.json().items() if not check["status"]} == {"*", "recorder", "tasks"}
    asked = run_caselog("ping", **services)
    assert asked.returncode == 1, asked.stderr
    assert "caselog worker recorder" in asked.stdout

    with Redis.from_url(redis_py_url(redis_url)) as client:
        Heartbeat(client, "recorder").beat(idle=True)
        Heartbeat(client, "tasks").beat(idle=True)
    answer = worker.get("/healthcheck.json")
    assert answer.status_code == 200
    assert all(check["status"] is True for check in answer.json().values())
    asked = run_caselog("ping", **services)
    assert asked.returncode == 0, asked.stderr


def test_with_its_servers_away_it_lives_but_is_not_ready(start: Start) -> None:
    worker = start()
    assert worker.get("/livez").status_code == 200
    ready = worker.get("/readyz")
    assert ready.status_code == 503
    assert {name: check["status"] for name, check in ready.json().items()} == {
        "*": False,
        "database": False,
        "broker": False,
    }


def test_it_lives_while_a_check_hangs(start: Start) -> None:
    """The page that asks the servers waits for its answer; the others do not wait for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        worker = start(CASELOG_DATABASE_URL=f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x")
        with socket.create_connection(("127.0.0.1", port_of(worker))) as slow:
            slow.sendall(b"GET /healthcheck.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert worker.get("/livez").status_code == 200
            slow.setblocking(False)  # noqa: FBT003 - the standard library's
            with pytest.raises(BlockingIOError):
                slow.recv(1)
            slow.settimeout(30)
            assert slow.recv(12) == b"HTTP/1.1 503"


def test_ping_json_says_what_was_built_and_501_where_it_does_not_know(start: Start) -> None:
    answer = start(CASELOG_COMMIT_ID="abc").get("/ping.json")
    assert answer.status_code == 501
    assert answer.json()["commit_id"] == "abc"
    assert answer.json()["build_date"] is None

    built = {"version_number": "1.2.3", "build_date": "2026-11-22", "commit_id": "abc", "build_tag": "t"}
    answer = start(**{f"CASELOG_{name.upper()}": value for name, value in built.items()}).get("/ping.json")
    assert answer.status_code == 200
    assert answer.json() == built


def test_every_answer_is_plain_guarded_and_never_cached(start: Start) -> None:
    worker = start()
    expected = {"/": 200, "/livez": 200, "/ping.json": 501, "/readyz": 503, "/healthcheck.json": 503, "/nope": 404}
    for path, status in expected.items():
        answer = worker.get(path)
        assert answer.status_code == status, path
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        if path != "/":
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()
        head = httpx.head(worker.url + path, timeout=DEADLINE_S)
        assert (head.status_code, head.content) == (status, b""), path
    refused = httpx.post(f"{worker.url}/livez", timeout=DEADLINE_S)
    assert (refused.status_code, refused.json()["status"]) == (405, 405)


def test_the_front_page_links_to_pages_that_exist_and_loads_nothing_from_elsewhere(start: Start) -> None:
    worker = start()
    page = worker.get("/")
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'href="([^"]+)"', page.text)
    assert links
    assert all(worker.get(f"/{link}").status_code not in {404, 500} for link in links)
    assert "//" not in page.text


def test_a_port_that_is_taken_is_one_line_that_names_the_setting(nobody: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_caselog(
            "worker",
            "status",
            CASELOG_HTTP_PORT=str(taken.getsockname()[1]),
            CASELOG_DATABASE_URL=f"postgresql://x@127.0.0.1:{nobody}/x",
            CASELOG_BROKER_URL=f"redis://127.0.0.1:{nobody}/0",
        )
    assert ended.returncode == 1
    assert "CASELOG_HTTP_PORT" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_soon(redis_url: str, start: Start, number: signal.Signals) -> None:
    """Also while a client keeps its connection open; without a traceback, and without leaving a consumer behind."""
    worker = start(CASELOG_BROKER_URL=redis_url)
    with socket.create_connection(("127.0.0.1", port_of(worker))) as kept:
        kept.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert kept.recv(15) == b"HTTP/1.1 200 OK"
        worker.process.send_signal(number)
        _, errors = worker.process.communicate(timeout=allowance_s(STOPS_WITHIN_S))
    assert worker.process.returncode == 0
    assert "Traceback" not in errors
    with connect(redis_url) as connection:
        assert queue_status(connection, PING_QUEUE.name).consumers == 0


def port_of(worker: StatusWorker) -> int:
    return int(worker.url.rpartition(":")[2])
