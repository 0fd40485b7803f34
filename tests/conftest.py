"""The real servers that the tests share: one PostgreSQL, one Redis, and a virtual host of RabbitMQ where there is one.

Each run of pytest starts its own, in directories of its own: two runs side by side do not meet.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import amqp
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from kombu.utils.url import parse_url
from redis import Redis
from sqlalchemy import text
from support.oracle import proof
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline
from support.servers.pgbouncer import PROGRAM, PgBouncer

from caselog.events.model.registry import autodiscover
from caselog.events.transport import broker
from caselog.schema.sessions.connection import make_engine
from caselog.schema.verification.findings import Difference
from caselog.workers.continuity.memory import THREAD as MEMORY_THREAD
from caselog.workers.servers.embedded import EmbeddedServers, EmbeddedUrls, uninstall
from caselog.workers.servers.locate import redis_py_url

TEMPLATE = "caselog_template"
RABBITMQ = ("127.0.0.1", 5672)
# What earlier tests may have left in the virtual host, whatever the topology is called where it is defined.
AMQP_QUEUES = (
    "caselog.events",
    "caselog.events.removed",
    "caselog.events.held",
    "caselog.events.moving",
    "caselog.ping",
)
AMQP_EXCHANGES = ("caselog.events", "caselog.events.held", "caselog.pings")
_databases = itertools.count(1)
_redis_numbers = itertools.cycle(range(1, 16))


# How quick this machine is, or how busy, says nothing about the code.
settings.register_profile("caselog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("caselog")


class FailuresAsTheyCome:
    """Names each failure when it happens: a run takes minutes, and its end says why."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.ensure_newline()
            self._terminal.write_line(f"{'FAILED' if report.when == 'call' else 'ERROR'} {report.nodeid}", red=True)


@pytest.hookimpl(trylast=True)  # once the terminal's reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends a run as Ctrl-C does: fixtures are torn down, no server or directory stays."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAsTheyCome(terminal))


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedUrls]:
    """One PostgreSQL and one Redis for the whole run; quick settings; deleted at the end."""
    directory = Path(tempfile.mkdtemp(prefix="caselog-tests-"))
    embedded = EmbeddedServers(directory, durable=False)
    try:
        yield embedded.start()
    finally:
        embedded.stop()
        uninstall(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def make_database(servers: EmbeddedUrls) -> Callable[[str], str]:
    """A function that makes a database after a template's model and gives back its `postgresql://` URL."""

    def make(template: str) -> str:
        name = f"caselog_{next(_databases)}"
        _administer(servers, f"create database {name} template {template}")
        return _url_of(servers, name)

    return make


@pytest.fixture(scope="session")
def template(servers: EmbeddedUrls) -> str:
    """The name of a database that Alembic migrated, once a run; every test's database is a copy of it."""
    from caselog.schema.migrations.upgrade import migrate  # noqa: PLC0415 - tests that need no schema run without it

    _administer(servers, f"create database {TEMPLATE} template template0")
    migrate(_url_of(servers, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(
    servers: EmbeddedUrls, make_database: Callable[[str], str], template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A fresh, migrated database of this test's own, as a `postgresql://` URL.

    What the test recorded in it must be, at its end, what the log says; `unproven` excuses a test from that.
    """
    url = make_database(template)
    yield url
    excused = request.node.get_closest_marker("unproven") is not None
    differences = [] if excused else _unlike_its_log(url)
    _drop(servers, url)
    assert differences == []


def _unlike_its_log(url: str) -> list[Difference]:
    """What `caselog verify` would find."""
    engine = make_engine(url)
    try:
        with engine.connect() as db:
            if not db.execute(text("select exists (select 1 from log)")).scalar_one():
                return []
    finally:
        engine.dispose()
    autodiscover()
    return proof.what_differs(url)


@pytest.fixture(autouse=True)
def _memories_end_with_their_test() -> Iterator[None]:
    """One that goes on would tell the Redis database of a later test which server it met, as if that were emptied."""
    yield
    assert [thread for thread in threading.enumerate() if thread.name == MEMORY_THREAD] == [], "close the Recording"


@pytest.fixture
def empty_database_url(servers: EmbeddedUrls, make_database: Callable[[str], str]) -> Iterator[str]:
    """A fresh database of this test's own, without any table."""
    url = make_database("template0")
    yield url
    _drop(servers, url)


@pytest.fixture
def redis_url(servers: EmbeddedUrls) -> Iterator[str]:
    """An empty Redis database of this test's own, as a `redis+socket://` URL."""
    assert servers.redis_url is not None
    url = servers.redis_url.replace("virtual_host=0", f"virtual_host={next(_redis_numbers)}")
    with Redis.from_url(redis_py_url(url)) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture(scope="session")
def amqp_virtual_host() -> Iterator[str]:
    """An `amqp://` URL of a virtual host of this run's own, or of CASELOG_TEST_AMQP_URL; deleted at the end."""
    given = os.environ.get("CASELOG_TEST_AMQP_URL")
    if given:
        yield given
        return
    try:
        socket.create_connection(RABBITMQ, timeout=3).close()
    except OSError:
        _do_without("RabbitMQ does not answer on 127.0.0.1:5672")
    name = f"caselog-tests-{uuid4().hex[:12]}"
    if shutil.which("rabbitmqctl") is None or _rabbitmqctl("add_vhost", name) != 0:
        _do_without("rabbitmqctl cannot make a virtual host of the tests' own (it may want to be run as root)")
    try:
        assert _rabbitmqctl("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*") == 0
        yield f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}/{name}"
    finally:
        _rabbitmqctl("delete_vhost", name)


@pytest.fixture
def amqp_url(amqp_virtual_host: str) -> Iterator[str]:
    """RabbitMQ with none of our queues and exchanges in it, before and after."""
    _forget_topology(amqp_virtual_host)
    yield amqp_virtual_host
    _forget_topology(amqp_virtual_host)


@pytest.fixture
def make_pooler(database_url: str) -> Iterator[Callable[..., PgBouncer]]:
    """A function that starts a PgBouncer in front of this test's database; all are ended at the test's end."""
    if PROGRAM is None:
        _do_without("there is no pgbouncer", "install it: apt install pgbouncer")
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(PgBouncer(**{"database_url": database_url, **how}))


@pytest.fixture
def former_queue(amqp_url: str) -> None:
    """The queue of events as earlier versions declared it: RabbitMQ refuses to change it to what it is now."""
    with broker.connect(amqp_url) as connection, broker.open_channel(connection) as channel:
        broker.EVENTS_EXCHANGE(channel).declare()
        arguments = broker.FORMER_ARGUMENTS
        channel.queue_declare("caselog.events", durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind("caselog.events", "caselog.events", "event.#")


@pytest.fixture
def set_policy(amqp_url: str) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Sets a policy (a pattern of queues' names, and what it says) on the tests' virtual host, for one test.

    Set before a queue is declared, it is in force from that queue's first message.
    """
    if shutil.which("rabbitmqctl") is None:
        _do_without("there is no rabbitmqctl to set a policy with")
    vhost = parse_url(amqp_url)["virtual_host"] or "/"
    names: list[str] = []

    def set_one(pattern: str, definition: dict[str, Any]) -> None:
        names.append(f"test-{len(names)}")
        policy = (names[-1], pattern, json.dumps(definition))
        assert _rabbitmqctl("set_policy", "--vhost", vhost, "--apply-to", "queues", *policy) == 0

    yield set_one
    for name in names:
        _rabbitmqctl("clear_policy", "--vhost", vhost, name)


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each broker in turn: a test that takes this states a law that both keep."""
    fixture = {"redis": "redis_url", "rabbitmq": "amqp_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def pipeline(tmp_path: Path, database_url: str, broker_url: str, redis_url: str) -> Iterator[Pipeline]:
    """A pipeline of this test's own on each broker in turn, with no worker as yet; all are stopped at the end."""
    one = Pipeline(tmp_path, database_url, broker_url, redis_url)
    yield one
    one.close()


@pytest.fixture
def redis_pipeline(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Pipeline]:
    """A pipeline on Redis alone, for laws that have nothing to do with the broker."""
    one = Pipeline(tmp_path, database_url, redis_url, redis_url)
    yield one
    one.close()


def _do_without(reason: str, remedy: str = "start one, or set CASELOG_TEST_AMQP_URL") -> None:
    hint = f"{reason}; {remedy}"
    if os.environ.get("CASELOG_REQUIRE_SERVICES") == "1":
        pytest.fail(f"CASELOG_REQUIRE_SERVICES=1, but {hint}")
    pytest.skip(hint)


def _rabbitmqctl(*arguments: str) -> int:
    return subprocess.run(
        ["rabbitmqctl", "--quiet", *arguments], capture_output=True, timeout=DEADLINE_S, check=False
    ).returncode


def _forget_topology(url: str) -> None:
    parts = parse_url(url)
    with amqp.Connection(
        host=f"{parts['hostname']}:{parts['port'] or 5672}",
        userid=parts["userid"],
        password=parts["password"],
        virtual_host=parts["virtual_host"] or "/",
        ssl=url.startswith("amqps"),
    ) as connection:
        channel = connection.channel()
        for queue in AMQP_QUEUES:
            channel.queue_delete(queue)
        for exchange in AMQP_EXCHANGES:
            channel.exchange_delete(exchange)


def _administer(servers: EmbeddedUrls, statement: str) -> None:
    with psycopg.connect(_url_of(servers, "postgres"), autocommit=True) as connection:
        connection.execute(statement.encode())


def _drop(servers: EmbeddedUrls, url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    _administer(servers, f"drop database if exists {name} with (force)")


def _url_of(servers: EmbeddedUrls, database: str) -> str:
    assert servers.database_url is not None
    return servers.database_url.replace("/caselog?", f"/{database}?", 1)
