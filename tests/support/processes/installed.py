"""A recorder's road into the log and the eyes of a status worker in this process, on servers that fail over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis
from typer.testing import CliRunner, Result

from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.operations import dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.sessions.connection import fence_of, make_engine
from caselog.workers.cli import app
from caselog.workers.continuity.comparison import Verdict
from caselog.workers.continuity.counting import Counting
from caselog.workers.continuity.losses import Found, Losses
from caselog.workers.continuity.memory import Memory
from caselog.workers.health.checks import Check, Health
from caselog.workers.recording.batch import Recording
from caselog.workers.recording.outcome import Recorded
from caselog.workers.servers.locate import redis_py_url
from caselog.workers.settings import Settings
from support.oracle.proof import RULES
from support.oracle.stored import body
from support.processes.pipeline import created


class Installation:
    """A recorder's road into the log with its memory, and the eyes of a status worker, in this process."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        autodiscover()
        self.database_url, self.redis_url = database_url, redis_url
        self.client = redis.Redis.from_url(redis_py_url(redis_url))
        self.engine = make_engine(database_url)
        self.health = Health(self.engine, redis_url, self.client, Settings())
        self.memory: Memory
        self.recording: Recording | None = None
        self.start_recorder()

    def start_recorder(self, *, learn: bool = True) -> None:
        """Another process: it knows of the one before what Redis knows, at once or with its first batch."""
        self.stop_recorder()
        engine = make_engine(self.database_url, connections=1)
        self.memory = Memory(self.client, fence_of(engine))
        if learn:
            self.memory.learn()
        self.recording = Recording(engine, event_registry, RULES, counting=Counting(self.memory))

    def record(self, *cases: str) -> Recorded:
        """Each with a twin, in a batch of its own; Redis has been told when this returns."""
        return self.take(*(body(created(case), created(f"{case}-twin")) for case in cases))

    def take(self, *messages: bytes) -> Recorded:
        """Each a batch of its own; Redis has been told when this returns."""
        total = Recorded()
        for message in messages:
            assert self.recording is not None
            total.add(self.recording.record([decode(message)]))
        self.memory.flush()
        return total

    def retry_parked(self) -> Recorded:
        """Those whose case is there now; Redis has been told when this returns."""
        assert self.recording is not None
        total = self.recording.retry_parked()
        self.memory.flush()
        return total

    def requeue(self) -> Recorded:
        """All dead letters; Redis has been told when this returns."""
        assert self.recording is not None
        with self.engine.begin() as db:
            letters = list(dead_letter_queries.find(db, Filter()))
        total = self.recording.requeue(letters)
        self.memory.flush()
        return total

    def look(self) -> Found:
        return Losses(self.engine, self.client, fence_of(self.engine)).look(looked_up=None)

    def verdict(self) -> Verdict:
        return self.look().verdict

    def check(self, name: str = "continuity") -> Check:
        return self.health.check([name])[name]

    def command(self, *arguments: str) -> Result:
        settings = {"CASELOG_DATABASE_URL": self.database_url, "CASELOG_BROKER_URL": self.redis_url}
        return CliRunner().invoke(app, arguments, env={**settings, "CASELOG_OPERATOR": "ann"})

    def stop_recorder(self) -> None:
        if self.recording is not None:
            self.memory.stop()
            self.recording.engine.dispose()

    def close(self) -> None:
        self.stop_recorder()
        self.engine.dispose()
        self.client.close()


@contextmanager
def installed(database_url: str, redis_url: str) -> Iterator[Installation]:
    one = Installation(database_url, redis_url)
    try:
        yield one
    finally:
        one.close()


def logs(url: str) -> int:
    return int(asked(url, "select count(*) from log"))


def asked(url: str, query: str) -> Any:
    with psycopg.connect(url) as db:
        row = db.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def cases(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(count)]
