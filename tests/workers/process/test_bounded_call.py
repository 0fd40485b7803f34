"""Commands that people wait for end in time, whatever a server does; they name the server that is silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from support.processes.patience import allowance_s
from support.processes.pipeline import Pipeline

from caselog.workers.process.bounded_call import NoAnswerInTime, bounded


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_what_the_call_returns_and_raises_is_passed_on() -> None:
    assert bounded(lambda: 5, 30, lambda: "late") == 5
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 30, lambda: "late")


def test_a_call_that_does_not_end_is_given_up_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(NoAnswerInTime, match="nobody came"):
        bounded(server.accept, 0.1, lambda: "nobody came")


SILENT = {
    "PostgreSQL": ("CASELOG_DATABASE_URL", "postgresql://caselog@127.0.0.1:{port}/caselog"),
    "Redis": ("CASELOG_REDIS_URL", "redis://127.0.0.1:{port}/0"),
    "the broker": ("CASELOG_BROKER_URL", "amqp://guest:guest@127.0.0.1:{port}/"),
}


@pytest.mark.parametrize("server", SILENT)
@pytest.mark.parametrize("command", [("queues", "--timeout", "1"), ("wait", "--timeout", "1"), ("wait",)])
def test_a_silent_server_is_named_in_time(
    redis_pipeline: Pipeline, silent: int, server: str, command: tuple[str, ...]
) -> None:
    """In one line. How long the process itself takes to start on this machine is measured beside it."""
    variable, url = SILENT[server]
    began_s = monotonic()
    assert redis_pipeline.run("queues").returncode == 0
    usual_s = monotonic() - began_s
    settings: dict[str, Any] = {variable: url.format(port=silent)}
    done = redis_pipeline.run(*command, **settings)
    took_s = monotonic() - began_s - usual_s
    assert (done.returncode, done.stdout) == (1, b"")
    [line] = done.stderr.decode().splitlines()
    assert server in line or "CASELOG" in line  # PostgreSQL's driver may have given up by itself
    assert took_s < 3 * usual_s + allowance_s(8)


@pytest.mark.parametrize("command", [("queues",), ("wait", "--timeout", "40")])
def test_a_database_that_is_away_is_said_at_once(redis_pipeline: Pipeline, command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = redis_pipeline.run(*command, CASELOG_DATABASE_URL=f"postgresql://caselog@127.0.0.1:{port}/caselog")
    assert done.returncode == 1
    assert done.stderr.startswith(b"caselog: PostgreSQL cannot be used")
    assert done.stderr.count(b"\n") == 1
