"""/metrics: the workers' totals, and what queues, database, heartbeats and health checks say now, for Prometheus.

Each source is asked in a thread of its own and waited for 3 seconds: where one is away, its metrics are left out (they
are not known, which is not zero), `caselog_source_up` says so, and the others are there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

import redis
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from caselog.events.errors import REASONS
from caselog.events.transport.broker import PING_QUEUE, QueueStatus, connect, queue_status
from caselog.schema.operations import pause as pausing
from caselog.schema.recording import dead_letters, parking
from caselog.schema.reports import outbox
from caselog.schema.sessions.connection import limit_statements
from caselog.schema.sessions.replication import Standbys, find_standbys
from caselog.workers.health.checks import ALL, STATEMENT_TIMEOUT_MS, WITHIN_S, Health
from caselog.workers.health.queues import raw_events_status, removed_statuses
from caselog.workers.telemetry.counters import (
    COUNTERS,
    ENDLESS,
    HISTOGRAMS,
    OTHER,
    SUM,
    CounterFamily,
    Field,
    HistogramFamily,
)
from caselog.workers.telemetry.heartbeat import YOUNG_S, Beat, read_beats
from caselog.workers.telemetry.totals import bucket_counts, read_gauges, read_totals

ROLES: Final = ("recorder", "tasks")


class Exposition(Collector):
    """The metrics of one installation. Thread-safe; a source that is being asked is waited for, not asked twice."""

    def __init__(
        self, engine: Engine, broker_url: str, client: redis.Redis, health: Health, build: Mapping[str, str | None]
    ) -> None:
        """`build` is what /ping.json says; `client` should have socket timeouts."""
        self._engine = engine
        self._broker_url = broker_url
        self._client = client
        self._health = health
        self._build = build
        self._sources: dict[str, Callable[[], list[Metric]]] = {
            "redis": self._workers,
            "broker": self._queues,
            "database": self._stored,
        }
        self._running: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format. Blocks for about `WITHIN_S` seconds at most; raises nothing."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Each family of metrics once."""
        runs = {source: self._join(source) for source in self._sources}
        yield _gauge("caselog_build_info", "The version that runs; always 1.", ("version", "commit"), self._built())
        checks = self._health.check()
        yield _gauge(
            "caselog_health_check_status",
            "Whether a check of /healthcheck.json is green (1) or red (0).",
            ("check",),
            {(name,): float(check.status) for name, check in checks.items() if name != ALL},
        )
        yield _gauge(
            "caselog_health_check_accepted",
            "Whether a check is green only because a setting accepts what is wrong (1): CASELOG_ACCEPT_LOSS.",
            ("check",),
            {(name,): float(check.accepted) for name, check in checks.items() if name != ALL},
        )
        yield _gauge(
            "caselog_health_check_warning",
            "Whether a green check warns (1): of standbys of which none is synchronous.",
            ("check",),
            {(name,): float(check.warning) for name, check in checks.items() if name != ALL},
        )
        missing = self._health.missing_events
        yield _gauge(
            "caselog_continuity_missing_events",
            "Recorded, parked and dead-lettered events that the database has lost. Absent where nobody can know.",
            (),
            {} if missing is None else {(): float(missing)},
        )
        found = {source: run.outcome(WITHIN_S) for source, run in runs.items()}
        yield _gauge(
            "caselog_source_up",
            "Whether this source of metrics answered (1); where it did not (0), its metrics are left out.",
            ("source",),
            {(source,): float(metrics is not None) for source, metrics in found.items()},
        )
        for metrics in found.values():
            yield from metrics or ()

    def _join(self, source: str) -> _Run:
        with self._lock:
            run = self._running.get(source)
            if run is None or run.is_over:
                run = self._running[source] = _Run(source, self._sources[source])
            return run

    def _built(self) -> dict[tuple[str, ...], float]:
        return {(self._build.get("version_number") or "", self._build.get("commit_id") or ""): 1.0}

    def _workers(self) -> list[Metric]:
        totals = read_totals(self._client)
        beats = read_beats(self._client)
        pools = read_gauges(self._client)
        ages_s = {role: [beat.vital_age_s for beat in beats if beat.role == role] for role in ROLES}
        return [
            *(_counter(family, totals) for family in COUNTERS),
            *(_histogram(family, totals) for family in HISTOGRAMS),
            _gauge(
                "caselog_heartbeat_age_seconds",
                "Age of a role's youngest heartbeat, which proves work or an empty queue. Absent: none within minutes.",
                ("role",),
                {(role,): min(ages) for role, ages in ages_s.items() if ages},
            ),
            _gauge(
                "caselog_workers",
                f"Worker processes whose heartbeat is younger than {YOUNG_S:g} s.",
                ("role",),
                {(role,): float(sum(age_s < YOUNG_S for age_s in ages)) for role, ages in ages_s.items()},
            ),
            _gauge(
                "caselog_database_pool_in_use_connections",
                "Connections to the database that workers hold just now.",
                ("role",),
                {(role,): float(pool.pool_in_use) for role, pool in pools.items() if role in ROLES},
            ),
            _gauge(
                "caselog_database_pool_max_connections",
                "Connections to the database that the workers of a role may hold together.",
                ("role",),
                {(role,): float(pool.pool_size) for role, pool in pools.items() if role in ROLES},
            ),
        ]

    def _queues(self) -> list[Metric]:
        with connect(self._broker_url) as connection:
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            found = [
                raw_events_status(connection, self._beats()),
                *removed_statuses(connection),
                queue_status(connection, PING_QUEUE.name),
            ]

        def gauge(name: str, help_: str, value: Callable[[QueueStatus], float | None]) -> Metric:
            values = {(status.queue,): value(status) for status in found}
            return _gauge(name, help_, ("queue",), {key: known for key, known in values.items() if known is not None})

        return [
            gauge("caselog_queue_ready_messages", "Messages that wait in a queue.", lambda status: status.ready),
            gauge(
                "caselog_queue_unacked_messages",
                "Messages that consumers hold; on RabbitMQ as the recorders say, of the raw events alone.",
                lambda status: status.unacked,
            ),
            gauge(
                "caselog_queue_oldest_age_seconds",
                "Age of a queue's oldest message; 0 where there is none. Absent where the broker cannot tell.",
                _oldest_age_s,
            ),
            gauge("caselog_queue_consumers", "Consumers of a queue.", lambda status: status.consumers),
        ]

    def _beats(self) -> list[Beat]:
        """The heartbeats; none while Redis is away, which must not hide the queues of a RabbitMQ."""
        try:
            return read_beats(self._client)
        except redis.RedisError:
            return []

    def _stored(self) -> list[Metric]:
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            lag = outbox.lag(db)
            parked = parking.count_parked(db)
            dead = dead_letters.count_by_reason(db)
            pause = pausing.find_pause(db)
            standbys = find_standbys(db)
        by_reason: dict[tuple[str, ...], float] = {(reason,): 0.0 for reason in (*REASONS, OTHER)}
        for reason, letters in dead.items():
            by_reason[reason if (reason,) in by_reason else OTHER,] += letters
        return [
            _gauge("caselog_outbox_deltas", "Report deltas that are not added up yet.", (), {(): lag.deltas}),
            _gauge(
                "caselog_outbox_oldest_age_seconds",
                "Age of the oldest report delta; 0 where there is none.",
                (),
                {(): lag.oldest_age_s or 0.0},
            ),
            _gauge(
                "caselog_parked_events",
                "Events that wait for their case, which does not exist yet (waiting) or now does (ready).",
                ("state",),
                {("waiting",): parked.waiting, ("ready",): parked.ready},
            ),
            _gauge(
                "caselog_parked_oldest_age_seconds",
                "Since the oldest parked event was parked; 0 where there is none.",
                (),
                {(): parked.oldest_age_s or 0.0},
            ),
            _gauge("caselog_dead_letters", "Dead letters there are now, by reason.", ("reason",), by_reason),
            _gauge(
                "caselog_replication_standbys",
                "Standbys of PostgreSQL that are connected; unknown where only pg_monitor may see.",
                ("kind",),
                {
                    ("synchronous",): standbys.synchronous,
                    ("asynchronous",): standbys.asynchronous,
                    ("unknown",): standbys.hidden,
                },
            ),
            _gauge(
                "caselog_replication_lag_bytes",
                "WAL that the standby furthest behind has not on its disk. 0 without standbys; absent where unknown.",
                (),
                _lag(standbys),
            ),
            _gauge(
                "caselog_paused",
                "1 while all recorders are paused, by a person or by the breaker; else 0.",
                ("by",),
                {
                    ("person",): float(pause is not None and not pause.is_breakers),
                    ("breaker",): float(pause is not None and pause.is_breakers),
                },
            ),
        ]


class _Run:
    """One source being asked, in a thread of its own."""

    def __init__(self, source: str, ask: Callable[[], list[Metric]]) -> None:
        self._ask = ask
        self._started_s = time.monotonic()
        self._ended = threading.Event()
        self._found: list[Metric] | None = None
        # A daemon: where a server never answers, the thread must not keep the process.
        threading.Thread(target=self._work, name=f"metrics {source}", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    def outcome(self, within_s: float) -> list[Metric] | None:
        """What the source said; None where it failed, or has not answered `within_s` seconds after it was asked."""
        self._ended.wait(max(0.0, self._started_s + within_s - time.monotonic()))
        return self._found

    def _work(self) -> None:
        try:
            self._found = self._ask()
        except Exception:  # noqa: BLE001 - whatever a driver raises: the health check of the same server says what
            self._found = None
        finally:
            self._ended.set()


def _lag(standbys: Standbys) -> dict[tuple[str, ...], float]:
    if standbys.total == 0:
        return {(): 0.0}
    return {} if standbys.lag_bytes is None else {(): float(standbys.lag_bytes)}


def _oldest_age_s(status: QueueStatus) -> float | None:
    return 0.0 if status.ready == 0 and not status.unacked else status.oldest_age_s


def _gauge(name: str, help_: str, labels: Iterable[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=tuple(labels))
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _counter(family: CounterFamily, totals: Mapping[Field, float]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    values: dict[Field, float] = dict.fromkeys(((name,) for name in family.known) if family.labels else ((),), 0.0)
    values |= {
        labels: total
        for (name, *rest), total in totals.items()
        if name == family.name and len(labels := tuple(rest)) == len(family.labels)
    }
    for labels, total in values.items():
        metric.add_metric(labels, total)
    return metric


def _histogram(family: HistogramFamily, totals: Mapping[Field, float]) -> Metric:
    counts = bucket_counts(family, totals)
    edges = [*(f"{edge:g}" for edge in family.edges), ENDLESS]
    metric = HistogramMetricFamily(family.name, family.help)
    metric.add_metric((), list(zip(edges, accumulate(counts), strict=True)), totals.get((family.name, SUM), 0.0))
    return metric
