"""The servers that benchmarks run on: embedded and durable as `caselog up` has them, emptied for each turn."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import redis
from sqlalchemy import create_engine, make_url, text

from caselog.schema.migrations.upgrade import migrate
from caselog.workers.servers.embedded import EmbeddedServers, EmbeddedUrls, uninstall
from caselog.workers.servers.locate import Services, redis_py_url

RABBITMQ = ("127.0.0.1", 5672)


@contextmanager
def servers(*, redis: bool = True) -> Iterator[EmbeddedUrls]:
    """PostgreSQL and Redis on a directory of their own, with the settings of production; deleted afterwards."""
    # As Ctrl-C does it: `timeout`, or whoever else ends this process, leaves no server and no directory behind.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="caselog-bench-") as base:
        data_dir = Path(base) / "data"
        embedded = EmbeddedServers(data_dir, redis=redis)
        try:
            yield embedded.start()
        finally:
            embedded.stop()
            uninstall(data_dir)


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """The URL of an empty, migrated database on the server of `url`; dropped afterwards."""
    admin = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    name = f"bench_{time.monotonic_ns()}"
    with admin.connect() as connection:
        connection.execute(text(f"create database {name}"))
    try:
        database_url = make_url(url).set(database=name).render_as_string(hide_password=False)
        migrate(database_url)
        yield database_url
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"drop database {name} with (force)"))
            # What the turn before left to be written is not the next one's business.
            connection.execute(text("checkpoint"))
        admin.dispose()


@contextmanager
def fresh_services(urls: EmbeddedUrls, amqp_url: str | None = None) -> Iterator[Services]:
    """An empty database and an empty Redis; the raw events go through Redis, or RabbitMQ where its URL is given."""
    assert urls.database_url is not None
    assert urls.redis_url is not None
    with redis.Redis.from_url(redis_py_url(urls.redis_url)) as client:
        client.flushall()
    with fresh_database(urls.database_url) as database_url:
        yield Services(database_url, amqp_url or urls.redis_url, urls.redis_url)


@contextmanager
def virtual_host() -> Iterator[str | None]:
    """The URL of a virtual host of its own on this machine's RabbitMQ, deleted afterwards; None where there is none."""
    try:
        socket.create_connection(RABBITMQ, timeout=3).close()
    except OSError:
        yield None
        return
    name = f"caselog-bench-{uuid4().hex[:12]}"
    if shutil.which("rabbitmqctl") is None or _rabbitmqctl("add_vhost", name) != 0:
        yield None
        return
    try:
        _rabbitmqctl("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
        yield f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}/{name}"
    finally:
        _rabbitmqctl("delete_vhost", name)


def _rabbitmqctl(*arguments: str) -> int:
    return subprocess.run(
        ["rabbitmqctl", "--quiet", *arguments], capture_output=True, timeout=60, check=False
    ).returncode
