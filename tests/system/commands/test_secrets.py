"""No password is said by any process: in its output, its log lines, its pages or its errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import ROOT, Pipeline, created, eventually
from support.servers.children import start_child
from support.servers.free_ports import free_port

from caselog.workers.servers.redis import find_redis_server

PIECES = ("Zq7X", "Wv9K", "zq7x", "wv9k")
ALL_AT_ONCE = "Zq7X/@:?#%[] ;&=+'\"\\Wv9Kß" + "Zq7X" * 200
PORT = 1  # nobody listens


def nothing_told(*outputs: bytes | str) -> None:
    for output in outputs:
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        for piece in PIECES:
            assert piece not in text, text[:5000]


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


@pytest.fixture
def away(tmp_path: Path, free_port: int) -> Iterator[Pipeline]:
    """A pipeline whose servers are all away, and whose passwords are as bad as they come."""
    secret = quote(ALL_AT_ONCE, safe="")
    pipeline = Pipeline(
        tmp_path,
        f"postgresql://anna:{secret}@127.0.0.1:{PORT},127.0.0.1:{PORT}/x?sslpassword={secret}",
        f"amqp://anna:{secret}@127.0.0.1:{PORT}/v;amqp://berta:{secret}@127.0.0.1:{PORT}/v",
        f"redis://:{secret}@127.0.0.1:{PORT}/0",
        CASELOG_HTTP_PORT=str(free_port),
        CASELOG_API_TOKENS=f"anna:operator+publisher:{'Zq7X' * 6}",
    )
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize(
    ("variable", "command"),
    [
        ("CASELOG_DATABASE_URL", ("ping",)),
        ("CASELOG_BROKER_URL", ("queues",)),
        ("CASELOG_DATABASE_URL", ("migrate",)),
        ("CASELOG_REDIS_URL", ("up",)),
        ("CASELOG_BROKER_URL", ("worker", "recorder")),
        ("CASELOG_DATABASE_URL", ("worker", "tasks")),
        ("CASELOG_REDIS_URL", ("worker", "status")),
    ],
)
def test_an_unescaped_password_is_one_line_whatever_is_run(
    away: Pipeline, variable: str, command: tuple[str, ...]
) -> None:
    scheme = {"CASELOG_DATABASE_URL": "postgresql", "CASELOG_BROKER_URL": "amqp", "CASELOG_REDIS_URL": "redis"}[
        variable
    ]
    away.settings[variable] = f"{scheme}://anna:12/Zq7X@Wv9K@h.example/x"
    done = away.run(*command)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(f"caselog: {variable}: ".encode())
    assert done.stderr.count(b"\n") == 1
    nothing_told(done.stderr)


@pytest.mark.parametrize(
    "command",
    [
        ("settings",),
        ("settings", "--json"),
        ("ping", "--timeout", "1"),
        ("queues",),
        ("wait", "--timeout", "1"),
        ("migrate",),
        ("verify",),
        ("exports", "list"),
        ("relay", "--once", "--database", f"postgresql://a:{quote('Zq7X/Wv9K', safe='')}@127.0.0.1:{PORT}/x"),
        ("relay", "--once", "--database", "postgresql://a:Zq7X/Wv9K@127.0.0.1/x"),
        ("export", "cases", "--output", "s3://key:Zq7XWv9K@bucket/x.jsonl"),
        ("report", "outcomes", "--background", "--to-url", "s3://key:Zq7XWv9K@bucket/x", "--format", "csv"),
    ],
    ids=" ".join,
)
def test_a_command_whose_servers_are_away_says_so_without_passwords(away: Pipeline, command: tuple[str, ...]) -> None:
    done = away.run(*command)
    nothing_told(done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    assert (done.returncode == 0) == (command[0] == "settings"), done.stderr


@pytest.mark.parametrize("role", ["recorder", "tasks", "status"])
def test_a_worker_whose_servers_are_away_says_so_without_passwords(away: Pipeline, free_port: int, role: str) -> None:
    worker = away.start(role)
    eventually(lambda: "refused" in worker.said() or not worker.is_running(), "it has tried to connect")
    if role == "status":
        for page in ("/healthcheck.json", "/metrics", "/", "/ping.json", "/reports"):
            client = HTTPConnection("127.0.0.1", free_port, timeout=DEADLINE_S)
            client.request("GET", page)
            nothing_told(client.getresponse().read())
            client.close()
    if worker.is_running():
        worker.stop(30)
    nothing_told(worker.said())


@pytest.mark.slow
def test_escaped_passwords_reach_the_servers_and_nothing_else(
    tmp_path: Path, database_url: str, free_port: int
) -> None:
    """A Redis that wants such a password, and a PostgreSQL that is offered it: all works, and no log line has it."""
    directory = tmp_path / "redis"
    directory.mkdir()
    argv = [find_redis_server(), "--port", "0", "--unixsocket", str(directory / "s"), "--requirepass", ALL_AT_ONCE]
    with (directory / "log").open("wb") as log:
        server = start_child(argv, stdout=log, stderr=log, cwd=directory)
    secret = quote(ALL_AT_ONCE, safe="")
    redis_url = f"redis+socket://:{secret}@{directory}/s"
    one = Pipeline(
        tmp_path,
        database_url.replace("caselog@", f"caselog:{secret}@"),
        redis_url,
        redis_url,
        CASELOG_HTTP_PORT=str(free_port),
    )
    try:
        eventually((directory / "s").exists, "Redis listens")
        workers = [one.start(role) for role in ("recorder", "tasks", "status")]
        one.publish([created("AB-1")])
        one.recorded(1)
        eventually(lambda: one.run("ping").returncode == 0, "all is well")
        nothing_told(*(one.run(*words).stdout for words in (("settings",), ("queues", "--json"))))
        assert all(worker.stop() == 0 for worker in workers)
        nothing_told(*(worker.said() for worker in workers))
        with Redis(unix_socket_path=str(directory / "s"), password=ALL_AT_ONCE) as client:
            assert client.ping()
    finally:
        one.close()
        server.terminate()
        server.wait(DEADLINE_S)


APP = """
import sqlalchemy

password = "not in the environment"
raise RuntimeError({said!r})
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("codes",), "cannot reach postgresql://app:Zq7X/Wv9K@db.example/x"),
        (("worker", "recorder"), "cannot connect with host=db.example password='Zq7X Wv9K' user=app"),
        (("worker", "tasks"), "connect(password='Zq7XWv9K')"),
        (("codes", "--check"), f"the database said no to {ALL_AT_ONCE}"),
    ],
)
def test_an_app_whose_import_fails_does_not_tell_how_it_connects(
    away: Pipeline, tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    app = tmp_path / "apps" / "claims_app"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "events.py").write_text(APP.format(said=said))
    done = away.run(*command, CASELOG_APPS="claims_app", PYTHONPATH=str(app.parent))
    assert done.returncode == 1
    assert b"claims_app.events failed to import: RuntimeError: " in done.stderr
    nothing_told(done.stdout, done.stderr)


def test_an_unexpected_error_is_a_traceback_without_passwords() -> None:
    """Whichever thread it ends, and at whatever is read of a chain of causes."""
    program = """
import sys, threading
from caselog.workers import cli
from caselog.events import credentials
credentials.keep(["Zq7X Wv9K"])
def fail():
    try:
        raise ValueError("postgresql://a:Zq7X@db/x")
    except ValueError as cause:
        raise KeyError("password='Zq7X Wv9K'", "Zq7X Wv9K") from cause
cli.app = lambda **_: (thread := threading.Thread(target=fail)).start() or thread.join() or fail()
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 1
    assert done.stderr.count(b"KeyError: ") == 2
    assert b"Exception in thread" in done.stderr
    nothing_told(done.stderr)


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_a_log_line_and_its_traceback_have_no_password(*, is_terminal: bool) -> None:
    """Nor the values of variables, which some tracebacks show; libraries' own lines likewise."""
    program = r"""
import logging
from caselog.events import credentials
from caselog.workers.process.logs import configure_logs, get_logger
configure_logs("x")
credentials.keep(["Zq7X Wv9K"])
password = url = "postgresql://a:Zq7X/Wv9K@db/x"
try:
    raise ValueError("no \x1b[2J to " + url)
except ValueError:
    get_logger().exception("it failed", url=url, more=[{"a": ("Zq7X Wv9K", url)}])
    logging.getLogger("library").exception("to %s", url)
"""
    if not is_terminal:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=True, timeout=DEADLINE_S
        )
        said = done.stderr
        assert len(said.splitlines()) == 2
    else:
        terminal, end = os.openpty()
        subprocess.run([sys.executable, "-c", program], stderr=end, cwd=ROOT, check=True, timeout=DEADLINE_S)
        os.close(end)
        said = b""
        with suppress(OSError):  # Linux tells the end of a terminal so
            while piece := os.read(terminal, 65536):
                said += piece
        os.close(terminal)
        assert b"\x1b[2J" not in said
    nothing_told(said)
    assert said.count(b"ValueError") >= 2
    assert b"it failed" in said
