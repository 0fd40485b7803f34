"""`caselog up` as a process: what it starts, what it survives, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from support.processes.patience import DEADLINE_S
from support.servers.children import start_child
from support.servers.free_ports import free_port

from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.embedded import locate, uninstall
from caselog.workers.servers.redis import find_redis_server

REDIS = Path(find_redis_server()).name
# The command line's part in a few lines: run_up with children of the test's own, an error as one line and status 1.
UP = """
import json, sys
from caselog.events.errors import CaselogError
from caselog.workers.settings import load_settings
from caselog.workers.process.supervisor import Command
from caselog.workers.roles.up import run_up
try:
    sys.exit(run_up(load_settings(), False, [Command(*child) for child in json.loads(sys.argv[1])]))
except CaselogError as error:
    sys.exit(f"caselog: {error}")
"""
# A child that says which services it was given, and that it lives.
CHILD = """
import json, os, sys, time
urls = {name: value for name, value in os.environ.items() if name.endswith("_URL")}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps({"pid": os.getpid(), **urls}) + "\\n")
time.sleep(600)
"""


class Up:
    """One `caselog up` with two children."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        roles = [[name, [sys.executable, "-c", CHILD, str(home / name)]] for name in ("recorder", "status")]
        self.process = start_child(
            [sys.executable, "-c", UP, json.dumps(roles)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def told(self, child: str) -> list[dict[str, str]]:
        """What each start of the child wrote."""
        path = self.home / child
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self) -> list[int]:
        return [int(told["pid"]) for child in ("recorder", "status") for told in self.told(child)]

    def wait_until_it_runs(self) -> None:
        wait_for(lambda: self.process.poll() is not None or (self.told("recorder") and self.told("status")))
        assert self.process.poll() is None, self.process.communicate()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        output, complaints = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output, complaints


Start = Callable[..., Up]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "a home"
    directory.mkdir()
    return directory


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    started: list[Up] = []
    port = str(free_port())

    def up(**settings: str) -> Up:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CASELOG_")}
        ours = {"CASELOG_DATA_DIR": str(home / "data"), "CASELOG_HTTP_PORT": port}
        started.append(Up(home, {**inherited, **ours, **settings}))
        return started[-1]

    yield up
    for one in started:
        if one.process.poll() is None:
            one.stop()
    uninstall(home / "data")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"nothing within {DEADLINE_S:g} s"
        time.sleep(0.05)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def offspring(up: Up) -> list[psutil.Process]:
    """The children and the servers, all of which `up` started."""
    return psutil.Process(up.process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_migrates_runs_the_children_says_where_to_look_and_leaves_nothing_running(
    start: Start, home: Path, number: signal.Signals
) -> None:
    up = start()
    up.wait_until_it_runs()
    urls = locate(home / "data")
    assert urls is not None
    assert urls.database_url is not None
    for child in ("recorder", "status"):
        told = up.told(child)[0]
        assert told["CASELOG_DATABASE_URL"] == urls.database_url
        assert told["CASELOG_BROKER_URL"] == told["CASELOG_REDIS_URL"] == urls.redis_url
    asked = subprocess.run(
        [*caselog_program(), "settings", "--broker-url"],
        env={**os.environ, "CASELOG_DATA_DIR": str(home / "data")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == f"{urls.redis_url}\n"
    with psycopg.connect(urls.database_url) as connection:
        assert connection.execute("select count(*) from alembic_version").fetchone() == (1,)
    processes = offspring(up)
    names = sorted(process.name() for process in processes)
    assert REDIS in names
    assert "postgres" in names
    status, output, complaints = up.stop(number)
    assert (status, complaints) == (0, "")
    assert output.partition("\n")[0].startswith("caselog runs. Reading over HTTP is open: ")
    for hint in (
        "/healthcheck.json\n",
        "/reports\n",
        f"broker    {urls.redis_url}\n",
        str(home / "data"),
        " ping",
        " queues",
        " export cases",
        "report outcomes --from",
    ):
        assert hint in output
    assert not alive([process.pid for process in processes])
    assert locate(home / "data") is None


def test_a_second_one_on_the_same_directory_says_so_in_one_line_and_the_first_goes_on(start: Start) -> None:
    first = start()
    first.wait_until_it_runs()
    status, output, complaints = start().wait()
    assert (status, output) == (1, "")
    assert re.fullmatch(rf"caselog: caselog already runs on .*\(process {first.process.pid}\).*\n", complaints)
    assert first.stop()[0] == 0


def test_after_kill_9_the_next_one_starts_on_the_same_data(start: Start, home: Path) -> None:
    up = start()
    up.wait_until_it_runs()
    urls = locate(home / "data")
    assert urls is not None
    assert urls.database_url is not None
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("create table kept ()")
    up.process.kill()
    up.wait()
    first_children = up.pids()
    again = start()
    wait_for(lambda: again.process.poll() is not None or len(again.told("status")) == 2)
    assert again.process.poll() is None, again.wait()
    with psycopg.connect(urls.database_url) as connection:
        assert connection.execute("select to_regclass('kept') is not null").fetchone() == (True,)
    if sys.platform == "linux":
        assert not alive(first_children)
    assert again.stop()[0] == 0


def test_what_dies_is_started_again_children_and_servers(start: Start, home: Path) -> None:
    up = start()
    up.wait_until_it_runs()
    os.kill(int(up.told("recorder")[0]["pid"]), signal.SIGKILL)
    wait_for(lambda: len(up.told("recorder")) == 2)
    for process in offspring(up):
        if process.name() == REDIS or (process.name() == "postgres" and process.ppid() == up.process.pid):
            process.kill()
            process.wait(DEADLINE_S)
    wait_for(lambda: (urls := locate(home / "data")) is not None and urls.database_url and urls.redis_url)
    status, _, complaints = up.stop()
    assert status == 0
    for said in ("recorder was killed by signal 9", "embedded Redis had died", "embedded PostgreSQL had died"):
        assert said in complaints
    assert len(up.told("status")) == 1


def test_a_taken_port_is_one_line_that_names_the_setting_and_nothing_starts(start: Start, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, output, complaints = start(CASELOG_HTTP_PORT=str(taken.getsockname()[1])).wait()
    assert (status, output) == (1, "")
    assert re.fullmatch(r"caselog: CASELOG_HTTP_PORT: .*\n", complaints)
    assert locate(home / "data") is None


def test_a_stop_signal_during_the_start_leaves_nothing_running(start: Start, home: Path) -> None:
    up = start()
    wait_for((home / "data" / "lock").exists)
    processes = offspring(up)
    status, _, complaints = up.stop(signal.SIGINT)
    assert (status, complaints) == (0, "")
    assert not alive([process.pid for process in processes])
    assert locate(home / "data") is None


def test_servers_that_are_given_are_used_and_not_started(
    start: Start, home: Path, database_url: str, redis_url: str
) -> None:
    up = start(CASELOG_DATABASE_URL=database_url, CASELOG_BROKER_URL=redis_url)
    up.wait_until_it_runs()
    told = up.told("recorder")[0]
    assert told["CASELOG_DATABASE_URL"] == database_url
    assert told["CASELOG_BROKER_URL"] == told["CASELOG_REDIS_URL"] == redis_url
    assert locate(home / "data") is None
    assert not {"postgres", REDIS} & {process.name() for process in offspring(up)}
    assert up.stop()[0] == 0
