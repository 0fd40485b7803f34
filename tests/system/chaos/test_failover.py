"""A node of RabbitMQ and the primary of PostgreSQL die under load: what was confirmed is recorded, dead or waiting."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from brokers.broker_under_test import missing
from ledger import read
from rabbitmq import Node, find_programs
from rig import HERE
from support.oracle.proof import what_differs
from support.processes.pipeline import Pipeline, Worker, eventually
from support.servers.own_postgres import OwnPostgres

from caselog.events.model.registry import autodiscover

SEED = 11
PUBLISHERS = 2
NODES = 3


class Installation:
    """Three nodes, a primary with a synchronous standby, and workers and publishers that know all of them by lists."""

    def __init__(self, nodes: list[Node], primary: OwnPostgres, standby: OwnPostgres, redis_url: str) -> None:
        self.nodes, self.primary, self.standby = nodes, primary, standby
        self.directory = Path(tempfile.mkdtemp(prefix="caselog-failover-", dir="/tmp"))
        database = f"postgresql://{primary.user}@{primary.address},{standby.address}/{primary.database}"
        brokers = ";".join(f"amqp://guest:guest@127.0.0.1:{node.port}/caselog?heartbeat=5" for node in nodes)
        self.pipeline = Pipeline(self.directory, database, brokers, redis_url, CASELOG_BATCH_EVENTS="200")
        self._publishers: list[Worker] = []

    def start(self) -> list[Worker]:
        workers = [self.pipeline.start(role) for role in ("recorder", "recorder", "tasks")]
        for number in range(PUBLISHERS):
            ledger = str(self.directory / f"ledger-{number}")
            argv = [sys.executable, str(HERE / "ledger.py"), self.pipeline.broker_url, ledger, str(SEED), str(number)]
            environment = self.pipeline.environment(PYTHONPATH=str(HERE.parents[1]))
            self._publishers.append(Worker(argv, environment, self.directory / f"publisher-{number}.log"))
        return workers

    def confirmed(self) -> set[tuple[str, str]]:
        return {name for number in range(PUBLISHERS) for name in read(self.directory / f"ledger-{number}")[0]}

    def more_is_recorded(self, what: str) -> None:
        """Wait until events are recorded that were published from now on."""
        before = self.confirmed()
        eventually(lambda: len(self.confirmed()) >= len(before) + 100, f"publishers go on {what}")
        new = self.confirmed() - before
        eventually(lambda: what_stands(self).keys() >= new, f"recorders go on {what}")

    def end_publishers(self) -> None:
        for publisher in self._publishers:
            publisher.process.send_signal(signal.SIGTERM)
        eventually(lambda: not any(publisher.is_running() for publisher in self._publishers), "publishers end")

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.kill()
        self.pipeline.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    programs = find_programs()
    if programs is None:
        missing("there is no rabbitmq-server to start")
    directory = Path(tempfile.mkdtemp(prefix="caselog-nodes-", dir="/tmp"))
    started: list[Node] = []
    try:
        for number in range(NODES):
            started.append(Node(programs, directory / str(number), beside=started[0] if started else None))
            started[-1].start()
        for node in started:
            node.wait_until_ready()
        for node in started[1:]:
            node.join(started[0])
        yield started
    finally:
        for node in reversed(started):
            node.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def installation(nodes: list[Node], database_url: str, redis_url: str) -> Iterator[Installation]:
    with ExitStack() as stack:
        primary = stack.enter_context(OwnPostgres(database_url))
        standby = stack.enter_context(OwnPostgres(database_url, of=primary))
        primary.execute("alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
        synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'"
        eventually(lambda: primary.one(synchronous) == 1, "the standby is synchronous")
        one = Installation(nodes, primary, standby, redis_url)
        stack.callback(one.close)
        yield one


def leader_of(nodes: list[Node], asked: Node) -> Node:
    """The node on which the queue of events is led."""
    told = asked.control.output("list_queues", "--vhost", "caselog", "--no-table-headers", "name", "leader")
    leaders = dict(line.split("\t") for line in told.splitlines() if "\t" in line)
    return next(node for node in nodes if node.name == leaders["caselog.events"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_leader_and_the_primary_die_under_load_and_nothing_confirmed_is_lost_or_doubled(
    installation: Installation,
) -> None:
    one = installation
    workers = one.start()
    one.more_is_recorded("at first")

    leader = leader_of(one.nodes, one.nodes[0])
    assert leader.pid is not None
    os.kill(leader.pid, signal.SIGKILL)
    one.more_is_recorded("without the leader of the queue")

    one.primary.die()
    before = len(one.confirmed())
    eventually(lambda: len(one.confirmed()) > before, "publishers go on without a database")
    one.standby.promote()
    # Nobody follows the new primary yet: a commit must not wait for one.
    one.standby.execute("alter system reset synchronous_standby_names", "select pg_reload_conf()")
    one.more_is_recorded("on the promoted standby")

    one.end_publishers()
    confirmed = one.confirmed()
    eventually(one.pipeline.queue_is_empty, "the queue is empty")
    eventually(lambda: what_stands(one).keys() >= confirmed, "what was confirmed is recorded, dead or waiting")
    assert all(worker.is_running() for worker in workers), "nobody had to be started again"
    assert all(worker.stop(30) == 0 for worker in workers)
    stands = what_stands(one)
    assert [name for name, times in stands.items() if times > 1] == []
    assert confirmed - stands.keys() == set()
    assert len(confirmed) > 600
    one.pipeline.drain_reports()
    autodiscover()
    assert what_differs(one.standby.url) == []


def what_stands(one: Installation) -> Counter[Any]:
    """(source, id) of each place in which an event may be in the end."""
    with psycopg.connect(f"{one.pipeline.database_url}?target_session_attrs=read-write") as db:
        query = "select source, event_id from {}"
        tables = ("log", "dead_letter", "parked")
        return Counter(row for table in tables for row in db.execute(query.format(table).encode()).fetchall())
