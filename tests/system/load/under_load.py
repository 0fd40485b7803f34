"""A whole pipeline under load, on servers of its own, looked at while it works; in the end every event is counted."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import footprint
import httpx
import psycopg
from footprint import Series
from redis import Redis
from steady import BEGUN, chunk, published
from support.oracle.proof import what_differs
from support.processes.pipeline import Pipeline, Worker, eventually
from support.servers.free_ports import free_port
from support.servers.virtual_host import VirtualHost

from caselog.events.model.registry import autodiscover
from caselog.workers.process.supervisor import STOP_WITHIN_S
from caselog.workers.servers.embedded import EmbeddedServers, uninstall
from caselog.workers.servers.locate import redis_py_url

HERE: Final = Path(__file__).parent
# Waiting when the recorders start, so that what a full batch takes up is taken up in the first minute.
WARM_CHUNKS: Final = 25
DRAIN_S: Final = 1800.0
# Asked for at each look, as a browser, Prometheus and a load balancer do.
PAGES: Final = ("/", "/metrics", "/healthcheck.json", "/reports/outcomes")
EXPORT_EVERY_S: Final = 60.0
SETTINGS: Final = {
    "CASELOG_PARKED_GIVE_UP_S": "30",  # what waits for a case that never comes, does not heap up
    "CASELOG_HEALTH_DEAD_LETTER_S": "0",  # some events are meant to die
    "CASELOG_BREAKER_COUNT": "0",
}
WAITED: Final = """
    with recent as materialized (
        select id, occurred_at, extract(epoch from pg_xact_commit_timestamp(xmin) - occurred_at)::float8 as waited_s
        from log where id > %s
    )
    select max(id), count(*), percentile_disc(0.5) within group (order by waited_s),
           percentile_disc(0.95) within group (order by waited_s) from recent
"""
# A recorder may have some seconds of older events in hand than those that another one has just recorded.
NEWEST: Final = """
    select max(occurred_at),
           least(max(occurred_at), min(occurred_at) filter (where recorded_at > now() - interval '3 s'))
    from (select occurred_at, recorded_at from log order by id desc limit 5000) as newest
"""


@dataclass
class Look:
    """One look at all of it, `at_s` seconds after the start. `oldest_s`: at least and at most, while health was asked.

    `waiting` does not count what recorders have of RabbitMQ's, which cannot tell it. What an event waited is None where
    nothing was recorded since the look before.
    """

    at_s: float
    waiting: int
    oldest_s: tuple[float, float]
    recorded: int
    waited_median_s: float | None
    waited_95_s: float | None
    red: list[str]
    processes: dict[str, dict[str, float]]
    redis_mib: float
    sessions: int


@dataclass
class UnderLoad:
    """Servers, workers and publishers, until `close`. `broken` names each promise that did not hold."""

    directory: Path
    broker: str
    rate: float
    recorders: int = 2
    settings: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cleanup = ExitStack()
        self._names: list[str] = []
        self._last_id = 0
        self._exported_s = -EXPORT_EVERY_S
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        data = self.directory / "data"
        servers = EmbeddedServers(data)
        self._cleanup.callback(uninstall, data)
        self._cleanup.callback(servers.stop)
        urls = servers.start()
        assert urls.database_url is not None
        with psycopg.connect(urls.database_url, autocommit=True) as db:
            db.execute("alter system set track_commit_timestamp = on")
        servers.stop()
        urls = servers.start()
        assert urls.database_url is not None
        assert urls.redis_url is not None
        broker_url = urls.redis_url
        if self.broker == "rabbitmq":
            host = VirtualHost("load")
            self._cleanup.callback(host.close)
            broker_url = host.direct_url
        port = free_port()
        self.page_url = f"http://127.0.0.1:{port}"
        chosen = {**SETTINGS, "CASELOG_HTTP_PORT": str(port), **self.settings}
        self.pipeline = Pipeline(self.directory, urls.database_url, broker_url, urls.redis_url, **chosen)
        self._cleanup.callback(self.pipeline.close)
        self._db = self._cleanup.enter_context(psycopg.connect(urls.database_url, autocommit=True))
        self._redis = self._cleanup.enter_context(Redis.from_url(redis_py_url(urls.redis_url)))
        self._http = self._cleanup.enter_context(httpx.Client(base_url=self.page_url, timeout=30))
        migrated = self.pipeline.run("migrate")
        assert migrated.returncode == 0, migrated.stderr.decode()
        self._warm_up()
        self.workers = {f"recorder {n}": self.pipeline.start("recorder") for n in range(self.recorders)}
        self.workers |= {role: self.pipeline.start(role) for role in ("tasks", "status")}
        self.publishers: dict[str, Worker] = {}
        eventually(self._is_well, "all is well", within_s=120)
        self.publish("steady", self.rate)
        self._began_s = monotonic()

    def _warm_up(self) -> None:
        self._names.append("warm")
        self._told("warm").write_text(str(WARM_CHUNKS))
        now = datetime.now(UTC).isoformat()
        for position in range(WARM_CHUNKS):
            self.pipeline.publish([{**event, "time": now} for event in chunk("warm", position)])

    def publish(self, name: str, rate: float) -> None:
        """Start a publisher, and return when it is about to publish; 0: as quickly as the broker takes it."""
        arguments = [str(HERE / "steady.py"), self.pipeline.broker_url, str(self._told(name)), name, str(rate)]
        environment = self.pipeline.environment()
        worker = Worker([sys.executable, *arguments], environment, self.directory / f"publisher-{name}.log")
        self.publishers[name] = worker
        self._cleanup.callback(worker.kill)
        self._names.append(name)
        eventually(lambda: BEGUN in worker.said(), f"{name} publishes", within_s=120)

    def end_publisher(self, name: str, within_s: float = 120.0) -> None:
        """It finishes what it has in hand, and the broker confirms it."""
        worker = self.publishers.pop(name)
        worker.process.terminate()
        if worker.process.wait(within_s):
            self.broken.append(f"publisher {name}: {worker.said()[-600:]}")

    @property
    def elapsed_s(self) -> float:
        return monotonic() - self._began_s

    # Looking

    def work(self, seconds: float, every_s: float, looks: int = 1) -> list[Look]:
        """Let it work for so long, and until there were so many looks, one every so many seconds. These looks."""
        end_s = monotonic() + seconds
        taken: list[Look] = []
        while (now_s := monotonic()) < end_s or len(taken) < looks:
            taken.append(self.look())
            sleep(max(0.0, now_s + every_s - monotonic()))
        return taken

    def look(self) -> Look:
        before_s = self._oldest_s()
        red = self._red()
        after_s = self._oldest_s()
        depth = self.pipeline.queue()
        last_id, recorded, median_s, most_s = self._row(WAITED, self._last_id)
        self._last_id = last_id or self._last_id
        processes = {
            name: footprint.of_tree(worker.pid) for name, worker in (self.workers | self._publishers_seen()).items()
        }
        for name, worker in (self.workers | self.publishers).items():
            if not worker.is_running():
                raise RuntimeError(f"{name} ended with status {worker.process.returncode}: {worker.said()[-600:]}")
        look = Look(
            at_s=self.elapsed_s,
            waiting=depth.ready + (depth.unacked or 0),
            oldest_s=(min(before_s[0], after_s[0]), max(before_s[1], after_s[1])),
            recorded=recorded,
            waited_median_s=median_s,
            waited_95_s=most_s,
            red=red,
            processes=processes,
            redis_mib=self._redis.info("memory")["used_memory"] / footprint.MIB,
            sessions=self._row("select count(*) from pg_stat_activity where application_name like 'caselog%%'")[0],
        )
        self.looks.append(look)
        if look.at_s - self._exported_s >= EXPORT_EVERY_S:
            self._exported_s = look.at_s
            self._export()
        return look

    def _oldest_s(self) -> tuple[float, float]:
        """For how long the oldest event has waited, at least and at most, told by the events recorded last.

        Events never cease, and are recorded about in the order in which they came.
        """
        now = datetime.now(UTC)
        newest, oldest = self._row(NEWEST)
        return (0.0, 0.0) if newest is None else ((now - newest).total_seconds(), (now - oldest).total_seconds())

    def _publishers_seen(self) -> dict[str, Worker]:
        return {f"publisher {name}": worker for name, worker in self.publishers.items()}

    def _red(self) -> list[str]:
        """The checks that are red; and every other page is read as well."""
        answers = {page: self._http.get(page) for page in PAGES}
        health = answers.pop("/healthcheck.json").json()
        self.broken += [
            f"{page} answered {answer.status_code}" for page, answer in answers.items() if answer.status_code != 200
        ]
        return [name for name, check in health.items() if not check["status"]]

    def _is_well(self) -> bool:
        try:
            return self._http.get("/healthcheck.json").status_code == 200
        except httpx.TransportError:
            return False

    def _export(self) -> None:
        words = ("report", "outcomes", "--from", "2020-01-01", "--to", "2035-12-31", "--format", "parquet")
        done = self.pipeline.run(*words, "--background")
        if done.returncode:
            self.broken.append(f"a report in the background: {done.stderr.decode()[-300:]}")

    def series(self) -> list[Series]:
        """Each quantity of each process that was there from beginning to end, and of the servers."""
        times_s = [look.at_s for look in self.looks]
        names = [name for name in self.looks[0].processes if all(look.processes.get(name) for look in self.looks)]
        found = [
            Series(name, what, times_s, [look.processes[name][what] for look in self.looks])
            for name in names
            for what in footprint.ALLOWED
        ]
        found.append(Series("Redis", "used memory, MiB", times_s, [look.redis_mib for look in self.looks]))
        found.append(Series("PostgreSQL", "sessions", times_s, [float(look.sessions) for look in self.looks]))
        return found

    # Afterwards

    def settle(self) -> None:
        """The publishers end, everything drains, and the workers stop in time."""
        for name in list(self.publishers):
            self.end_publisher(name)
        for what, query in (
            ("in the queue", ""),
            ("parked", "select count(*) from parked"),
            ("in the reports' outbox", "select count(*) from report_outbox"),
        ):
            deadline_s = monotonic() + DRAIN_S
            while not self.pipeline.queue_is_empty() if not query else self._row(query)[0]:
                if monotonic() > deadline_s:
                    self.broken.append(f"stuck {what}")
                    break
                sleep(0.2)
        self._stop_workers()

    def _stop_workers(self) -> None:
        for worker in self.workers.values():
            worker.process.terminate()
        deadline_s = monotonic() + STOP_WITHIN_S
        for name, worker in self.workers.items():
            while worker.is_running() and monotonic() < deadline_s:
                sleep(0.05)
            if worker.is_running():
                self.broken.append(f"{name} runs on after SIGTERM")
            elif worker.process.returncode:
                self.broken.append(f"{name} ended with status {worker.process.returncode}")
            if "Traceback" in worker.said():
                self.broken.append(f"{name} logged a traceback: {worker.log}")

    def count(self) -> None:
        """Each event has exactly one place, and what stands is what the log says."""
        expected = {event for name in self._names for event in published(self._told(name), name)}
        places: Counter[Any] = Counter()
        for table in ("log", "dead_letter", "parked"):
            rows = self._db.execute(f"select source, event_id from {table}".encode()).fetchall()
            self.numbers[table] = len(rows)
            places.update(rows)
        lost, strange = expected - places.keys(), places.keys() - expected
        doubled = [event for event, times in places.items() if times > 1]
        autodiscover()
        differences = what_differs(self.pipeline.database_url)
        self.numbers |= {
            "published": len(expected),
            "lost": len(lost),
            "doubled": len(doubled),
            "differences found by verify": len(differences),
        }
        for what, found in (
            ("lost", sorted(lost)),
            ("nobody published", sorted(strange)),
            ("doubled", doubled),
            ("verify", differences),
        ):
            if found:
                self.broken.append(f"{what}: {len(found)}, such as {found[:3]}")

    def _told(self, name: str) -> Path:
        return self.directory / f"published-{name}"

    def _row(self, query: str, *parameters: Any) -> Any:
        return self._db.execute(query.encode(), parameters).fetchone()
